"""Where a command works: a git repository, with the ledger of its runs, and who may work on them now."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from filelock import FileLock, Timeout

from autoresearch import workspace
from autoresearch.errors import LedgerError, Misuse
from autoresearch.ledger import Ledger
from autoresearch.program import shipped
from autoresearch.schema import Run
from autoresearch.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Lab:
    """Opened on a folder in a git repository."""

    workspace: Workspace
    ledger: Ledger
    cache: Path  # corpora and scratch, shared by labs
    environ: Mapping[str, str]

    def run(self, tag: str | None) -> Run:
        """The run of a tag, or the one worked on last. Misuse if there is none."""
        runs = self.ledger.runs()
        if tag is None and runs:
            return runs[0]
        found = self.ledger.run(tag) if tag else None
        if found is None and not runs:
            raise LedgerError("no run has been started in this repository.", "Start one with `autoresearch run`.")
        if found is None:
            raise Misuse(f"there is no run {tag}.", f"There are {', '.join(run.tag for run in runs)}.")
        return found

    @contextmanager
    def lock(self, tag: str) -> Iterator[None]:
        """Only one process works on a run. Misuse if another does."""
        with _held(
            self._lock(workspace.check_tag(tag)),
            f"run {tag} is being worked on by another process.",
            f"See `autoresearch status --tag {tag}`; or start another run with --tag.",
        ):
            yield

    @contextmanager
    def replaying(self, tag: str) -> Iterator[None]:
        """Only one process replays a run, since each replay takes the next seed; the run itself may go on meanwhile.
        Misuse if another does."""
        with _held(
            self._lock(tag, "replay.lock"),
            f"a commit of run {tag} is being replayed by another process.",
            "Wait for it to end: the next replay takes the next seed.",
        ):
            yield

    def alive(self, tag: str) -> bool:
        """Whether a process works on a run now."""
        lock = self._lock(tag)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return True
        lock.release()
        return False

    def _lock(self, tag: str, name: str = "lock") -> FileLock:
        folder = self.ledger.folder / "runs" / tag
        folder.mkdir(parents=True, exist_ok=True)
        return FileLock(folder / name)


@contextmanager
def _held(lock: FileLock, taken: str, remedy: str) -> Iterator[None]:
    try:
        lock.acquire(timeout=1)
    except Timeout:
        raise Misuse(taken, remedy) from None
    try:
        yield
    finally:
        lock.release()


def open_lab(folder: Path, cache: Path, environ: Mapping[str, str], create: bool = True) -> Lab:
    """The lab around a folder. WorkspaceError if it is none; LedgerError if nothing was ever run and not `create`."""
    space = Workspace(folder)
    return Lab(space, Ledger(space.state, create=create), cache, environ)


def create(folder: Path) -> None:
    """A new lab: a git repository with the file to train, and programs to start from."""
    core = files("autoresearch").joinpath("train_core.py").read_text(encoding="utf-8")
    lab = {"train_core.py": core, "README.md": _README, ".gitignore": "__pycache__/\n"}
    for path in sorted(shipped().glob("*.md")):
        lab[f"programs/{path.name}"] = path.read_text(encoding="utf-8").replace(
            "edit: src/autoresearch/train_core.py", "edit: train_core.py"
        )
    workspace.create(folder, lab, "A lab for autoresearch")


_README = """# A lab

`train_core.py` is the file that experiments change; `programs/` holds what you ask of them, in Markdown.

    autoresearch prepare --program programs/tiny.md
    autoresearch run --program programs/tiny.md --experiments 7
    autoresearch status
    autoresearch log

`programs/tiny.md` needs no GPU; `programs/default.md` wants one with 80 GB, `programs/24gb.md` and `programs/8gb.md`
what their names say. What was kept is on the branch `autoresearch/tiny`.

A model proposes if ANTHROPIC_API_KEY or OPENAI_API_KEY is set, and else a search over the file's constants.
`autoresearch doctor` says whether keys, disk and GPU will do; it costs nothing.
"""
