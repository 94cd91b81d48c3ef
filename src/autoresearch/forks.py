"""A line to a fork server (`harness.forkserver`), as those hold it who have processes forked there.

The line is a stream socket with messages of one size. Asked: `train`, `score` or `serve` with a number for the new
process, or `end` or `kill` with the number of one. Told: `ready`, and `ended` with a number and an exit code. What a
process is to do travels in a file without a name, which it alone reads.
"""

import json
import select
import socket
import struct
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

MARKER = "AUTORESEARCH_CHILD"  # in the environment of every child: the folder that it works in
MESSAGE = struct.Struct("!5sII")  # what, which process, exit code
FIRST = 3  # a child finds the descriptors that it is handed here, in order; its order is its standard input
LOST = 128 + 9  # the exit code of a process that went with its server

_PATIENCE = 15.0  # seconds for the server to end a process with all below it

Mode = Literal["train", "score", "serve"]


def own_folders(folder: Path) -> dict[str, str]:
    """Environment of a process whose home is `folder`, and whose files for a while lie there, too. They are made room
    for."""
    temporary = folder / "tmp"
    temporary.mkdir()
    return {"HOME": str(folder), "TMPDIR": str(temporary)}


def order(env: Mapping[str, str], folder: Path, task: object) -> str:
    """What a process is to be told, in one line of JSON: its environment, where it works, and its task."""
    return json.dumps({"env": dict(env), "folder": str(folder), "task": task})


class Gone(Exception):
    """The fork server has ended, and so has what it had forked."""


class Forks:
    """Processes of one fork server, by numbers that this side gives them. Closing the line ends them all."""

    def __init__(self, line: socket.socket) -> None:
        """line: connected to the server, which may still be starting: nothing here waits for it but `end`."""
        self._line = line
        self._line.setblocking(False)
        self._heard = b""
        self._last = 0
        self._codes: dict[int, int] = {}
        self.ready = False  # whether the server has ever been heard of
        self.gone = False

    def start(
        self, mode: Mode, task: Mapping[str, object], env: Mapping[str, str], folder: Path, log: int, *fds: int
    ) -> int:
        """The number of a new process, which works in `folder` with this environment alone and this task, as JSON.

        log: a descriptor for what it prints. fds: those it finds from FIRST on. It has no others.
        """
        self._last += 1
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(order(env, folder, task).encode())
            file.seek(0)
            self._send(mode, self._last, file.fileno(), log, *fds)
        return self._last

    def alive(self) -> bool:
        """Whether the server is, as far as has been heard."""
        self._hear()
        return not self.gone

    def exit_code(self, number: int) -> int | None:
        """None while it runs; 128 + n if signal n ended it; LOST if the server is gone."""
        self._hear()
        return self._codes.get(number, LOST if self.gone else None)

    def wait(self, seconds: float) -> None:
        """Until the server says something, or is gone, or the time is up."""
        select.select([] if self.gone else [self._line], [], [], seconds)

    def wait_for(self, number: int, seconds: float) -> int | None:
        """Its exit code, as soon as it has one; None if it has none when the time is up."""
        deadline = time.monotonic() + seconds
        while self.exit_code(number) is None and (left := deadline - time.monotonic()) > 0:
            self.wait(left)
        return self.exit_code(number)

    def end(self, number: int) -> None:
        """Kill it and all that it began; returns when they are gone. Raises Gone, and TimeoutError if nothing helps."""
        for how in ("end", "kill"):
            if self.exit_code(number) is None:
                self._send(how, number)
            self.wait_for(number, _PATIENCE)
            if self.gone:
                raise Gone
            if number in self._codes:
                return
        raise TimeoutError

    def close(self) -> None:
        """Let go of the line: the server ends, with all that it forked."""
        self.gone = True
        self._line.close()

    def _send(self, what: str, number: int, *fds: int) -> None:
        if self.gone:
            return
        try:
            socket.send_fds(self._line, [MESSAGE.pack(what.encode(), number, 0)], fds)
        except (ConnectionError, BlockingIOError):  # the second: it listens no more
            self.gone = True

    def _hear(self) -> None:
        while not self.gone:
            try:
                data = self._line.recv(4096)
            except BlockingIOError:
                return
            except ConnectionError:
                data = b""
            self.gone = not data
            self._heard += data
            whole = len(self._heard) // MESSAGE.size * MESSAGE.size
            for what, number, code in MESSAGE.iter_unpack(self._heard[:whole]):
                self.ready = True
                if what == b"ended":
                    self._codes[number] = code
            self._heard = self._heard[whole:]
