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

# Reads a pipe to which only the house and what becomes the command write: the command's process id, and a dot once it
# has ended. No dot by the end of the pipe: the house was interrupted or killed, and the command must not stay behind.
# Portable, and takes grandchildren along.
_GUARD = """\
import os, signal, sys
said = sys.stdin.buffer.read()
if said and not said.endswith(b"."):
    try:
        os.killpg(int(said), signal.SIGKILL)
    except OSError:
        pass
"""
# Becomes the command. It is this that tells the guard of it, since the house may be interrupted before it knows.
_START = """\
import os, signal, sys
guard, told = int(sys.argv[1]), int(sys.argv[2])
os.write(guard, b"%d" % os.getpid())
for fd in (guard, told):
    os.set_inheritable(fd, False)
for number in (signal.SIGPIPE, signal.SIGXFSZ):
    signal.signal(number, signal.SIG_DFL)
try:
    os.execvp(sys.argv[3], sys.argv[3:])
except OSError as error:
    os.write(told, b"%d" % error.errno)
"""
_PYTHON = (sys.executable, "-I", "-S", "-c")
_GLANCE = 0.05  # seconds between looks at the process and at the size of its output


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
            while _exit_code(process) is None and not oversized and (left := deadline - time.monotonic()) > 0:
                time.sleep(min(_GLANCE, left))
                oversized = max(_size(out), _size(err)) > size
            code = None if oversized else _exit_code(process)
        return Finished(code, _read(out, 0, size), _read(err, max(0, _size(err) - 2000), 2000), oversized)


@contextlib.contextmanager
def _guarded(
    command: Sequence[str], stdin: IO[bytes], stdout: IO[bytes], stderr: IO[bytes], env: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """The command, in a session of its own: all of its group is killed on the way out."""
    with _pipe() as (watched, guarding), _pipe() as (told, telling):
        guard = subprocess.Popen([*_PYTHON, _GUARD], stdin=watched, start_new_session=True)
        passed = (guarding.fileno(), telling.fileno())
        process = subprocess.Popen(
            [*_PYTHON, _START, *map(str, passed), *command],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env=env,
            pass_fds=passed,
            start_new_session=True,
        )
        try:
            telling.close()
            if failed := told.read():  # its end comes as the command takes over
                raise OSError(int(failed), os.strerror(int(failed)))
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            while _exit_code(process) is None:
                time.sleep(0.001)
            with contextlib.suppress(BrokenPipeError):
                guarding.write(b".")
            guarding.close()
            guard.wait()


@contextlib.contextmanager
def _pipe() -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    read, write = os.pipe()
    with os.fdopen(read, "rb", buffering=0) as reader, os.fdopen(write, "wb", buffering=0) as writer:
        yield reader, writer


def _exit_code(process: subprocess.Popen[bytes]) -> int | None:
    """None while it runs. `Popen.poll` would do, but an interrupt may leave its lock closed, and then `Popen.wait`
    waits forever."""
    if process.returncode is None:
        try:
            pid, status = os.waitpid(process.pid, os.WNOHANG)
        except ChildProcessError:  # an interrupt came between an earlier look and the note of what it saw
            pid, status = process.pid, signal.SIGKILL
        if pid:
            process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode


def _size(file: IO[bytes]) -> int:
    return os.fstat(file.fileno()).st_size


def _read(file: IO[bytes], start: int, size: int) -> str:
    # pread-like: the child shares the file's offset, so it is set before reading.
    file.seek(start)
    return file.read(size).decode(errors="replace")
