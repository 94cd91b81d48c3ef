"""A serving process, as the judge holds it: started early, told to go when its turn comes, ended with all it began."""

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from autoresearch.forks import FIRST, Forks, Gone, own_folders
from autoresearch.harness.wire import AHEAD, COUNT, GO, Line, Refused, ServeTask, write_all

_ENDING = 15.0  # seconds until the exit code of a process that has closed its line is known
_LOG = 64_000  # bytes of the end of what a process has printed that go on to the judge's log


class Server:
    """One process in mode serve, forked of a server that knows no text. The candidate's code waits for `go`.

    It works in a fresh folder and prints to a file of its own: what an open process leaves, no sealed one finds.
    """

    def __init__(self, task: ServeTask, forks: Forks, folder: Path) -> None:
        """task: with `read` and `write` still to be set; folder: where its own folder is made."""
        own = Path(tempfile.mkdtemp(prefix=f"{task.mode}-", dir=folder))
        env = {**os.environ, **own_folders(own)}
        read, self._write = os.pipe()
        self._read, write = os.pipe()
        self._task, self._forks = dataclasses.replace(task, read=FIRST, write=FIRST + 1), forks
        self._log = own.with_name(f"{own.name}.log")
        with self._log.open("ab") as log:
            order = dataclasses.asdict(self._task)
            self._number = forks.start("serve", order, env, own, log.fileno(), read, write)
        os.close(read)
        os.close(write)

    def go(self) -> None:
        """Let the candidate's code in. Once, before anything is asked."""
        with contextlib.suppress(BrokenPipeError):  # then there is no answer either, which is told where it is awaited
            os.write(self._write, GO)

    def ask(self, frames: Iterator[bytes], count: int, deadline: float) -> Iterator[bytes]:
        """The reply to each of `count` frames, in order. Once. Raises Refused if there is none; TimeoutError at the
        deadline."""
        line = Line(self._read, self._write, deadline)
        line.send(count.to_bytes(COUNT, "little"))
        for frame in islice(frames, AHEAD):
            line.send(frame)
        try:
            line.receive(0)
            for _ in range(count):
                yield line.receive(self._task.reply_size)
                for frame in islice(frames, 1):
                    line.send(frame)
        except EOFError:
            code = self._forks.wait_for(self._number, _ENDING)
            how = f"was ended by signal {code - 128}" if code and code > 128 else "ended"
            raise Refused(f"the scoring process {how} before it had answered", killed=how != "ended") from None

    def stop(self) -> None:
        """End it and everything that it began, whatever that did to get away; returns when they are gone. Refused if
        that cannot be known."""
        try:
            self._forks.end(self._number)
        except Gone:
            raise Refused("the scoring process has ended more than itself", killed=True) from None
        except TimeoutError:
            raise Refused("the scoring process cannot be ended") from None

    def pass_on(self) -> None:
        """Print the end of what it has printed."""
        with contextlib.suppress(OSError), self._log.open("rb") as log:
            log.seek(max(0, os.fstat(log.fileno()).st_size - _LOG))
            write_all(2, log.read(_LOG))
