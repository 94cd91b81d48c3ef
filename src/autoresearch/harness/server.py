"""A serving process, as the judge holds it: started early, told to go when its turn comes, ended with all it began."""

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from autoresearch.forks import FIRST, Forks, Gone
from autoresearch.harness.wire import AHEAD, COUNT, GO, Line, Refused, ServeTask


class Server:
    """One process in mode serve, forked of a server that knows no text. The candidate's code waits for `go`."""

    def __init__(self, task: ServeTask, forks: Forks, folder: Path) -> None:
        """task: with `read` and `write` still to be set; folder: where the process works."""
        read, self._write = os.pipe()
        self._read, write = os.pipe()
        self._task, self._forks = dataclasses.replace(task, read=FIRST, write=FIRST + 1), forks
        self._number = forks.start("serve", dataclasses.asdict(self._task), os.environ, folder, 2, read, write)
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
            raise Refused("the scoring process ended before it had answered") from None

    def stop(self) -> None:
        """End it and everything that it began, whatever that did to get away; returns when they are gone. Refused if
        that cannot be known."""
        try:
            self._forks.end(self._number)
        except Gone:
            raise Refused("the scoring process has ended more than itself") from None
        except TimeoutError:
            raise Refused("the scoring process cannot be ended") from None
