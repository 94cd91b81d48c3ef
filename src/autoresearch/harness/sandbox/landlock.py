"""Landlock (Linux 5.19 and later): what a process may open, bind, connect to and signal, decided by the process itself.

No privilege is needed, all descendants inherit it, and nobody can take it back. A process in such a domain cannot
trace, read or write the memory of one outside, nor open what that one has open through /proc.
"""

import ctypes
import os
import stat
import struct
from collections.abc import Iterable
from pathlib import Path

OLDEST = 2  # before it (5.19), no file could be moved from one folder to another, as compilers' caches do
_CREATE, _ADD, _RESTRICT = 444, 445, 446  # system calls, on every architecture
_VERSION = 1  # flag of _CREATE
_BENEATH = 1  # kind of rule: what lies below an open file or folder

_EXECUTE, _WRITE, _READ, _LIST = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REMOVE = 1 << 4 | 1 << 5  # folders, files
_DEVICES = 1 << 6 | 1 << 11  # make character and block devices
_MAKE = 1 << 7 | 1 << 8 | 1 << 9 | 1 << 10 | 1 << 12  # folders, files, sockets, pipes, links
_REFER, _TRUNCATE, _IOCTL = 1 << 13, 1 << 14, 1 << 15
_OF_FILES = _EXECUTE | _WRITE | _READ | _TRUNCATE | _IOCTL  # the others are rights over a folder
_TCP = 1 << 0 | 1 << 1  # bind, connect
_SCOPES = 1 << 0 | 1 << 1  # abstract Unix sockets, signals

READABLE = _EXECUTE | _READ | _LIST
WRITABLE = READABLE | _WRITE | _REMOVE | _MAKE | _REFER | _TRUNCATE
DEVICE = _READ | _WRITE | _LIST | _IOCTL
CONTENT = _WRITE | _READ | _LIST | _TRUNCATE  # files as they are: none made, none removed


def version() -> int:
    """Of the kernel's Landlock; 0 if it has none, or does not let this process use it."""
    return max(0, _call(_CREATE, None, 0, _VERSION))


def scopes_signals() -> bool:
    """Whether a process in a domain cannot signal one outside (Linux 6.12)."""
    return version() >= 6


def restrict(rules: Iterable[tuple[Path, int]]) -> None:
    """From here on this thread and what it starts can open only what lies below these paths, each for its rights.

    What is not there is passed over. OSError if it cannot be had.
    """
    abi = version()
    handled = _EXECUTE | _WRITE | _READ | _LIST | _REMOVE | _DEVICES | _MAKE | _REFER
    handled |= _TRUNCATE * (abi >= 3) | _IOCTL * (abi >= 5)
    attributes = struct.pack("=QQQ", handled, _TCP * (abi >= 4), _SCOPES * (abi >= 6))
    size = 8 if abi < 4 else 16 if abi < 6 else 24
    ruleset = _checked(_call(_CREATE, attributes[:size], size, 0))
    try:
        for path, rights in rules:
            _allow(ruleset, path, rights & handled)
        _checked(_call(_RESTRICT, ruleset, 0))
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: Path, rights: int) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            rights &= _OF_FILES
        _checked(_call(_ADD, ruleset, _BENEATH, struct.pack("=Qi", rights, fd), 0))
    finally:
        os.close(fd)


def _call(number: int, *arguments: int | bytes | None) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    typed = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    return int(libc.syscall(ctypes.c_long(number), *typed))


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), f"Landlock: {os.strerror(ctypes.get_errno())}")
    return result
