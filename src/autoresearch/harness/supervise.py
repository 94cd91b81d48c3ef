"""No process of an experiment outlives it: a supervisor forks the worker and takes every descendant with it.

Process groups and parent-death signals are both lost across `setsid`. The supervisor is a *child subreaper*
(Linux): whatever a worker leaves orphaned becomes the supervisor's child, is found there and killed. The
supervisor itself asks the kernel for SIGTERM when its own parent dies, so even SIGKILL of the parent leaves
nothing behind. Elsewhere than Linux, the process group and the reaping at the next start have to do.
"""

import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable

import psutil

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_supervisor: int | None = None  # of this process, where it is a worker
_PATIENCE = 10.0  # seconds for killed processes to go; a GPU's memory takes a moment to be freed


def supervise(parent: int, work: Callable[[], None]) -> int:
    """Run `work` in a forked process, end all its descendants with it, and return its exit code (128 + signal).

    parent: the process id to die with. To end everything early, send this process SIGTERM.
    """
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    signal.signal(signal.SIGTERM, _exit_on_signal)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it died before the kernel was told
        return 128 + signal.SIGTERM
    supervisor = os.getpid()
    try:
        worker = os.fork()
        if worker == 0:
            _work(supervisor, work)
        return _wait(worker)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        kill_descendants()


def kill_descendants() -> None:
    """SIGKILL everything below this process, again and again until nothing is left or patience ends."""
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        below = psutil.Process().children(recursive=True)
        if not below:
            return
        for process in below:
            with contextlib.suppress(psutil.Error):
                process.kill()
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.005)


def kill_strays(spare: set[int]) -> None:
    """In a worker: kill the other children of its supervisor and its own, with all below them, but those to spare.

    Whatever a grandchild left behind whose own supervisor it had killed is found here.
    """
    parents = [psutil.Process()] + ([psutil.Process(_supervisor)] if _supervisor else [])
    for child in (child for parent in parents for child in parent.children()):
        if child.pid not in spare | {os.getpid()}:
            for process in [*child.children(recursive=True), child]:
                with contextlib.suppress(psutil.Error):
                    process.kill()


def _work(supervisor: int, work: Callable[[], None]) -> None:
    """The forked side: never returns, and skips the interpreter's slow way out (compiler pools take ten seconds)."""
    global _supervisor
    _supervisor = supervisor
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    code = 1
    try:
        if os.getppid() == supervisor:
            work()
            code = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _wait(worker: int) -> int:
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == worker:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def _exit_on_signal(number: int, _frame: object) -> None:
    raise SystemExit(128 + number)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
