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

# Reads a pipe of which only the house holds the other end: the command's process id, and a dot once it has ended. No
# dot by the end of the pipe: the house was killed, and the command must not stay behind. Portable, and takes
# grandchildren along.
_GUARD = """\
import os, signal, sys
said = sys.stdin.buffer.read()
if said and not said.endswith(b"."):
    os.killpg(int(said), signal.SIGKILL)
"""


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
        oversized = False
        with _guarded(command, stdin=stdin, stdout=out, stderr=err, env=environ) as process:
            deadline = time.monotonic() + limit
            while process.poll() is None and not oversized and (left := deadline - time.monotonic()) > 0:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=min(0.2, left))
                oversized = max(_size(out), _size(err)) > size
            code = None if oversized else process.poll()
        return Finished(code, _read(out, 0, size), _read(err, max(0, _size(err) - 2000), 2000), oversized)


@contextlib.contextmanager
def _guarded(
    command: Sequence[str], stdin: IO[bytes], stdout: IO[bytes], stderr: IO[bytes], env: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """The command, begun in a session of its own: all of its group is killed on the way out."""
    ours, alive = os.pipe()
    with os.fdopen(alive, "wb", buffering=0) as told:
        try:  # the guard first, so that the command is never without one
            guard = subprocess.Popen([sys.executable, "-I", "-S", "-c", _GUARD], stdin=ours, start_new_session=True)
        finally:
            os.close(ours)
        try:
            process = subprocess.Popen(
                command, stdin=stdin, stdout=stdout, stderr=stderr, env=env, start_new_session=True
            )
            told.write(str(process.pid).encode())
            try:
                yield process
            finally:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                with contextlib.suppress(BrokenPipeError):
                    told.write(b".")
        finally:
            told.close()
            guard.wait()


def _size(file: IO[bytes]) -> int:
    return os.fstat(file.fileno()).st_size


def _read(file: IO[bytes], start: int, size: int) -> str:
    # pread-like: the child shares the file's offset, so it is set before reading.
    file.seek(start)
    return file.read(size).decode(errors="replace")
