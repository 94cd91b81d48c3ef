"""Running a command of the user's: text in, text out, bounded in time and size, and gone when its parent is gone."""

import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import IO

# Starts the command in its own process group, tells how it ended, and kills the group once the command has ended or
# the pipe is closed that only the house can write to: the house closes it, or its end does, however that comes. The
# house does not start the command itself: an interrupt before it knows of what it has started would leave the command
# behind. Portable, and takes grandchildren along.
_GUARD = """\
import _thread, os, signal, sys
house, told = int(sys.argv[1]), int(sys.argv[2])
os.set_inheritable(house, False)
os.set_inheritable(told, False)

def follow():
    os.read(house, 1)
    os.killpg(0, signal.SIGKILL)

pid = os.fork()
if pid == 0:
    try:
        os.execvp(sys.argv[3], sys.argv[3:])
    except OSError as error:
        os.write(told, b"failed %d\\n" % error.errno)
        os._exit(1)
_thread.start_new_thread(follow, ())
os.write(told, b"ended %d\\n" % os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
os.killpg(0, signal.SIGKILL)
"""
_GLANCE = 0.2  # seconds between looks at the size of the output


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
    deadline = time.monotonic() + limit
    with ExitStack() as stack:
        # Files in place of pipes: no buffer fills up, and a grandchild that keeps stdout open cannot hold the call.
        stdin, out, err = (stack.enter_context(tempfile.TemporaryFile()) for _ in range(3))
        stdin.write(text.encode(errors="replace"))
        stdin.seek(0)
        told = _start(stack, command, stdin, out, err, environ)
        ended = oversized = False
        while not ended and not oversized and (left := deadline - time.monotonic()) > 0:
            ended = bool(select.select([told], [], [], min(_GLANCE, left))[0])
            oversized = max(_size(out), _size(err)) > size
        code = _exit_code(told) if ended and not oversized else None
        return Finished(code, _read(out, 0, size), _read(err, max(0, _size(err) - 2000), 2000), oversized)


def _start(
    stack: ExitStack,
    command: Sequence[str],
    stdin: IO[bytes],
    stdout: IO[bytes],
    stderr: IO[bytes],
    environ: Mapping[str, str],
) -> IO[bytes]:
    """Start the command and its guard, which end as the stack is left. What is returned tells the command's end."""
    house, _ = _pipe(stack)  # its other end is closed with the stack
    told, theirs = _pipe(stack)
    passed = (house.fileno(), theirs.fileno())
    guard = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _GUARD, *map(str, passed), *command],
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        env=environ,
        pass_fds=passed,
        start_new_session=True,
    )
    stack.callback(guard.wait)
    stack.callback(_kill, guard.pid)
    theirs.close()
    return told


def _pipe(stack: ExitStack) -> tuple[IO[bytes], IO[bytes]]:
    read, write = os.pipe()
    return stack.enter_context(os.fdopen(read, "rb")), stack.enter_context(os.fdopen(write, "wb"))


def _kill(group: int) -> None:
    with suppress(ProcessLookupError, PermissionError):  # macOS forbids it where only zombies are left
        os.killpg(group, signal.SIGKILL)


def _exit_code(told: IO[bytes]) -> int:
    """OSError if the command could not be started."""
    what, _, number = told.readline().partition(b" ")
    if what == b"failed":
        raise OSError(int(number), os.strerror(int(number)))
    return int(number) if what == b"ended" else -signal.SIGKILL  # its guard was killed, and the command is to follow


def _size(file: IO[bytes]) -> int:
    return os.fstat(file.fileno()).st_size


def _read(file: IO[bytes], start: int, size: int) -> str:
    # pread-like: the child shares the file's offset, so it is set before reading.
    file.seek(start)
    return file.read(size).decode(errors="replace")
