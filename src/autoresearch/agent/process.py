"""Running a command of the user's: text in, text out, bounded in time and size, and gone when its parent is gone."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO

# Waits on a pipe of which only the house holds the other end. A byte: the command has ended. The end of the pipe: the
# house was killed, and the command must not stay behind. Portable, and takes grandchildren along.
_GUARD = "import os, signal, sys\nif not os.read(0, 1):\n    os.killpg(int(sys.argv[1]), signal.SIGKILL)\n"


@dataclass(frozen=True, slots=True)
class Finished:
    """How a command ended: `code` is None if it was ended, because of its time or of the size of what it printed."""

    code: int | None
    output: str
    errors: str  # the end of stderr
    oversized: bool = False


def run(command: Sequence[str], text: str, environ: Mapping[str, str], limit: float, size: int) -> Finished:
    """Give the command `text` on stdin and wait for it, `limit` seconds at most and `size` bytes of output at most.

    It has a process group of its own, which ends with the call, however that ends, and with this process, even if that
    is killed. OSError if the command cannot be started.
    """
    # Files in place of pipes: no buffer fills up, and a grandchild that keeps stdout open cannot hold the call.
    with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        stdin.write(text.encode(errors="replace"))
        stdin.seek(0)
        process = subprocess.Popen(
            command, stdin=stdin, stdout=out, stderr=err, env=environ, start_new_session=True, close_fds=True
        )
        oversized = False
        with _group_of(process):
            deadline = time.monotonic() + limit
            while process.poll() is None and not oversized and (left := deadline - time.monotonic()) > 0:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=min(0.2, left))
                oversized = max(_size(out), _size(err)) > size
            code = None if oversized else process.poll()
        return Finished(code, _read(out, 0, size), _read(err, max(0, _size(err) - 2000), 2000), oversized)


@contextlib.contextmanager
def _group_of(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """The group of a process that was started in a session of its own: all of it is killed on the way out."""
    ours, alive = os.pipe()
    try:
        guard = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _GUARD, str(process.pid)], stdin=ours, start_new_session=True
        )
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            with contextlib.suppress(BrokenPipeError):
                os.write(alive, b".")
            guard.wait()
    finally:
        os.close(ours)
        os.close(alive)


def _size(file: IO[bytes]) -> int:
    return os.fstat(file.fileno()).st_size


def _read(file: IO[bytes], start: int, size: int) -> str:
    # pread-like: the child shares the file's offset, so it is set before reading.
    file.seek(start)
    return file.read(size).decode(errors="replace")
