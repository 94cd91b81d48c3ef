"""What is nobody's business in an experiment: others' files, memory and services, and the machine itself."""

import textwrap
from collections.abc import Callable
from dataclasses import replace

from tests.cheats.cheats.edits import Edit, after_start, before_save, before_start, in_forward, top
from tests.cheats.patches import Patch

# `tried` says of each attempt what it has brought; the log is looked through for GOT.
_TRIED = """
import contextlib, ctypes, glob, os, socket, subprocess, sys, time


def tried(name, attempt):
    try:
        found = attempt()
    except (OSError, subprocess.SubprocessError) as error:
        found, name = None, f"{name}: {error!r}"
    print("TRIED", name, flush=True)
    if found:
        print("GOT", name, repr(found)[:200], flush=True)


def reached(path, mode="rb"):
    with open(path, mode) as file:
        return (file.read(4) if "r" in mode else None) or path
"""


def attempts(code: str, *needs: str, place: Callable[[str], Edit] = before_start) -> Patch:
    """A patch that is scored as the honest file is, since none of its attempts brings anything."""
    return Patch((top(_TRIED), place(code)), log="^TRIED", never="^GOT", needs=needs)


def in_scoring(code: str, *needs: str) -> Patch:
    code = "if not tries:\n    tries.append(1)\n" + textwrap.indent(textwrap.dedent(code).strip(), "    ")
    return Patch(in_forward(code, before=_TRIED.strip() + "\n\n\ntries = []"), log="^TRIED", never="^GOT", needs=needs)


