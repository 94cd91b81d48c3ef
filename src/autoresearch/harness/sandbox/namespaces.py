"""Namespaces: a process that sees no other processes, networks, shared memory and mounts than its own.

They are what bubblewrap is made of. Whoever is not root gets them inside a user namespace, where the system allows
that; containers mostly do not. What is made here is made by the house's code, before the candidate's is let in.
"""

import contextlib
import ctypes
import os
import re
import signal
import struct
import sys
from collections.abc import Callable, Collection
from pathlib import Path

NAMESPACES = {"user": 0x10000000, "pid": 0x20000000, "ipc": 0x08000000, "net": 0x40000000}
_MOUNT = 0x00020000
_BIND, _RECURSIVE, _PRIVATE, _NOSUID, _NODEV, _NOEXEC = 4096, 16384, 1 << 18, 2, 4, 8
_MOUNT_SETATTR, _HERE, _BELOW, _READ_ONLY = 442, -100, 0x8000, 1
_COUNTS = (
    *("proc/fs", "proc/kpage*", "proc/slabinfo", "proc/pagetypeinfo", "proc/vmallocinfo", "proc/timer_list"),
    *("sys/fs/*", "sys/kernel/slab", "sys/kernel/debug", "sys/kernel/tracing"),
)
_SHARED_MEMORY = Path("/dev/shm")
_LOOK = 0.1  # seconds between two counts of processes


def unshare(mechanisms: Collection[str]) -> None:
    """Have this process's children begin in new namespaces, as far as they are named. OSError if one cannot be had."""
    flags = sum(flag for name, flag in NAMESPACES.items() if name in mechanisms)
    if not flags:
        return
    user, group = os.geteuid(), os.getegid()
    _checked("unshare", _libc().unshare(flags))
    if "user" in mechanisms:  # the same user as outside
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"{user} {user} 1")
        _write("/proc/self/gid_map", f"{group} {group} 1")


def own_mounts(mechanisms: Collection[str]) -> None:
    """A copy of the mounts, which no other process sees change, with /proc for a new process namespace."""
    if "mount" not in mechanisms:
        return
    _checked("unshare", _libc().unshare(_MOUNT))
    _mount("none", "/", None, _RECURSIVE | _PRIVATE)
    if "pid" in mechanisms:
        _mount("proc", "/proc", "proc", _NOSUID | _NODEV | _NOEXEC)


def in_memory(folder: Path) -> None:
    """What is written to this folder is in memory, and seen by nobody else: where a disk puts a file tells of what was
    there before. After own_mounts."""
    _mount("tmpfs", str(folder), "tmpfs", _NOSUID | _NODEV, "mode=0700,size=25%")
    (folder / "tmp").mkdir()


def read_only(writable: Collection[Path]) -> None:
    """Nothing can be written but below these folders, nor modes, times and attributes of files changed; and shared
    memory is this experiment's own. After own_mounts, in the same process or one that it forked."""
    for path in (*writable, *_of_the_kernel()):
        _mount(str(path), str(path), None, _BIND)
    for path in _counts():
        if path.is_dir():
            _mount("tmpfs", str(path), "tmpfs", _NOSUID | _NODEV, "size=4k")
        else:
            _mount("/dev/null", str(path), None, _BIND)
    _set_read_only("/", True)
    for path in (*writable, Path("/proc")):  # in the last, CUDA's driver names its threads
        _set_read_only(str(path), False)
    if _SHARED_MEMORY.is_dir():
        _mount("tmpfs", str(_SHARED_MEMORY), "tmpfs", _NOSUID | _NODEV, "mode=1777,size=25%")


def _of_the_kernel() -> list[Path]:
    """What in /proc is no process's: settings, triggers, drivers. Root owns them all, and could change their modes."""
    return [entry for entry in Path("/proc").iterdir() if not entry.name.isdigit() and not entry.is_symlink()]


def _counts() -> list[Path]:
    """What counts blocks and pages one by one, for whoever owns it: so one process could leave a text for another."""
    found = [path for pattern in _COUNTS for path in Path("/").glob(pattern)]
    return [path for path in found if path.name != "cgroup" and os.access(path, os.R_OK)]


def init(work: Callable[[], None], most: int) -> int:
    """Be the first process of a process namespace: run `work` in another one, and return its exit code (128 + signal).

    When this process ends the kernel kills all that is left in the namespace, whatever it did to get away. So it also
    ends (with SIGKILL's code) once there are more than `most` processes and threads.
    """
    _bound(most + most // 2)  # or a fork bomb would leave no time to count
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # which the kernel keeps from a first process
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    worker = os.fork()
    if worker == 0:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        work()
        sys.exit(0)
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, -20)  # it sleeps, but when it wakes it is in a hurry
    while True:
        signal.sigtimedwait({signal.SIGCHLD}, _LOOK)
        while pair := _ended():
            if pair[0] == worker:
                code = os.waitstatus_to_exitcode(pair[1])
                return code if code >= 0 else 128 - code
        if count_tasks() > most:
            print(f"more than {most} processes and threads at once: all are ended", file=sys.stderr, flush=True)
            return 128 + signal.SIGKILL


def _ended() -> tuple[int, int] | None:
    pid, status = os.waitpid(-1, os.WNOHANG)
    return (pid, status) if pid else None


def _bound(most: int) -> None:
    """No process id beyond this in the namespace; before Linux 6.14 the kernel has one bound for the whole machine."""
    release = [int(part) for part in re.findall(r"\d+", os.uname().release)[:2]]
    if release >= [6, 14]:
        with contextlib.suppress(OSError):
            _write("/proc/sys/kernel/pid_max", str(max(301, most)))  # 301: the least that it takes


def count_tasks(user: int | None = None) -> int:
    """Processes and threads that /proc shows; of one user, if it is given."""
    found = 0
    for name in os.listdir("/proc"):  # noqa: PTH208
        if name.isdigit():
            with contextlib.suppress(OSError):
                tasks = os.stat(f"/proc/{name}/task")  # noqa: PTH116
                found += tasks.st_nlink - 2 if user in (None, tasks.st_uid) else 0
    return found


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _checked(what: str, result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


def _write(path: str, text: str) -> None:
    Path(path).write_text(text)


def _mount(source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
    texts = [os.fsencode(text) if text is not None else None for text in (source, target, kind)]
    done = _libc().mount(*texts, ctypes.c_ulong(flags), os.fsencode(options) or None)
    _checked(f"mount on {target}", done)


def _set_read_only(path: str, wanted: bool) -> None:
    """Of the mount at this path; if wanted, of all mounts below it as well."""
    attributes = struct.pack("=QQQQ", _READ_ONLY if wanted else 0, 0 if wanted else _READ_ONLY, 0, 0)
    arguments = [ctypes.c_long(_MOUNT_SETATTR), ctypes.c_long(_HERE), os.fsencode(path)]
    flags = ctypes.c_long(_BELOW if wanted else 0)
    done = _libc().syscall(*arguments, flags, attributes, ctypes.c_long(len(attributes)))
    _checked(f"read-only {path}", done)
