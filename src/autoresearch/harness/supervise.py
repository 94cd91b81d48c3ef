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
from collections.abc import Callable, Collection
from pathlib import Path
from typing import NoReturn

import psutil

from autoresearch.harness.sandbox.confine import Sandbox

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36
_UNSEEN = 0  # the id of a parent outside one's process namespace; if that has died, its own parent ends this one
_PATIENCE = 10.0  # seconds for killed processes to go; a GPU's memory takes a moment to be freed


def supervise(parent: int, work: Callable[[], None], sandbox: Sandbox | None = None) -> int:
    """Run `work` in a forked process, end all its descendants with it, and return its exit code (128 + signal).

    parent: the process id to die with. sandbox: that `work` gives up its rights to. To end everything early, send this
    process SIGTERM.
    """
    subreap()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # a fork may drop what a handler raises
    signal.signal(signal.SIGTERM, _exit_on_signal)
    if sandbox:
        sandbox.unshare()
    die_with_parent(signal.SIGTERM)  # after new rights, with which the kernel forgets it
    supervisor = os.getpid()
    try:
        if os.getppid() != parent:  # it died before the kernel was told
            return 128 + signal.SIGTERM
        worker = os.fork()
        if worker == 0:
            end_as(lambda: _work(supervisor, work, sandbox))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        return _wait(worker)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        kill_below()


def kill_below(spare: Collection[int] = ()) -> bool:
    """SIGKILL everything below this process, until nothing is left or patience ends; whether nothing is.

    spare: children to leave alone, with all below them.
    """
    deadline = time.monotonic() + _PATIENCE
    before: list[int] = []
    while below := _below(spare):
        if time.monotonic() > deadline:
            return False
        for pid in below:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        for pid in below:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        if below == before:  # what forks all the time would get away in the pause
            time.sleep(0.005)
        before = below
    return True


def end_as(work: Callable[[], int | None]) -> NoReturn:
    """Do this and end the process with its code, without the interpreter's slow way out (compiler pools take ten
    seconds)."""
    code = 1
    try:
        code = work() or 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def subreap() -> None:
    """Orphans below this process become its children."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(number: int) -> None:
    """Have the kernel send this signal when the parent, or its thread that made this process, ends."""
    _prctl(_PR_SET_PDEATHSIG, number)


def set_name(name: str) -> None:
    """What `ps` and `top` call this process, and those forked of it; at most 15 characters."""
    _prctl(_PR_SET_NAME, ctypes.c_char_p(name.encode()))


def _work(supervisor: int, work: Callable[[], None], sandbox: Sandbox | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    die_with_parent(signal.SIGKILL)
    if os.getppid() not in (supervisor, _UNSEEN):
        sys.exit(1)
    if sandbox:
        sandbox.begin(work)
    else:
        work()


def _below(spare: Collection[int]) -> list[int]:
    """Process ids: of the children, which the children of those become once they are dead; or of all below where the
    kernel does not tell. None that lives is missed, since its parent's id, or its own, is not free before we wait."""
    try:
        listed = Path("/proc/thread-self/children").read_text()  # far faster than to look at every process
        return [pid for pid in map(int, listed.split()) if pid not in spare]
    except OSError:
        children = [child for child in psutil.Process().children() if child.pid not in spare]
        below = list(children)
        for child in children:
            with contextlib.suppress(psutil.Error):
                below += child.children(recursive=True)
        return [process.pid for process in below]


def _wait(worker: int) -> int:
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == worker:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def _exit_on_signal(number: int, _frame: object) -> None:
    raise SystemExit(128 + number)


def _prctl(option: int, value: int | ctypes.c_char_p) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
