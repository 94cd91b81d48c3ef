"""A serving process, as the judge holds it: told to go when its turn comes, and ended with all it began."""

import contextlib
import dataclasses
import fcntl
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from autoresearch import compilers
from autoresearch.forks import FIRST, Forks, Gone, own_folders
from autoresearch.harness.wire import (
    AHEAD,
    BROKEN,
    COUNT,
    FAILED,
    GO,
    NO_ROOM,
    ROOM,
    Line,
    Refused,
    ServeTask,
    write_all,
)

_ENDING = 15.0  # seconds until the exit code of a process that has closed its line is known
_PIPE = 2**20  # bytes that it takes, if it may
_TRACEBACK = 4096  # characters of it that are shown
_LOG = 64_000  # bytes of the end of what a process has printed that go on to the judge's log


class Server:
    """One process in mode serve, forked of a server that knows no text. In a sealed one the candidate's code waits for
    `go`; an open one rehearses before.

    It works in a fresh folder and prints to a file of its own: what an open process leaves, no sealed one finds. Of a
    file that cannot be opened, size, times and where a link leads are still told: so in the end it gets another name.
    """

    def __init__(self, task: ServeTask, forks: Forks, folder: Path) -> None:
        """task: with `read` and `write` still to be set; folder: where its own folder is made."""
        own = Path(tempfile.mkdtemp(prefix=f"{task.mode}-", dir=folder))
        self._log = own.with_name(f"{own.name}.log")
        self._left = [own, self._log, *(compilers.folders(os.environ) if task.mode == "open" else ())]
        env = {**os.environ, **own_folders(own)}
        read, self._write = _wide_pipe()
        self._read, write = _wide_pipe()
        self._task, self._forks = dataclasses.replace(task, read=FIRST, write=FIRST + 1), forks
        self._output = self._log.open("a+b")  # whatever becomes of its name
        self._begun = False  # whether it has been heard of: from then on the candidate's code may be at work
        order = dataclasses.asdict(self._task)
        self._number = forks.start("serve", order, env, own, self._output.fileno(), read, write)
        os.close(read)
        os.close(write)

    def rehearse(self, deadline: float) -> bool:
        """Wait until an open one is ready; False if there was no room for the model. Once. Refused if that cannot be
        scored, with the traceback that was printed, since no text is known there yet; TimeoutError at the deadline."""
        try:
            line = Line(self._read, self._write, deadline)
            with self._told_of_its_end(line):
                told = line.receive(1)
            if told not in (ROOM, NO_ROOM):
                raise Refused(BROKEN)
            return told == ROOM
        except Refused as error:
            _, failed, said = self._said(_LOG).decode(errors="replace").rpartition(f"{FAILED}\n")
            if not failed:
                raise
            first, _, traceback = said.strip().partition("\n")
            raise Refused(f"{error}: {first}", suspected=error.suspected, said=traceback[-_TRACEBACK:]) from None

    def give(self, compiled: bytes) -> None:
        """Give a sealed one what was compiled by a process that knew no target. Once, before it is told to go; waits
        until it has started, and takes that in."""
        with contextlib.suppress(BrokenPipeError):  # then there is no answer either, which is told where it is awaited
            write_all(self._write, len(compiled).to_bytes(COUNT, "little") + compiled)

    def go(self) -> None:
        """Let a sealed one's candidate in; or tell an open one that there are weights. Once, before all questions."""
        with contextlib.suppress(BrokenPipeError, BlockingIOError):
            write_all(self._write, GO)

    def ask(self, frames: Iterator[bytes], count: int, deadline: float) -> Iterator[bytes]:
        """The reply to each of `count` frames, in order. Once. Raises Refused if there is none; TimeoutError at the
        deadline."""
        line = Line(self._read, self._write, deadline)
        line.send(count.to_bytes(COUNT, "little"))
        for frame in islice(frames, AHEAD):
            line.send(frame)
        with self._told_of_its_end(line):
            line.receive(0)
            for _ in range(count):
                yield line.receive(self._task.reply_size)
                for frame in islice(frames, 1):
                    line.send(frame)

    @contextlib.contextmanager
    def _told_of_its_end(self, line: Line) -> Iterator[None]:
        """Refused in place of EOFError: suspected, if no code of the candidate has been at work yet."""
        try:
            if not self._begun:
                line.receive(0)
                self._begun = True
            yield
        except EOFError:
            code = self._forks.wait_for(self._number, _ENDING) or 0
            how = f"was ended by signal {code - 128}" if code > 128 else "ended"
            what = "it had answered" if self._begun else "it had begun"
            suspected = code > 128 or not self._begun
            raise Refused(f"the scoring process {how} before {what}", suspected) from None

    def stop(self) -> None:
        """End it and everything that it began, whatever that did to get away; returns when they are gone. Refused if
        that cannot be known."""
        try:
            self._forks.end(self._number)
        except Gone:
            raise Refused("the scoring process has ended more than itself", suspected=True) from None
        except TimeoutError:
            raise Refused("the scoring process cannot be ended") from None
        for path in self._left:
            self._hide(path)

    def _hide(self, path: Path) -> None:
        """Give it a name that nobody can guess, in the judge's folder. Refused if it stays where it was."""
        hidden = self._log.with_name(secrets.token_hex(16))
        with contextlib.suppress(OSError):
            if stat.S_ISDIR(path.lstat().st_mode):
                path.chmod(0o700)  # or it could not be moved
            path.rename(hidden)
        if os.path.lexists(path):  # on another disk
            shutil.rmtree(path, ignore_errors=True)
        if os.path.lexists(path):
            raise Refused("what the scoring process has left cannot be put away")

    def pass_on(self) -> None:
        """Print the end of what it has printed."""
        with contextlib.suppress(OSError):
            write_all(2, self._said(_LOG))

    def _said(self, size: int) -> bytes:
        """The end of what it has printed, at most so many bytes."""
        file = self._output.fileno()
        return os.pread(file, size, max(0, os.fstat(file).st_size - size))


def _wide_pipe() -> tuple[int, int]:
    """A pipe that takes a whole frame, or reply, at once, where the system lets it: else both sides wait for each other
    many times."""
    read, write = os.pipe()
    with contextlib.suppress(OSError, AttributeError):
        fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, _PIPE)
    return read, write
