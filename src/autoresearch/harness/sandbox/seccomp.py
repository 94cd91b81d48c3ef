"""Seccomp: system calls that a candidate's processes have no use for, refused by the kernel.

The filter is a small program for the kernel's BPF machine, written out here. All descendants inherit it, and nobody can
take it back. It is a list of what is refused and not of what is allowed: torch, CUDA's driver and compilers use calls
that nobody has listed. Calls newer than the list are refused as unknown, as on an older kernel.
"""

import ctypes
import errno
import os
import platform
import socket
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06  # BPF's operations
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # bytes into what the filter is shown
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_NEWEST = 470  # no call of this number or a higher one was known
_NEW_NAMESPACES = 0x7E020080  # CLONE_NEW*
_NAMES = {"x86_64": (0xC000003E, 317, 0), "aarch64": (0xC00000B7, 277, 1)}  # audit number, seccomp(2), column below

# By name, with the numbers on x86_64 and aarch64; None: there is none.
_OTHERS_MEMORY = {
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
}  # fmt: skip
_MOUNTS = {
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "open_tree": (428, 428),
    "move_mount": (429, 429), "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433),
    "mount_setattr": (442, 442), "open_tree_attr": (467, 467), "unshare": (272, 97), "setns": (308, 268),
}  # fmt: skip
_KERNEL = {
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "syslog": (103, 116),
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106), "kexec_load": (246, 104),
    "kexec_file_load": (320, 294), "reboot": (169, 142), "swapon": (167, 224), "swapoff": (168, 225),
    "sethostname": (170, 161), "setdomainname": (171, 162), "settimeofday": (164, 170), "clock_settime": (227, 112),
    "clock_adjtime": (305, 266), "adjtimex": (159, 171), "iopl": (172, None), "ioperm": (173, None),
    "modify_ldt": (154, None), "quotactl": (179, 60), "quotactl_fd": (443, 443), "acct": (163, 89),
    "open_by_handle_at": (304, 265), "fanotify_init": (300, 262), "vhangup": (153, 58),
}  # fmt: skip
_KEYRINGS = {"add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219)}  # kept by the kernel, for all
_QUEUES = {"io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427)}  # pass filters
# What is in the page cache, which tells what others have read. A clock tells it too, but slowly.
_CACHED = {"mincore": (27, 232), "cachestat": (451, 451), "preadv2": (327, 286)}
# What happens to files that cannot be opened is told of all the same.
_WATCHES = {"inotify_init": (253, None), "inotify_init1": (294, 26), "inotify_add_watch": (254, 27)}
# What file systems answer by ioctl: in which blocks of a disk a file lies, which are free. By the letter in the middle.
_OF_FILE_SYSTEMS = (ord("f") << 8, ord("X") << 8, 0x94 << 8)  # of most of them, of XFS, of Btrfs
_IPC = {
    "shmget": (29, 194), "shmat": (30, 196), "shmctl": (31, 195), "semget": (64, 190), "semop": (65, 193),
    "semctl": (66, 191), "semtimedop": (220, 192), "msgget": (68, 186), "msgsnd": (69, 189), "msgrcv": (70, 188),
    "msgctl": (71, 187), "mq_open": (240, 180), "mq_unlink": (241, 181),
}  # fmt: skip
_ATTRIBUTES = {
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452), "chown": (92, None),
    "fchown": (93, 55), "lchown": (94, None), "fchownat": (260, 54), "setxattr": (188, 5), "lsetxattr": (189, 6),
    "fsetxattr": (190, 7), "setxattrat": (463, 463), "removexattr": (197, 14), "lremovexattr": (198, 15),
    "fremovexattr": (199, 16), "removexattrat": (466, 466), "utime": (132, None), "utimes": (235, None),
    "futimesat": (261, None), "utimensat": (280, 88), "file_setattr": (469, 469),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Step:
    """An operation of the filter: where to go on if it holds and if it does not, counted from the next one."""

    code: int
    value: int
    yes: int = 0
    no: int = 0

    @property
    def packed(self) -> bytes:
        return struct.pack("=HBBI", self.code, self.yes, self.no, self.value)


def available() -> bool:
    """Whether there is a list for this processor."""
    return platform.machine() in _NAMES


def restrict(ipc: bool, attributes: bool) -> None:
    """From here on this thread and what it starts are refused these calls. OSError if it cannot be had.

    ipc, attributes: refuse System V's shared memory and message queues, and changes of files' modes, times and
    extended attributes: where no namespace keeps them in.
    """
    code = b"".join(step.packed for step in _program(ipc, attributes))
    memory = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("@HxxxxxxQ", len(code) // 8, ctypes.addressof(memory))
    libc, (_, call, _) = ctypes.CDLL(None, use_errno=True), _NAMES[platform.machine()]
    set_filter, no_slower = ctypes.c_long(1), ctypes.c_long(4)  # the second: without brakes against Spectre
    if libc.syscall(ctypes.c_long(call), set_filter, no_slower, program) != 0:
        raise OSError(ctypes.get_errno(), f"seccomp: {os.strerror(ctypes.get_errno())}")


def _program(ipc: bool, attributes: bool) -> list[_Step]:
    architecture, _, column = _NAMES[platform.machine()]
    refused: list[Mapping[str, tuple[int, int | None]]] = [_OTHERS_MEMORY, _MOUNTS, _KERNEL, _KEYRINGS, _WATCHES]
    refused += [_IPC] * ipc + [_ATTRIBUTES] * attributes
    known = (numbers[column] for names in refused for numbers in names.values())
    return [
        _Step(_LOAD, _ARCHITECTURE),
        _Step(_EQUAL, architecture, yes=1),
        _Step(_RETURN, _KILL),  # 32-bit calls have other numbers
        _Step(_LOAD, _NUMBER),
        _Step(_AT_LEAST, _NEWEST, no=1),
        *_refuse(errno.ENOSYS),
        *_each([number for number in known if number is not None], errno.EPERM),
        *_each([numbers[column] for numbers in (_QUEUES | _CACHED).values()], errno.ENOSYS),
        *_each([(435, 435)[column]], errno.ENOSYS),  # clone3, whose flags cannot be seen: clone is used then
        *_each([(42, 203)[column]], errno.ECONNREFUSED),  # connect, to sockets in the file system as well
        *_clone((56, 220)[column]),
        *_sockets((41, 198)[column]),
        *_sockets((53, 199)[column]),  # socketpair, whose ends can send elsewhere as well
        *_other_processes((302, 261)[column]),
        *_ioctl((16, 29)[column]),
        _Step(_RETURN, _ALLOW),
    ]


def _refuse(number: int) -> list[_Step]:
    return [_Step(_RETURN, _ERRNO | number)]


def _each(calls: Iterable[int], number: int) -> list[_Step]:
    """Refuse each of these calls with an error."""
    return [step for call in calls for step in (_Step(_EQUAL, call, no=1), *_refuse(number))]


def _on(call: int, steps: list[_Step]) -> list[_Step]:
    """These steps for one call; those that come to their end go on with its number loaded."""
    return [_Step(_EQUAL, call, no=len(steps) + 1), *steps, _Step(_LOAD, _NUMBER)]


def _clone(call: int) -> list[_Step]:
    """Processes and threads, but no namespaces, in which a process would be root."""
    return _on(call, [_Step(_LOAD, _ARGUMENTS), _Step(_ANY_BIT, _NEW_NAMESPACES, no=1), *_refuse(errno.EPERM)])


def _sockets(call: int) -> list[_Step]:
    """Unix sockets alone, which CUDA's driver makes, and of those no datagrams, which need no connection."""
    streams = [_Step(_EQUAL, kind, yes=to) for kind, to in ((socket.SOCK_STREAM, 2), (socket.SOCK_SEQPACKET, 1))]
    family = [_Step(_LOAD, _ARGUMENTS), _Step(_EQUAL, socket.AF_UNIX, yes=1), *_refuse(errno.EACCES)]
    kind = [_Step(_LOAD, _ARGUMENTS + 8), _Step(_AND, 0xF), *streams, *_refuse(errno.EACCES)]
    return _on(call, family + kind)


def _ioctl(call: int) -> list[_Step]:
    """Nothing that a file system is asked for in this way."""
    letter = [_Step(_LOAD, _ARGUMENTS + 8), _Step(_AND, 0xFF00)]
    return _on(call, [*letter, *_each(_OF_FILE_SYSTEMS, errno.EOPNOTSUPP)])


def _other_processes(call: int) -> list[_Step]:
    """Limits of this process alone: those of another one could kill it."""
    return _on(call, [_Step(_LOAD, _ARGUMENTS), _Step(_EQUAL, 0, yes=1), *_refuse(errno.EPERM)])
