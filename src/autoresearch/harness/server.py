"""A serving process, as the judge holds it: started early, told to go when its turn comes, ended with all it began."""

import contextlib
import dataclasses
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from autoresearch.forks import FIRST, Forks, Gone, own_folders
from autoresearch.harness.files import compilers_caches
from autoresearch.harness.wire import AHEAD, COUNT, GO, Line, Refused, ServeTask, write_all

_ENDING = 15.0  # seconds until the exit code of a process that has closed its line is known
_LOG = 64_000  # bytes of the end of what a process has printed that go on to the judge's log


class Server:
    """One process in mode serve, forked of a server that knows no text. The candidate's code waits for `go`.

    It works in a fresh folder and prints to a file of its own: what an open process leaves, no sealed one finds. Of a
    file that cannot be opened, size, times and where a link leads are still told: so in the end it gets another name.
    """

    def __init__(self, task: ServeTask, forks: Forks, folder: Path) -> None:
        """task: with `read` and `write` still to be set; folder: where its own folder is made."""
        own = Path(tempfile.mkdtemp(prefix=f"{task.mode}-", dir=folder))
        self._left = [own, *(compilers_caches() if task.mode == "open" else ())]
        self._hidden: list[tuple[Path, Path]] = []  # where something was and where it is
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
        for path in [*self._left, self._log]:
            self._hide(path)

    def _hide(self, path: Path) -> None:
        """Give it a name that nobody can guess, in the judge's folder. Refused if it stays where it was."""
        hidden = self._log.with_name(secrets.token_hex(16))
        with contextlib.suppress(OSError):
            if stat.S_ISDIR(path.lstat().st_mode):
                path.chmod(0o700)  # or it could not be moved
            self._hidden.append((path, path.rename(hidden)))
        if os.path.lexists(path):  # on another disk
            shutil.rmtree(path, ignore_errors=True)
        if os.path.lexists(path):
            raise Refused("what the scoring process has left cannot be put away")

    def put_back(self) -> None:
        """What it has left is where it was. When no other process will be asked anything."""
        for path, hidden in self._hidden:
            with contextlib.suppress(OSError):
                hidden.rename(path)

    def pass_on(self) -> None:
        """Print the end of what it has printed."""
        with contextlib.suppress(OSError), self._log.open("rb") as log:
            log.seek(max(0, os.fstat(log.fileno()).st_size - _LOG))
            write_all(2, log.read(_LOG))
