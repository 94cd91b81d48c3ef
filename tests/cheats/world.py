"""What lies around an experiment and is none of its business: files, a repository, services, a process."""

import contextlib
import ctypes
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

SECRET = b"a secret of the house"
KEY = "sesame-of-the-house"


@dataclass(frozen=True)
class World:
    """folder: with `ledger.db`, a repository `lab` and Unix sockets `listener` and `letters`; port: of TCP and UDP."""

    folder: Path
    port: int
    address: int  # of SECRET, in this process
    sleep: int  # seconds, which no other process sleeps for
    sockets: tuple[socket.socket, ...]

    def names(self) -> dict[str, str]:
        """What stands in a patch, and what is put there."""
        at = {"@FOLDER@": self.folder, "@PORT@": self.port, "@ADDRESS@": self.address, "@SLEEP@": self.sleep}
        return {name: str(value) for name, value in {**at, "@PID@": os.getpid()}.items()}

    def state(self) -> dict[str, bytes]:
        """Every file, but for what git itself keeps of a look."""
        paths = sorted(path for path in self.folder.rglob("*") if path.is_file() and path.name != "index")
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in paths}

    def visited(self) -> bool:
        """Whether anybody has called."""
        called = False
        for listener in self.sockets:
            with contextlib.suppress(BlockingIOError):
                if listener.type == socket.SOCK_STREAM:
                    listener.accept()[0].close()
                else:
                    listener.recv(16)
                called = True
        return called

    def sleepers(self) -> list[psutil.Process]:
        """What has been left behind, asleep."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.cmdline() == ["sleep", str(self.sleep)] and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found


@contextlib.contextmanager
def make_world(folder: Path) -> Iterator[World]:
    """As long as it lasts."""
    secret = ctypes.create_string_buffer(SECRET)
    (folder / "ledger.db").write_text("a ledger")
    git = ["git", "-c", "user.name=n", "-c", "user.email=e", "-C", str(folder)]
    for command in (["init", "-q", "lab"], ["-C", "lab", "commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run([*git, *command], check=True, capture_output=True)
    with contextlib.ExitStack() as resources:
        tcp = resources.enter_context(socket.create_server(("127.0.0.1", 0)))
        port = tcp.getsockname()[1]
        udp, stream, letters = (
            resources.enter_context(socket.socket(family, kind))
            for family, kind in (
                (socket.AF_INET, socket.SOCK_DGRAM),
                (socket.AF_UNIX, socket.SOCK_STREAM),
                (socket.AF_UNIX, socket.SOCK_DGRAM),
            )
        )
        udp.bind(("127.0.0.1", port))
        stream.bind(str(folder / "listener"))
        stream.listen()
        letters.bind(str(folder / "letters"))
        for one in (tcp, udp, stream, letters):
            one.setblocking(False)
        sleep = 10**8 + time.time_ns() % 10**8
        yield World(folder, port, ctypes.addressof(secret), sleep, (tcp, udp, stream, letters))
