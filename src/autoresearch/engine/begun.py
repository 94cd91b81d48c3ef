"""The process that is to be a fork server, begun before all else, so that it imports meanwhile.

It is what a command that measures waits for, so this module imports no more than that takes.
"""

import contextlib
import resource
import socket
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Mapping

from autoresearch import compilers
from autoresearch.engine import environment
from autoresearch.errors import EngineError
from autoresearch.forks import MARKER, Forks

_PATIENCE = 15.0  # seconds for the server to end what it forked
_FILES = 16384  # that may be open
_PATH = 4096  # bytes, which no path has: room for the mark of a process, which it gets as it is told its folder
# Until then: a folder that is there, as torch wants one as it is imported, and takes no file.
_NOWHERE = {**dict.fromkeys(("HOME", *compilers.VARIABLES), "/proc"), MARKER: "/" * _PATH}


class Begun:
    """One process of `harness.child`, which imports what any measurement needs and knows nothing yet of what it is for.
    It ends with this object, at the latest."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        """environ: the caller's. EngineError if Python cannot be started."""
        _allow_more_files()
        with contextlib.ExitStack() as resources:  # all let go of, if something fails
            try:
                ours, theirs = map(resources.enter_context, socket.socketpair())
                told, telling = map(resources.enter_context, socket.socketpair())
                command = [sys.executable, "-P", "-m", "autoresearch.harness.child", str(theirs.fileno())]
                self.output = resources.enter_context(tempfile.TemporaryFile())
                self.process = subprocess.Popen(
                    command,
                    env=environment.passed_on(environ) | _NOWHERE,
                    cwd="/",
                    stdin=told.fileno(),
                    stdout=self.output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    pass_fds=(theirs.fileno(),),
                )
            except OSError as error:
                raise no_python(str(error)) from error
            told.close()
            theirs.close()
            self._telling, self.forks = telling, Forks(ours)
            resources.callback(_stop, self.process, self.forks, telling)
            self.close = weakref.finalize(self, resources.pop_all().close)  # again is nothing

    def tell(self, line: str) -> None:
        """One of the two lines that it waits for."""
        with contextlib.suppress(ConnectionError):  # if it has ended, its server's `check` says so
            self._telling.sendall(line.encode() + b"\n")


def _stop(process: subprocess.Popen[bytes], forks: Forks, telling: socket.socket) -> None:
    forks.close()
    telling.close()
    process.terminate()  # it looks up, and finds its lines closed; or it has not got so far
    try:
        process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def no_python(why: str) -> EngineError:
    """What there is to say if no server can be started. why: in a line."""
    return EngineError(
        f"Python cannot be started: {why.rstrip('.')}.",
        "Check the installation, free memory, and the room for temporary files.",
    )


def _allow_more_files() -> None:
    """Raise the soft limit of open files well above that of candidates: `sandbox.confine` says why."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(_FILES, hard)), hard))
