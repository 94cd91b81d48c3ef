"""Which mechanisms this machine has, and whether they hold: `python -P -m autoresearch.harness.sandbox.probe`.

Prints one line of JSON: `mechanisms`, those that work; `refused`, why others do not; `achieved`, for each attack what
it did, or null; `fails`, why the device cannot be used inside, or null. Arguments, all optional: the device, and the
mechanisms to attack, with commas between them, in place of all that work.
"""

import contextlib
import ctypes
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import NoReturn

from autoresearch.harness.sandbox import attacks, landlock, namespaces, seccomp
from autoresearch.harness.sandbox.attacks import ATTACKS, Targets
from autoresearch.harness.sandbox.confine import Sandbox, drop_privileges
from autoresearch.harness.sandbox.policy import make_devices
from autoresearch.harness.supervise import end_as, kill_below, supervise

_HOME = os.environ.get("HOME", "")
_MANY = 64  # processes, where the limit is half of that
_PATIENCE = 2.0  # seconds for a killed process to go
_CUDA = "import ctypes; raise SystemExit(ctypes.CDLL('libcuda.so.1').cuInit(0))"  # its result: 0, if it starts


def mechanisms() -> tuple[tuple[str, ...], dict[str, str]]:
    """Those that work here, and of each other one why it does not."""
    working: list[str] = []
    refused: dict[str, str] = {}

    def look(name: str, test: Callable[[], None]) -> None:
        if why := _tried(test):
            refused[name] = why
        else:
            working.append(name)

    if _tried(lambda: namespaces.unshare(["ipc"])):  # not root, or a root without its rights
        look("user", lambda: namespaces.unshare(["user"]))
    base = tuple(working)
    look("mount", lambda: _mounted([*base, "mount"]))
    for name in ("ipc", "net"):
        look(name, lambda name=name: namespaces.unshare([*base, name]))  # type: ignore[misc]
    if "mount" in working:
        look("pid", lambda: _mounted([*base, "mount", "pid"]))
    else:
        refused["pid"] = refused["mount"]
    if base and working == ["user"]:
        working.clear()
    look("landlock", _landlock)
    look("seccomp", _seccomp)
    return tuple(working), refused


