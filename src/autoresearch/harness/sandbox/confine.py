"""A process gives up what a candidate has no need of, in this order, and for good.

    supervisor       new namespaces for its children, where the system lets it have them
    first process    mounts and /proc of its own; its end is the end of all processes of the experiment
    worker           reads its order; limits, read-only mounts, no capabilities, Landlock, seccomp; the candidate's code

What is named as a mechanism works or raises: nothing goes on with less than was asked for.
"""

import contextlib
import ctypes
import os
import resource
import sys
from collections.abc import Callable, Collection
from pathlib import Path

from autoresearch.harness.sandbox import landlock, namespaces, policy, seccomp

MECHANISMS = (*namespaces.NAMESPACES, "mount", "landlock", "seccomp")
PROCESSES = 2048  # processes and threads of one worker
_OPEN = 4096  # files that one process may have open
_FILE = 20 * 10**9  # bytes of the largest file
_LAST_CAPABILITY = 63
_PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT, _CLEAR_ALL = 24, 38, 47, 4


class Sandbox:
    """What the processes that a fork server begins are confined by."""

    def __init__(self, mechanisms: Collection[str], private: Path, processes: int = PROCESSES, home: str = "") -> None:
        """mechanisms: of MECHANISMS; none: no sandbox. private: a folder of which nothing is to be readable but what
        `confine` names. processes: and threads, at most. home: the user's, which is not to be readable either. To be
        made when all is imported that is needed."""
        self._mechanisms, self._processes = frozenset(mechanisms), processes
        self._readable = policy.installation(os.environ, private, home) if mechanisms else ()

    def __bool__(self) -> bool:
        return bool(self._mechanisms)

    @property
    def shared_memory(self) -> bool:
        """Whether processes of the worker can share memory and locks among each other."""
        return "mount" in self._mechanisms or "landlock" not in self._mechanisms

    def unshare(self) -> None:
        """By the supervisor, before it forks."""
        namespaces.unshare(self._mechanisms)

    def begin(self, work: Callable[[], None]) -> None:
        """By the process that it forks: do `work`, in a process of its own where this one has to be the first."""
        namespaces.own_mounts(self._mechanisms)
        if "pid" in self._mechanisms:
            sys.exit(namespaces.init(work, self._processes))
        work()

    def confine(
        self,
        folder: Path,
        device: str,
        readable: Collection[Path],
        writable: Collection[Path] = (),
        in_memory: bool = False,
        mapped: int = 0,
    ) -> None:
        """By the worker. From here on it can write to `folder`, where it works, and to `writable` alone, all of which
        are made if they are not there, and read those, `readable` and what is installed.

        device: cpu, cuda or mps. in_memory: `folder` is, where mounts can be made. mapped: bytes of files that it gets
        open, and may map as well as `readable`. OSError if a mechanism fails, RuntimeError if a thread is at work that
        would be left out.
        """
        if not self:
            return
        if len(os.listdir("/proc/self/task")) > 1:  # noqa: PTH208
            raise RuntimeError("a process with threads cannot be confined")
        writable = (folder, *writable)
        for path in writable:
            path.mkdir(parents=True, exist_ok=True)
        named = sum(file.stat().st_size for path in readable for file in (path, *path.glob("*")))
        self._limit(device, named + mapped)
        if "mount" in self._mechanisms:
            if in_memory:
                namespaces.in_memory(folder)
            namespaces.read_only(writable)
        os.chdir(folder)  # as it is mounted now
        drop_privileges()
        if "landlock" in self._mechanisms:
            landlock.restrict(
                [
                    *((path, landlock.READABLE) for path in (*self._readable, *readable)),
                    *((path, landlock.WRITABLE) for path in writable),
                    *((path, landlock.DEVICE) for path in policy.devices(device)),
                    *([(Path("/dev/shm"), landlock.WRITABLE)] if "mount" in self._mechanisms else []),
                    # CUDA's driver names its threads there. Of a process that this one starts it can do so only where
                    # /proc shows no processes of others, and what is not of processes is mounted read-only.
                    (Path("/proc") if {"pid", "mount"} <= self._mechanisms else _own_threads(), landlock.CONTENT),
                ]
            )
        if "seccomp" in self._mechanisms:
            seccomp.restrict(ipc="ipc" not in self._mechanisms, attributes="mount" not in self._mechanisms)

    def _limit(self, device: str, mapped: int) -> None:
        """What can be used up. Memory only where no GPU's driver reserves more than there is. mapped: bytes of files
        that may be mapped, which count as memory."""
        _lower(resource.RLIMIT_CORE, 1)  # no core dump; with 0 it would still be sent to a program that takes them
        _lower(resource.RLIMIT_FSIZE, _FILE)
        # Those that it has sent and nobody has taken count for its user, up to this, and then not even the house could
        # send one: so it is half of what the house may have.
        _lower(resource.RLIMIT_NOFILE, min(_OPEN, resource.getrlimit(resource.RLIMIT_NOFILE)[1] // 2))
        for priority in (resource.RLIMIT_NICE, resource.RLIMIT_RTPRIO):  # no better than it is
            _lower(priority, 0)
        if device == "cpu":
            _lower(resource.RLIMIT_DATA, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") + mapped)
        _lower(resource.RLIMIT_NPROC, namespaces.count_tasks(os.getuid()) + self._processes)  # which does not bind root
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("1000")  # when memory runs out, this is what goes first


def _own_threads() -> Path:
    """The folder of this process's threads. It is kept open: the kernel would forget the rule with the folder."""
    fd = os.open("/proc/self/task", os.O_PATH | os.O_DIRECTORY)
    return Path(f"/proc/self/fd/{fd}")


def _lower(which: int, limit: int) -> None:
    _, hard = resource.getrlimit(which)
    most = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(which, (most, most))


def drop_privileges() -> None:
    """No capability is left, and none comes back by running a program: root is a user like others."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_CAP_AMBIENT, _CLEAR_ALL, 0, 0, 0)
    for capability in range(_LAST_CAPABILITY + 1):
        libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)  # refused where there is no right to lose
    header, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    if libc.capset(header, none) != 0 or libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "privileges cannot be given up")
