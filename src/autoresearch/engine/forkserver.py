"""The fork server of an engine, which is begun anew if it has ended, and the children that are forked of it."""

import contextlib
import ctypes
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from autoresearch.engine import children, environment
from autoresearch.engine.begun import Begun, no_python
from autoresearch.forks import Gone, Mode, order


class ForkServer:
    """One process of `harness.child`, and a line to it."""

    def __init__(
        self,
        device: str,
        scratch: Path,
        environ: Mapping[str, str],
        mechanisms: Callable[[], Sequence[str]] = tuple,
        replaceable: bool = False,
        begun: Begun | None = None,
    ) -> None:
        """device: what its children compute on. scratch: where folders of measurements lie. environ: the caller's.
        mechanisms: that make the sandbox of its children; called while it imports. replaceable: if it is killed before
        it is ready, that says nothing yet of the machine. begun: what it is from now on, or else that begins now.
        EngineError if Python cannot be started."""
        self._replaceable = replaceable
        self._begun = begun = begun or Begun(environ)
        self.forks = begun.forks
        with contextlib.ExitStack() as resources:  # all let go of, if something fails
            home = _folder(resources, scratch, begun)
            children.record(home, begun.process.pid)
            begun.tell(order(environment.own(home, home / "compiled"), home, (device, environ.get("HOME", ""))))
            begun.tell(",".join(mechanisms()))
            self._resources = resources.pop_all()

    @property
    def pid(self) -> int:
        return self._begun.process.pid

    def check(self) -> None:
        """EngineError if it has ended before it was ready: that is nobody's fault but the machine's."""
        if self.forks.gone and not self.forks.ready:
            code = self._begun.process.wait()
            if self._replaceable and code == -signal.SIGKILL:
                return
            self._begun.output.seek(0)
            lines = self._begun.output.read().decode(errors="replace").split("\n")
            end = f"it was ended by signal {-code}" if code < 0 else "it ended at once"
            raise no_python(next((line for line in reversed(lines) if line.strip()), end))

    def end(self, number: int) -> None:
        """End one of its processes, with all below it; or, if that cannot be, all of them and the server."""
        try:
            self.forks.end(number)
        except (Gone, TimeoutError):
            self.close()

    def close(self) -> None:
        """End it, with all that was forked of it. Again is nothing."""
        self._resources.close()


class Child:
    """One process at work. Its output goes to a log: an open file, which stays whatever becomes of its name."""

    def __init__(
        self, server: ForkServer, mode: Mode, task: Mapping[str, object], log: Path, env: Mapping[str, str], *fds: int
    ) -> None:
        """log: for what it prints. env: its HOME is the folder it works in. fds: that it finds from forks.FIRST on."""
        self._server = server
        self._log = log.open("a+b", buffering=0)
        self._number = server.forks.start(mode, task, env, Path(env["HOME"]), self._log.fileno(), *fds)

    def exit_code(self) -> int | None:
        """None while it runs; 128 + n if signal n ended it. EngineError if it could never begin."""
        code = self._server.forks.exit_code(self._number)
        self._server.check()
        return code

    def wait(self, seconds: float) -> None:
        """Until it ends, or the time is up."""
        self._server.forks.wait(seconds)

    def output(self, size: int) -> str:
        """The end of what it has printed, at most so many bytes."""
        start = max(0, os.fstat(self._log.fileno()).st_size - size)
        return os.pread(self._log.fileno(), size, start).decode(errors="replace")

    def trim(self, limit: int, keep: int) -> None:
        """Give back the disk of all but the end of what it has printed, if that takes more bytes than the limit."""
        file = self._log.fileno()
        there = os.fstat(file)
        if there.st_blocks * 512 <= limit or _punched(file, there.st_size - keep):
            return
        end = self.output(keep)  # what is printed from here on to the next line may be lost
        os.ftruncate(file, 0)  # open for appending, the file starts anew
        self._log.write(end.encode())

    def end(self) -> None:
        """Kill it and everything below it, now; returns when they are gone."""
        self._server.end(self._number)

    def close(self) -> None:
        """Let go of its output. After its end."""
        self._log.close()


def _folder(resources: contextlib.ExitStack, scratch: Path, begun: Begun) -> Path:
    """A folder for a process that has begun: as the resources are let go of, first the process ends."""
    try:
        home = resources.enter_context(children.home_for(scratch))
    finally:
        resources.callback(begun.close)
    return home


def _punched(file: int, length: int) -> bool:
    """Whether the beginning of a file, so many bytes, is a hole now; its length and the rest stay as they are."""
    fallocate = getattr(ctypes.CDLL(None), "fallocate", None)
    hole = 0x01 | 0x02  # FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE
    if fallocate is None:
        return False
    return bool(fallocate(file, hole, ctypes.c_int64(0), ctypes.c_int64(max(length, 1))) == 0)
