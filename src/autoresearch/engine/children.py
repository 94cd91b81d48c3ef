"""Child processes of a measurement: forked with little, ended with all they began.

Three nets, each for what the one before misses. Every child has a supervisor (`harness.supervise`) below a fork server
(`harness.forkserver`), which dies with this process. Who is at work is written down in a folder, so that the next start
can end what is left. And whatever a worker begins carries that folder in its environment, unless it clears that, and a
scan finds it there whatever it did to its parents.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
from pydantic import BaseModel, Field

from autoresearch.atomic import written
from autoresearch.engine.files import RECORD, read_plain, remove
from autoresearch.errors import EngineError
from autoresearch.forks import MARKER

_PATIENCE = 15.0  # seconds for killed processes to go
_PROCESSES = "children.json"


class _Record(BaseModel):
    """Who is at work on a measurement: (pid, start time) of the owner and of its children, and in which boot."""

    boot: str
    processes: tuple[tuple[int, float], ...] = Field(min_length=1)


@contextlib.contextmanager
def home_for(scratch: Path) -> Iterator[Path]:
    """A fresh folder, of a name not to be guessed; in the end no process of it is left, nor the folder."""
    try:
        scratch.mkdir(parents=True, exist_ok=True)
        home = Path(tempfile.mkdtemp(prefix="measurement-", dir=scratch)).resolve()
    except OSError as error:
        raise EngineError(
            f"{scratch} cannot be written: {error.strerror}.",
            "Free some space, or set AUTORESEARCH_CACHE to a folder on another disk.",
        ) from error
    try:
        record(home)
        yield home
    finally:
        kill_marked(home)
        remove(home)


def reap(scratch: Path) -> int:
    """End what measurements of a dead process left running under `scratch`, and remove their folders. Returns how many
    processes were ended. Measurements whose owner is alive are left alone."""
    ended = 0
    for home in sorted(scratch.glob("measurement-*")):
        record = _read(home)
        if record and record.boot == _boot_id():
            owner, *children = record.processes
            if _alive(owner):
                continue
            ended += sum(_kill_tree(child[0]) for child in children if _alive(child))
        ended += kill_marked(home)
        remove(home)
    return ended


def kill_marked(home: Path) -> int:
    """Kill every process that carries the folder in its environment, until none is found. Returns how many."""
    killed: set[int] = set()
    for _ in range(50):
        found = [process for pid in psutil.pids() if (process := _marked(pid, home))]
        if not found:
            break
        for process in found:
            killed.add(process.pid)
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(found, timeout=1.0)
    return len(killed)


def _marked(pid: int, home: Path) -> psutil.Process | None:
    """The process, if it carries the mark. Looked up afresh: a cached one refuses to kill where its id was reused."""
    try:
        process = psutil.Process(pid)
        return process if pid != os.getpid() and process.environ().get(MARKER, "").rstrip("/") == str(home) else None
    except (psutil.Error, OSError):
        return None


def _kill_tree(pid: int) -> int:
    below = []
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        below = [process, *process.children(recursive=True)]
    for one in below:
        with contextlib.suppress(psutil.Error):
            one.kill()
    psutil.wait_procs(below, timeout=_PATIENCE)
    return len(below)


def record(home: Path, *pids: int) -> None:
    """Write down who is at work here: this process first, which owns the folder, then its children."""
    known = _read(home) or _Record(boot=_boot_id(), processes=(_identity(os.getpid()),))
    known = known.model_copy(update={"processes": (*known.processes, *map(_identity, pids))})
    with written(home / _PROCESSES) as partial:
        partial.write_text(known.model_dump_json())


def _read(home: Path) -> _Record | None:
    try:
        return _Record.model_validate_json(read_plain(home / _PROCESSES, RECORD))
    except (OSError, ValueError):
        return None


def _identity(pid: int) -> tuple[int, float]:
    """A process id and when it began: together they name one process of one boot."""
    try:
        return pid, _began(pid)
    except psutil.Error:
        return pid, 0.0


def _alive(identity: tuple[int, float]) -> bool:
    pid, created = identity
    try:
        process = psutil.Process(pid)
        return abs(_began(pid) - created) < 1.0 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _began(pid: int) -> float:
    """When a process began: in ticks since the boot where the kernel tells, which no setting of the clock moves."""
    try:
        return float(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[19])
    except (OSError, LookupError, ValueError):
        return psutil.Process(pid).create_time()


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return str(round(psutil.boot_time(), -1))