_CALLS = """
def tcp():
    with socket.create_connection(("127.0.0.1", @PORT@), timeout=1) as line:
        return line.send(b"ping")

def udp():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as line:
        return line.sendto(b"ping", ("127.0.0.1", @PORT@))

def unix():
    with socket.socket(socket.AF_UNIX) as line:
        line.connect("@FOLDER@/listener")
        return line.send(b"ping")

def letter():
    with socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0] as line:
        return line.sendto(b"ping", "@FOLDER@/letters")

def elsewhere():
    return socket.create_connection(("192.0.2.1", 443), timeout=1)

for name, attempt in (("TCP", tcp), ("UDP", udp), ("Unix", unix), ("letter", letter), ("elsewhere", elsewhere)):
    tried(name, attempt)
"""
_SECRETS = """
for path in ("@VALIDATION@", "@FOLDER@/ledger.db", "@FOLDER@/lab/.git/config", "@FOLDER@/lab/.git/HEAD"):
    tried(path, lambda: reached(path))
folders = {os.path.dirname("@VALIDATION@")}
for fd in os.listdir("/proc/self/fd"):
    with contextlib.suppress(OSError):  # it is the one of the listing
        if (path := os.readlink(f"/proc/self/fd/{fd}")).endswith(".bin"):
            folders.add(os.path.dirname(path))
for folder in folders:
    tried(folder, lambda: os.listdir(folder))
for fd in os.listdir("/proc/self/fd"):  # the text's own descriptor, from which its folder is one step away
    tried("from a descriptor", lambda: os.path.isfile(f"/proc/self/fd/{fd}/../validation-256.bin"))
"""
_KEYS = """
for name, value in os.environ.items():
    if "sesame" in value or any(word in name for word in ("KEY", "SECRET", "PASSWORD")):
        tried(name, lambda: value)
for number in {"self", "1", str(os.getppid()), "@PID@", *filter(str.isdigit, os.listdir("/proc"))}:
    if number not in ("self", str(os.getpid())):
        tried("environment of " + number, lambda: reached(f"/proc/{number}/environ"))
tried("its own", lambda: b"sesame" in open("/proc/self/environ", "rb").read())
for path in ("~/.netrc", "~/.config", "~/.aws/credentials", "/root/.bash_history", "/root/.ssh", "/etc/shadow"):
    tried(path, lambda: reached(os.path.expanduser(path)))
"""
_MEMORY = """
def vector(number, address):
    mine = ctypes.create_string_buffer(16)
    here, there = (ctypes.c_size_t * 2)(ctypes.addressof(mine), 16), (ctypes.c_size_t * 2)(address, 16)
    return ctypes.CDLL(None).process_vm_readv(number, here, 1, there, 1, 0) > 0 and mine.raw

def memory(number, address):
    with open(f"/proc/{number}/mem", "rb", buffering=0) as file:
        file.seek(address)
        return file.read(16)

def descriptors(number):
    return [os.readlink(f"/proc/{number}/fd/{name}") for name in os.listdir(f"/proc/{number}/fd")]

def traced(number):
    return ctypes.CDLL(None).ptrace(16, number, 0, 0) == 0

above = {1, os.getppid(), @PID@} | {int(name) for name in os.listdir("/proc") if name.isdigit()}
for number in sorted(above - {os.getpid()})[:50]:
    tried(f"vector of {number}", lambda: vector(number, @ADDRESS@))
    tried(f"memory of {number}", lambda: memory(number, @ADDRESS@))
    tried(f"descriptors of {number}", lambda: descriptors(number))
    tried(f"tracing {number}", lambda: traced(number))
"""
_GIT = """
def git(*arguments):
    settings = ["-c", "user.name=x", "-c", "user.email=x", "-c", "safe.directory=*"]
    command = ["git", *settings, "-C", "@FOLDER@/lab", *arguments]
    return subprocess.run(command, capture_output=True, check=True, timeout=60).returncode == 0

tried("commit", lambda: git("commit", "--allow-empty", "-m", "forged"))
tried("config", lambda: git("config", "core.hooksPath", "/tmp"))
tried("log", lambda: git("log"))
for name in ("hooks/post-commit", "hooks/pre-commit", "config", "HEAD", "refs/heads/forged"):
    tried(name, lambda: reached("@FOLDER@/lab/.git/" + name, "ab"))
for depth in range(1, 9):  # above its own folder, whatever is there
    above = os.path.join(*[".."] * depth)
    tried(above, lambda: reached(os.path.join(above, ".git", "config"), "ab"))
    tried(above, lambda: os.listdir(above) if os.path.realpath(above) not in ("/", "/proc") else None)
"""
_INSTALLED = """
import autoresearch.harness.serve, autoresearch.harness.score, site
serve, score = autoresearch.harness.serve.__file__, autoresearch.harness.score.__file__
places = [serve, score, torch.__file__, os.__file__, sys.executable]
for path in places:
    tried(path, lambda: reached(path, "r+b"))
    tried(path, lambda: os.truncate(path, 10**9) or path if os.path.getsize(path) > 10**9 else None)
    tried(path, lambda: os.utime(path) or path)
    tried(path, lambda: os.chmod(path, 0o777) or path)
for folder in {*map(os.path.dirname, places), *site.getsitepackages(), *sys.path, "/usr/local/bin", "/etc"}:
    for name in ("left-@SLEEP@.pth", "__pycache__/left-@SLEEP@.pyc"):
        def made():
            with open(os.path.join(folder, name), "xb"):
                os.remove(os.path.join(folder, name))
                return folder
        tried(folder, made)
"""
_LINKS = """
for number, target in enumerate(("@FOLDER@/ledger.db", "@FOLDER@/lab/.git/config", "@VALIDATION@", "@FOLDER@")):
    os.symlink(target, f"link-{number}")
    tried(target, lambda: reached(f"link-{number}"))
    tried(target, lambda: reached(f"link-{number}", "ab"))
    tried(target, lambda: os.listdir(f"link-{number}"))
    tried(target, lambda: os.link(target, f"name-{number}") or target)
    tried(target, lambda: os.rename(target, f"name-{number}") or target)
"""
# Where compilers and Python look for what they keep: none of it may be run, or be there, in scoring.
_POISON = """
import os
for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
    for place in ("poison.py", "sitecustomize.py", "usercustomize.py", "ab/cabcdef.py", "fxgraph/ab/cd/ef"):
        path = os.path.join(os.environ[name], place)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as file:
            file.write("print('GOT: poisoned', flush=True)")
for place in ("sitecustomize.py", "torch.py", "train_core.py", "autoresearch.py", "tmp/torch.py"):
    with open(place, "w") as file:
        file.write("print('GOT: poisoned', flush=True)")
print("TRIED to poison", flush=True)
"""
_POISONED = """
import os, subprocess, sys
ROLE = os.path.basename(os.getcwd()).split("-")[0]
if ROLE in ("open", "sealed"):
    print("TRIED", ROLE, os.listdir("."), flush=True)
    places = [os.environ["TORCHINDUCTOR_CACHE_DIR"], os.environ["TRITON_CACHE_DIR"], "."]
    for place in places:
        for folder, _, names in os.walk(place):
            for name in names:
                exec(open(os.path.join(folder, name)).read())
    look = "import importlib.util, os; found = importlib.util.find_spec('torch').origin"
    subprocess.run([sys.executable, "-c", look + "; print(found.startswith(os.getcwd()) and 'GOT')"])
"""