def achieved(chosen: Collection[str]) -> dict[str, str | None]:
    """What each attack did in a process confined by these mechanisms, or without any if there are none."""
    with tempfile.TemporaryDirectory(prefix="autoresearch-probe-") as folder:
        private = Path(folder).resolve()
        with _targets(private) as targets:
            found = _attacked(Sandbox(chosen, private, home=_HOME), private / "own", targets)
        found["processes"] = _multiplied(Sandbox(chosen, private, _MANY // 2, _HOME), private / "many")
        found["leftovers"] = _outlived(Sandbox(chosen, private, home=_HOME), private / "left")
    return found


def fails(chosen: Collection[str]) -> str | None:
    """Why CUDA cannot be used in a process confined by these, or in a program that this starts; None if it can."""

    def start(write: int) -> None:
        for place, begin in (("", _cuda), (" in a program that is started", _started_cuda)):
            try:
                why = f"error {result}" if (result := begin()) else None
            except OSError as error:
                why = str(error)
            if why:
                os.write(write, f"CUDA does not start{place}: {why}".encode())
                return
        os.write(write, b"it does")

    make_devices()
    with tempfile.TemporaryDirectory(prefix="autoresearch-probe-") as folder:
        private = Path(folder).resolve()
        said = (
            _confined(Sandbox(chosen, private, home=_HOME), private / "own", start, device="cuda")
            or b"it cannot be tried"
        )
    return None if said == b"it does" else said.decode()


def _cuda() -> int:
    result: int = ctypes.CDLL("libcuda.so.1").cuInit(0)
    return result


def _started_cuda() -> int:
    return subprocess.run([sys.executable, "-c", _CUDA], stderr=subprocess.DEVNULL, check=False).returncode


def _tried(test: Callable[[], None]) -> str | None:
    """Why it raised, in a forked process; None if it did not."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            test()
        except BaseException as error:
            os.write(write, str(error).encode()[:300] or b"refused")
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as file:
        why = file.read().decode(errors="replace")
    _, status = os.waitpid(pid, 0)
    return why or (f"ended by signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else None)


def _mounted(chosen: Collection[str]) -> None:
    """Mounts, in a process that is forked into the namespaces."""
    namespaces.unshare([name for name in chosen if name != "mount"])

    def mount() -> None:
        namespaces.own_mounts(chosen)
        namespaces.read_only([])

    if why := _tried(mount):
        raise OSError(why)


def _landlock() -> None:
    found = landlock.version()
    if found < landlock.OLDEST:
        raise OSError(f"Landlock's version here is {found}, and {landlock.OLDEST} is needed")
    drop_privileges()
    landlock.restrict([(Path("/usr"), landlock.READABLE)])


def _seccomp() -> None:
    if not seccomp.available():
        raise OSError(f"there is no list of system calls for {os.uname().machine}")
    drop_privileges()
    seccomp.restrict(ipc=True, attributes=True)


@contextlib.contextmanager
def _targets(folder: Path) -> Iterator[Targets]:
    """What attacks aim at, as long as it lasts."""
    libc = ctypes.CDLL(None)
    libc.shmat.restype = ctypes.c_void_p
    buffer = ctypes.create_string_buffer(b"secret", 6)
    (folder / "secret").write_bytes(b"secret")
    segment = libc.shmget(0, 4096, 0o600 | 0o1000)
    if segment >= 0:
        ctypes.memmove(libc.shmat(segment, None, 0), b"secret", 6)
    shared = Path("/dev/shm") / folder.name
    try:
        shared.write_bytes(b"secret")
    except OSError:
        shared = None  # type: ignore[assignment]
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    with contextlib.ExitStack() as resources:
        port = 0
        with contextlib.suppress(OSError):  # where nobody has a network, none is reached
            port = _listen(resources, folder / "listener")
        try:
            yield Targets(os.getpid(), folder, port, ctypes.addressof(buffer), segment, shared)
        finally:
            libc.shmctl(segment, 0, None)
            if shared:
                shared.unlink()


def _listen(resources: contextlib.ExitStack, path: Path) -> int:
    """The port of a TCP and a UDP socket; beside them a Unix socket at `path`, and one for datagrams."""
    tcp = resources.enter_context(socket.create_server(("127.0.0.1", 0)))
    port: int = tcp.getsockname()[1]
    udp = resources.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    udp.bind(("127.0.0.1", port))
    threading.Thread(target=_echo, args=(udp,), daemon=True).start()
    unix = resources.enter_context(socket.socket(socket.AF_UNIX))
    unix.bind(os.fspath(path))
    unix.listen()
    letters = resources.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
    letters.bind(os.fspath(path.with_name("letters")))
    return port


def _echo(udp: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            _, sender = udp.recvfrom(16)
            udp.sendto(b"pong", sender)


def _attacked(sandbox: Sandbox, own: Path, targets: Targets) -> dict[str, str | None]:
    def attack(write: int) -> None:
        found = {}
        for name, try_ in ATTACKS.items():
            try:
                found[name] = try_(targets)
            except OSError:
                found[name] = None
        os.write(write, json.dumps(found).encode())

    answer = _confined(sandbox, own, attack)
    if not answer:
        raise RuntimeError("the confined process could not be run")
    found: dict[str, str | None] = json.loads(answer)
    return found


def _multiplied(sandbox: Sandbox, own: Path) -> str | None:
    answer = _confined(sandbox, own, lambda write: attacks.multiply(write, _MANY))
    return "begins processes without end" if answer else None


def _outlived(sandbox: Sandbox, own: Path) -> str | None:
    """Kills what is left, if it can be seen."""
    answer = _confined(sandbox, own, attacks.outlive, whole=False)
    if answer is None:
        return None
    for pid in map(int, answer.split()):
        os.kill(pid, signal.SIGKILL)
    return "leaves processes behind"


def _confined(
    sandbox: Sandbox, own: Path, work: Callable[[int], None], whole: bool = True, device: str = "cpu"
) -> bytes | None:
    """What a confined process writes. If not `whole`: None if all have let go of their end once the supervisor is gone,
    and else what they wrote before."""
    own.mkdir()
    read, write = os.pipe()
    parent = os.getpid()

    def confined() -> None:
        sandbox.confine(own, device, [])
        work(write)

    supervisor = os.fork()
    if supervisor == 0:
        end_as(lambda: supervise(parent, confined, sandbox))
    os.close(write)
    data = b""
    if not whole:
        os.waitpid(supervisor, 0)
    while True:
        if not select.select([read], [], [], None if whole else _PATIENCE)[0]:
            break
        part = os.read(read, 4096)
        data += part
        if not part:
            break
    ended = whole or not part
    os.close(read)
    if whole:
        os.waitpid(supervisor, 0)
    return data if whole or not ended else None


def _end(*_: object) -> NoReturn:
    kill_below()  # or they would make anew what is removed on the way out
    sys.exit(128 + signal.SIGTERM)


def main(device: str = "cpu", chosen: str | None = None) -> None:
    """Print what was found. SIGTERM ends it, and nothing is left."""
    signal.signal(signal.SIGTERM, _end)
    working, refused = mechanisms()
    attacked = working if chosen is None else tuple(filter(None, chosen.split(",")))
    why = fails(attacked) if device == "cuda" and attacked else None
    print(json.dumps({"mechanisms": attacked, "refused": refused, "achieved": achieved(attacked), "fails": why}))


if __name__ == "__main__":
    main(*sys.argv[1:])
