"""A lab as a user has one: the installed command, a real repository, a small corpus, and a run with every verdict.

What costs seconds is made once per test session and copied: a copy of a lab's folder is another lab with its own git
directory and ledger, as it is for a user.
"""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import settings

from autoresearch import knobs
from tests.llm_server import LLMServer
from tests.nights import CHECKED, PLAIN, Night, make_night

# A shell starts what it puts into the background with Ctrl-C ignored, and all children inherit that: here it is heard.
signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("anywhere", deadline=None)  # also on a machine that is busy
settings.load_profile("anywhere")

COMMAND = Path(sys.executable).with_name("autoresearch")
TIMEOUT = 240  # seconds: far more than any command here takes, even on a busy machine

PROGRAM = """---
budget: 60s
max_steps: 2
startup_limit: 5m
corpus: {corpus}
vocab_sizes: [256]
validation: 20KB
audit: 16
min_gain: 0.002
sigma: 0.01
seeds: 1
device: cpu
constants: {{DEPTH: 1, HEAD_DIM: 32, CONTEXT: 64, VOCAB_SIZE: 256, BATCH_ROWS: 4, MICRO_ROWS: 4,
  UNEMBEDDING_LR: 0.0005}}
---

Make it better.
"""


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)


@dataclass(frozen=True)
class Lab:
    """A folder to run commands in, as a user does: the console script, a home and a cache of its own."""

    root: Path
    home: Path
    cache: Path
    env: Mapping[str, str] = field(default_factory=dict)

    def environ(self) -> dict[str, str]:
        fixed = {
            "HOME": str(self.home),
            "AUTORESEARCH_CACHE": str(self.cache),
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "COLUMNS": "80",
            "GIT_CONFIG_NOSYSTEM": "1",
            "OMP_NUM_THREADS": "1",
        }
        inherited = {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
        return fixed | inherited | dict(self.env)

    def start(self, *arguments: object, **options) -> subprocess.Popen[str]:
        """Begin a command in a process group of its own, so that a test can press Ctrl-C on all of it."""
        command = [str(COMMAND), *map(str, arguments)]
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        given = {"cwd": self.root, "env": self.environ(), "text": True, "start_new_session": True, **pipes, **options}
        return subprocess.Popen(command, **given)

    def __call__(self, *arguments: object, input: str | None = None, **options) -> Done:
        """Run a command to its end."""
        if input is not None:
            options["stdin"] = subprocess.PIPE
        process = self.start(*arguments, **options)
        try:
            out, err = process.communicate(input, timeout=TIMEOUT)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        return Done(process.returncode, out, err)

    def git(self, *arguments: object) -> str:
        command = ["git", *map(str, arguments)]
        environ = self.environ()
        return subprocess.run(
            command, cwd=self.root, env=environ, text=True, capture_output=True, check=True
        ).stdout.strip()

    def at(self, root: Path, **env: str) -> "Lab":
        """The same user in another folder."""
        return Lab(root, self.home, self.cache, {**self.env, **env})

    def copy(self, root: Path) -> "Lab":
        shutil.copytree(self.root, root, symlinks=True)
        return self.at(root)

    @property
    def program(self) -> Path:
        return self.root / "programs" / "quick.md"

    @property
    def train_core(self) -> Path:
        return self.root / "train_core.py"

    @property
    def ledger(self) -> Path:
        return self.root / ".git" / "autoresearch" / "ledger.db"

    def write_program(self, old: str = "", new: str = "", name: str = "quick") -> Path:
        """The program with one piece of its text replaced."""
        text = self.program.read_text()
        assert old in text
        path = self.root / "programs" / f"{name}.md"
        path.write_text(text.replace(old, new) if old else text)
        return path


def reply(*blocks: tuple[str, str], title: str = "a change", body: str = "") -> str:
    """What a model answers."""
    patch = "".join(f"<<<<<<< SEARCH\n{old}\n=======\n{new}\n>>>>>>> REPLACE\n" for old, new in blocks)
    return f"TITLE: {title}\nFAMILY: optimizer\nHYPOTHESIS: because.\nEXPECT: -0.1\ntrain_core.py\n{patch}{body}"


def recording(path: Path, *replies: str) -> str:
    """A file of recorded replies, as --agent takes it."""
    path.write_text("".join(json.dumps({"reply": text}) + "\n" for text in replies))
    return f"replay:{path}"


def setting(name: str, old: object, new: object) -> tuple[str, str]:
    """A block that changes a constant of the file in a lab."""
    source = files("autoresearch").joinpath("train_core.py").read_text()
    line = source.splitlines()[knobs.read(source)[name].line - 1]
    return tuple(re.sub(r"= \S+", f"= {value}", line, count=1) for value in (old, new))


# What the shared run was answered: one experiment each that is kept, discarded, crashed and failed.
KEPT = reply(setting("UNEMBEDDING_LR", 0.0005, 0.02), title="Learn the output faster [bold]!")
DISCARDED = reply(setting("UNEMBEDDING_LR", 0.02, 0.0001), title="Learn the output slower")
CRASHED = reply(setting("CONTEXT", 64, 1), title="Shorter rows")
FAILED = reply(("NOTHING = LIKE THIS", "NOTHING = 1"), title="Not there")
CHEAP = reply(setting("CONTEXT", 64, 0), title="Costs no training")  # committed, and then refused


def write_texts(folder: Path) -> None:
    """A few hundred kilobytes in several documents, the same every time."""
    draw = random.Random(0)
    words = ["".join(draw.choices("etaoinshrdlu", k=draw.randint(1, 9))) for _ in range(300)]
    folder.mkdir(parents=True)
    for number in range(60):
        lines = [" ".join(draw.choices(words, k=draw.randint(3, 12))) for _ in range(draw.randint(40, 160))]
        (folder / f"{number:02}.txt").write_text("\n".join(lines) + f"\n{number}\n")


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], None]], Path]:
    """Make a folder once per session, however many processes run the tests."""
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    shared.mkdir(exist_ok=True)

    def make(name: str, fill: Callable[[Path], None]) -> Path:
        with FileLock(shared / f"{name}.lock"):
            if not (shared / f"{name}.done").exists():
                fill(shared / name)
                (shared / f"{name}.done").touch()
        return shared / name

    return make