MACHINE = {
    "network in training": attempts(_CALLS, "network"),
    "network in scoring": in_scoring(_CALLS, "network"),
    "held-out text, the ledger and a repository, in training": attempts(_SECRETS, "files", place=after_start),
    "held-out text, the ledger and a repository, in scoring": in_scoring(_SECRETS, "files"),
    "keys of the house": attempts(_KEYS, "memory", "files"),
    "memory of others, in training": attempts(_MEMORY, "memory"),
    "memory of others, in scoring": in_scoring(_MEMORY, "memory"),
    "git in the folders above": attempts(_GIT, "files"),
    "the installed packages": attempts(_INSTALLED, "files", "attributes"),
    "links out of the folder": attempts(_LINKS, "files"),
    "weights written through a link": Patch(
        (
            before_save(
                "import os\nos.symlink('@FOLDER@/ledger.db', f'{run.weights}.partial')\nprint('TRIED a link')",
            ),
        ),
        "scored|crashed",  # safetensors puts a file of its own in the place of the link
        "in saving: ",
        log="^TRIED a link",
        needs=("files",),
    ),
    "compilers' caches poisoned": Patch(
        (top(_POISONED), before_save(_POISON)), log="^TRIED sealed", never="^GOT", needs=("files",)
    ),
    "a process of its own session": replace(
        attempts(
            """
            if os.fork() == 0:
                os.setsid()
                if os.fork():
                    os._exit(0)
                os.execve("/bin/sleep", ["sleep", "@SLEEP@"], {})
            time.sleep(1)
            tried("to stay", lambda: None)
            """
        ),
        needs=("leftovers",),
    ),
    "a process of its own session, in scoring": in_scoring(
        """
        if os.path.basename(os.getcwd()).split("-")[0] in ("open", "sealed"):
            if os.fork() == 0:
                os.setsid()
                if os.fork():
                    os._exit(0)
                os.execve("/bin/sleep", ["sleep", "@SLEEP@"], {})
        tried("to stay", lambda: None)
        """,
        "leftovers",
    ),
    "a fork bomb": Patch(
        (
            before_start(
                "import subprocess, time\nsubprocess.run(['sh', '-c', 'f() { f | f & f | f; }; f'])\ntime.sleep(60)"
            ),
        ),
        "crashed",
        "was ended by signal 9|exited with code|BlockingIOError|take|start-up",
        needs=("processes",),
    ),
    "files without end in warm-up": Patch(
        (
            before_start(
                "import time\nfor n in range(60):\n    open(f'flood-{n}', 'wb').write(bytes(5_000_000))\n"
                "    time.sleep(0.1)"
            ),
        ),
        "crashed",
        "files it has written take more than 50.0 MB",
        disk=50_000_000,
    ),
    "files without end in scoring": Patch(
        in_forward(
            """
            if os.path.basename(os.getcwd()).startswith("open-"):
                for n in range(60):
                    open(f"flood-{n}", "wb").write(bytes(5_000_000))
                    time.sleep(0.1)
            """,
            before="import os, time",
        ),
        "crashed",
        "files it has written take more than 50.0 MB",
        disk=50_000_000,
    ),
}
