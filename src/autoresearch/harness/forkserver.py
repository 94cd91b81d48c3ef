"""A process of which others are forked: they need not start Python and import torch, which takes seconds.

Each gets a supervisor (`harness.supervise`). What escapes a supervisor that was killed becomes this server's child,
since it is a subreaper too, and is killed before the end of any process is told. The server reads no orders and runs
none of the candidate's code, so whatever it is forked for finds nothing of others in its memory; and it passes on no
descriptor but those that were sent for a process: whoever held its line could give orders.
"""

import fcntl
import os
import select
import signal
import socket
from collections.abc import Callable, Collection
from pathlib import Path

from autoresearch.forks import FIRST, MESSAGE
from autoresearch.harness.sandbox.confine import Sandbox
from autoresearch.harness.supervise import die_with_parent, end_as, kill_below, set_name, subreap, supervise

_MOST = 16  # descriptors with an order
JUDGE = "score"  # the mode that runs no code of a candidate
_ABOVE = 64  # numbers that no descriptor of a child has


class ForkServer:
    """Forks a process for each order that comes over a line, until the line is closed or the parent dead."""

    def __init__(
        self, line: socket.socket, parent: int, work: Callable[[str], None], sandbox: Sandbox | None = None
    ) -> None:
        """work: what a forked process does, by its mode; its order is its standard input. sandbox: of those that run
        the candidate's code."""
        self._line, self._parent, self._work, self._sandbox = line, parent, work, sandbox
        self._pid = os.getpid()
        self._numbers: dict[int, int] = {}  # of the supervisors, by process id

    def serve(self) -> None:
        """Returns when nothing is left of what was forked here, or when something cannot be ended: then no end is told
        but the server's own."""
        woken, wake = os.pipe()
        os.set_blocking(woken, False)
        os.set_blocking(wake, False)
        for number in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        set_name("research-forks")
        subreap()
        die_with_parent(signal.SIGTERM)  # a thread's end looks the same: it is asked below who is there
        try:
            self._say(b"ready", 0, 0)
            while os.getppid() == self._parent:
                ready, _, _ = select.select([self._line.fileno(), woken], [], [])
                if woken in ready:
                    os.read(woken, 4096)
                if not self._reap() or (self._line.fileno() in ready and not self._obey()):
                    break
        except ConnectionError:
            pass  # nobody listens any more
        finally:
            kill_below()

    def _obey(self) -> bool:
        """Do what is asked next; False if the line is closed."""
        message, fds, _, _ = socket.recv_fds(self._line, MESSAGE.size, _MOST)
        if len(message) < MESSAGE.size:
            return False
        what, number, _ = MESSAGE.unpack(message)
        asked = what.rstrip(b"\0").decode()
        if asked in ("end", "kill"):
            for pid in [pid for pid, known in self._numbers.items() if known == number]:
                os.kill(pid, signal.SIGTERM if asked == "end" else signal.SIGKILL)
        else:
            self._fork(asked, number, fds)
        return True

    def _fork(self, mode: str, number: int, fds: list[int]) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # until its supervisor can hear it
        pid = os.fork()
        if pid == 0:
            end_as(lambda: self._supervised(mode, fds))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        for fd in fds:
            os.close(fd)
        self._numbers[pid] = number

    def _supervised(self, mode: str, fds: list[int]) -> int:
        """The forked side: the supervisor."""
        as_new()
        os.setsid()
        set_name(f"research-{mode}")
        order, log, *others = fds
        keep_only([order, log, log, *others])
        confined = self._sandbox if mode != JUDGE else None
        return supervise(self._pid, lambda: self._work(mode), confined)

    def _reap(self) -> bool:
        """Tell of those that have ended, once nothing is left of what they had begun; False if that cannot be had."""
        ended = {}
        while self._numbers:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            if pid in self._numbers:
                code = os.waitstatus_to_exitcode(status)
                ended[self._numbers.pop(pid)] = code if code >= 0 else 128 - code
        if ended and not kill_below(self._numbers):
            return False
        for number, code in ended.items():
            self._say(b"ended", number, code)
        return True

    def _say(self, what: bytes, number: int, code: int) -> None:
        self._line.sendall(MESSAGE.pack(what, number, code))


def fork_server(work: Callable[[str], None], sandbox: Sandbox | None = None) -> socket.socket:
    """A line to a new server, forked of this process: what this one learns from now on, its children do not know."""
    ours, theirs = socket.socketpair()
    parent = os.getpid()
    if os.fork() == 0:
        end_as(lambda: _serve(theirs, parent, work, sandbox))
    theirs.close()
    return ours


def _serve(line: socket.socket, parent: int, work: Callable[[str], None], sandbox: Sandbox | None) -> None:
    as_new()
    nothing = os.open(os.devnull, os.O_RDONLY)
    keep_only([nothing, 1, 2, line.detach()])
    ForkServer(socket.socket(fileno=FIRST), parent, work, sandbox).serve()


def as_new() -> None:
    """Signals as a process finds them at its start."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def keep_only(fds: Collection[int]) -> None:
    """Make these the descriptors 0, 1, 2, ..., of which programs inherit the first three, and close all others."""
    kept = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _ABOVE) for fd in fds]
    for number, fd in enumerate(kept):
        os.dup2(fd, number, inheritable=number < FIRST)
    os.closerange(len(kept), max(int(path.name) for path in Path("/dev/fd").iterdir()) + 1)