@pytest.fixture(scope="session")
def texts(once) -> Path:
    """A folder of text, for a corpus. Read-only."""
    return once("texts", write_texts)


@pytest.fixture(scope="session")
def pristine(once, texts: Path) -> Lab:
    """A lab as `init` makes it, its corpus prepared and nothing run. Read-only: copy it."""

    def fill(root: Path) -> None:
        home = root / "home"
        home.mkdir(parents=True)
        (home / ".gitconfig").write_text("[user]\n\tname = Ada\n\temail = ada@example.org\n")
        made = Lab(root, home, root / "cache")
        assert made("init", "lab").code == 0
        (root / "lab" / "programs" / "quick.md").write_text(PROGRAM.format(corpus=texts))
        done = made("prepare", "--program", "lab/programs/quick.md")
        assert done.code == 0, done.err

    root = once("pristine", fill)
    return Lab(root / "lab", root / "home", root / "cache")


@pytest.fixture(scope="session")
def finished(once, pristine: Lab) -> Lab:
    """A lab with a finished run of five experiments: kept (the baseline), kept, discarded, crashed, failed. Read-only:
    copy it. Its agent is a recording."""

    def fill(root: Path) -> None:
        lab = pristine.copy(root)
        answers = recording(root / ".git" / "replies.jsonl", KEPT, DISCARDED, CRASHED, *[FAILED] * 4)
        done = lab("run", "--program", "programs/quick.md", "--experiments", 5, "--agent", answers)
        assert done.code == 0, done.err + done.out

    return pristine.at(once("finished", fill))


@pytest.fixture(scope="session")
def baseline(once, pristine: Lab) -> Lab:
    """A lab with a run that has its baseline and nothing else. Read-only: copy it."""

    def fill(root: Path) -> None:
        done = pristine.copy(root)("run", "--program", "programs/quick.md", "--experiments", 1)
        assert done.code == 0, done.err + done.out

    return pristine.at(once("baseline", fill))


@pytest.fixture
def lab(pristine: Lab, tmp_path: Path) -> Lab:
    """A fresh lab of the test's own, with a cache of its own, a prepared corpus and a program `quick`."""
    at_work = shutil.ignore_patterns("scratch")  # by other tests, whose labs share the cache
    cache = shutil.copytree(pristine.cache, tmp_path / "lab-cache", ignore=at_work)
    return replace(pristine.copy(tmp_path / "lab"), cache=cache)


@pytest.fixture
def ran(finished: Lab, tmp_path: Path) -> Lab:
    """A lab of the test's own with the finished run in it."""
    return finished.copy(tmp_path / "ran")


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that train nothing: fork servers import nothing ahead, which saves seconds of every run."""
    path = (str(Path(__file__).parent / "late"), os.environ.get("PYTHONPATH"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, path)))


@pytest.fixture(params=[PLAIN, CHECKED], ids=["plain", "checked"])
def night(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Night]:
    """A lab for each story, whose engine is scripted. In memory, where there is room: its ledger's waits for a disk add
    up to minutes."""
    memory = Path("/dev/shm")
    if not memory.is_dir() or shutil.disk_usage(memory).free < 2e9:
        yield make_night(request.param, tmp_path, monkeypatch)
        return
    with tempfile.TemporaryDirectory(dir=memory, prefix="autoresearch-night-") as folder:
        yield make_night(request.param, Path(folder).resolve(), monkeypatch)


@pytest.fixture
def llm_server() -> Iterator[LLMServer]:
    """A server for models, listening. `environ()` has the variables that send a lab's commands to it."""
    with LLMServer() as server:
        yield server


def contents(root: Path, *, without: tuple[str, ...] = ()) -> dict[str, bytes | str]:
    """Every file and link below a folder, byte for byte, but for the parts named."""
    found: dict[str, bytes | str] = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if not name.startswith(without):
            if path.is_symlink():
                found[name] = str(path.readlink())
            elif path.is_file():
                found[name] = path.read_bytes()
    return found
