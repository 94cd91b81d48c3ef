"""A serving process, as the judge holds it: started early, told to go when its turn comes, ended with all it began."""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from autoresearch.harness.wire import AHEAD, COUNT, GO, Line, Refused, ServeTask

_PATIENCE = 15.0


class Server:
    """One `child` in mode serve. Starting it imports torch; the candidate's code waits for `go`."""

    def __init__(self, task: ServeTask, folder: Path) -> None:
        """task: with `read` and `write` still to be set; folder: where its task file may lie."""
        read, self._write = os.pipe()
        self._read, write = os.pipe()
        self._task = dataclasses.replace(task, read=read, write=write)
        order = {"mode": "serve", "parent": os.getpid(), "task": dataclasses.asdict(self._task)}
        file = folder / f"serve-{self._read}.json"  # our ends stay open, so the number is its own
        file.write_text(json.dumps(order))
        command = [sys.executable, "-P", "-m", "autoresearch.harness.child", str(file)]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=(read, write))
        os.close(read)
        os.close(write)
        self._stopped = False

    @property
    def pid(self) -> int:
        return self._process.pid

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
        """End it and everything below it, also what has left its session; returns when they are gone."""
        if self._stopped:
            return
        self._stopped = True
        for fd in (self._read, self._write):
            with contextlib.suppress(OSError):
                os.close(fd)
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
