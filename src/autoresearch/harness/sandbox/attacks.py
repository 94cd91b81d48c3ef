"""What a hostile file would try, each attack for real, against targets that the probe has set up for it.

An attack returns what it has achieved, in a few words, or None; whatever it raises is a failure of the attack.
"""

import contextlib
import ctypes
import fcntl
import mmap
import os
import resource
import signal
import socket
import stat
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_IPC_PRIVATE, _IPC_CREATE = 0, 0o1000
_KEY = "autoresearch-probe"


@dataclass(frozen=True)
class Targets:
    """What belongs to somebody else: to the process that probes."""

    pid: int
    folder: Path  # with a file `secret`, and Unix sockets `listener` and `letters`
    port: int  # of TCP and of UDP, on this machine
    address: int  # of 6 bytes of its memory
    segment: int  # of System V's shared memory, by id
    shared: Path | None  # a file in the system's shared memory


def files(targets: Targets) -> str | None:
    """Read and write what lies beside its own folder, and what the kernel does by."""
    done = []
    with contextlib.suppress(OSError):
        (targets.folder / "secret").read_bytes()
        done.append("reads files of others")
    with contextlib.suppress(OSError):
        os.listdir(targets.folder)  # noqa: PTH208
        done.append("lists folders of others")
    for path in (targets.folder / "secret", targets.folder / "new"):
        with contextlib.suppress(OSError), path.open("ab"):
            done.append("writes to files of others")
    with contextlib.suppress(OSError):
        os.truncate(targets.folder / "secret", 3)
        done.append("cuts files of others")
    for name in ("sys/kernel/core_pattern", "sys/vm/overcommit_memory", "sysrq-trigger"):  # opened, and no more
        with contextlib.suppress(OSError):
            os.close(os.open(f"/proc/{name}", os.O_WRONLY))
            done.append("changes settings of the kernel")
    return _all(done)


def attributes(targets: Targets) -> str | None:
    """Change what is known of another's file: a sealed process could read there what an open one has left."""
    secret, done = targets.folder / "secret", []
    with contextlib.suppress(OSError):
        secret.chmod(0o640)
        done.append("changes modes of others' files")
    with contextlib.suppress(OSError):
        os.utime(secret, (1, 1))
        done.append("changes times of others' files")
    with contextlib.suppress(OSError):
        version = Path("/proc/version")  # whose owner could leave a note in its mode: here, the one that it has
        version.chmod(stat.S_IMODE(version.stat().st_mode))
        done.append("changes modes of the kernel's files")
    return _all(done)


def network(targets: Targets) -> str | None:
    """Reach this machine's services, by each kind of socket."""
    done = []
    address = ("127.0.0.1", targets.port)
    with contextlib.suppress(OSError), socket.create_connection(address, timeout=1):
        done.append("connects by TCP")
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.settimeout(1)
        sender.sendto(b"ping", address)
        if sender.recv(4):
            done.append("sends by UDP")
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as stream:
        stream.connect(os.fspath(targets.folder / "listener"))
        done.append("connects to Unix sockets")
    with contextlib.suppress(OSError):
        sender, _ = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        sender.sendto(b"ping", os.fspath(targets.folder / "letters"))
        done.append("sends to Unix sockets")
    return _all(done)


def signals(targets: Targets) -> str | None:
    """Signal the process that probes."""
    os.kill(targets.pid, signal.SIGUSR1)
    return "signals other processes"


def memory(targets: Targets) -> str | None:
    """Read the memory of the process that probes, and open what it has open."""
    done, buffer = [], ctypes.create_string_buffer(6)
    local, remote = _vector(ctypes.addressof(buffer), 6), _vector(targets.address, 6)
    if ctypes.CDLL(None).process_vm_readv(targets.pid, local, 1, remote, 1, 0) == 6 and buffer.raw == b"secret":
        done.append("reads the memory of other processes")
    with contextlib.suppress(OSError), Path(f"/proc/{targets.pid}/mem").open("rb") as file:
        file.seek(targets.address)
        if file.read(6) == b"secret":
            done.append("opens the memory of other processes")
    with contextlib.suppress(OSError):
        for name in os.listdir(f"/proc/{targets.pid}/fd"):  # noqa: PTH208
            Path(f"/proc/{targets.pid}/fd/{name}").readlink()
            done.append("opens descriptors of other processes")
    return _all(done)


def shared_memory(targets: Targets) -> str | None:
    """Meet another process in memory that the system keeps by name or number."""
    done, libc = [], ctypes.CDLL(None)
    libc.shmat.restype = ctypes.c_void_p
    place = libc.shmat(targets.segment, None, 0)
    if place not in (None, ctypes.c_void_p(-1).value) and ctypes.string_at(place, 6) == b"secret":
        done.append("attaches System V shared memory")
    if targets.shared:
        with contextlib.suppress(OSError):
            if targets.shared.read_bytes() == b"secret":
                done.append("opens shared memory in /dev/shm")
    return _all(done)


def kernel(targets: Targets) -> str | None:
    """Leave a note in a keyring; become root in namespaces of its own; ask what others have read."""
    libc, done = ctypes.CDLL(None), []
    numbers = {"x86_64": (248, 321), "aarch64": (217, 280)}.get(os.uname().machine)
    if numbers:
        session = ctypes.c_long(-3)  # KEY_SPEC_SESSION_KEYRING
        if libc.syscall(ctypes.c_long(numbers[0]), b"user", _KEY.encode(), b"secret", ctypes.c_long(6), session) > 0:
            done.append("leaves keys with the kernel")
    if libc.unshare(0x10000000) == 0:
        done.append("makes namespaces")
    with contextlib.suppress(OSError), open(os.__file__, "rb") as file:  # noqa: PTH123
        os.preadv(file.fileno(), [bytearray(1)], 0, os.RWF_NOWAIT)
        done.append("sees what is in the page cache")
    first, last = bytes(64), struct.pack("=LLQQQ32x", 2**32 - 1, 2**32 - 1, *[2**64 - 1] * 3)
    for number, question, what in (
        (0xC020660B, struct.pack("=QQLLLL", 0, 2**63, 0, 0, 0, 0), "sees where files lie on a disk"),  # FS_IOC_FIEMAP
        (0xC0C0583B, bytes(64) + first + last, "sees what is free on a disk"),  # FS_IOC_GETFSMAP
    ):
        with contextlib.suppress(OSError), open(os.__file__, "rb") as file:  # noqa: PTH123
            fcntl.ioctl(file.fileno(), number, question)
            done.append(what)
    if (watch := libc.inotify_init1(0)) >= 0:
        os.close(watch)
        done.append("watches files of others")
    return _all(done)


def limits(targets: Targets) -> str | None:
    """Take more memory than there is, write a file without end, or leave a core dump."""
    done = []
    quarter = os.sysconf("SC_PHYS_PAGES") // 4 * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError):
        _ = [mmap.mmap(-1, quarter, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) for _ in range(6)]  # none is touched
        done.append("takes more memory than there is")
    if resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY:
        done.append("writes files of any size")
    elif not _too_large():
        done.append("writes files beyond the limit")
    if resource.getrlimit(resource.RLIMIT_CORE)[1] > 1:
        done.append("leaves core dumps")
    return _all(done)


ATTACKS: dict[str, Callable[[Targets], str | None]] = {
    "files": files,
    "attributes": attributes,
    "network": network,
    "signals": signals,
    "memory": memory,
    "shared memory": shared_memory,
    "kernel": kernel,
    "limits": limits,
}


def outlive(held: int) -> None:
    """End, and leave behind a process of an own session, with no environment and no parent that knows it, after its
    supervisors were killed. It writes its id to `held` and keeps that open."""
    parent = os.getppid()
    tried, trying = os.pipe()
    if os.fork():
        os.close(trying)
        os.read(tried, 1)  # until it was tried
        return
    os.setsid()
    if os.fork():
        os._exit(0)
    os.write(held, f"{os.getpid()} ".encode())
    with contextlib.suppress(OSError):
        os.kill(parent, signal.SIGKILL)
    os.close(trying)
    time.sleep(60)
    os._exit(0)


def multiply(held: int, most: int) -> None:
    """Have so many processes at once; if they all are alive after a while, say so to `held`."""
    children = []
    for _ in range(most):
        child = os.fork()
        if child == 0:
            time.sleep(60)
            os._exit(0)
        children.append(child)
    time.sleep(0.5)
    if all(os.waitpid(child, os.WNOHANG) == (0, 0) for child in children):
        os.write(held, b"all")
    for child in children:
        os.kill(child, signal.SIGKILL)


def _too_large() -> bool:
    """Whether a file may not grow past the limit; nothing is written where it may not."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    with Path("large").open("wb") as file:
        try:
            os.ftruncate(file.fileno(), limit + 1)  # all of it a hole
        except OSError:
            return True
        finally:
            Path("large").unlink()
    return False


def _vector(address: int, size: int) -> ctypes.Array[ctypes.c_size_t]:
    return (ctypes.c_size_t * 2)(address, size)


def _all(done: list[str]) -> str | None:
    return ", ".join(dict.fromkeys(done)) or None
