"""A run that is killed at any point goes on from there: nothing is lost, and nothing is counted twice.

Every write to the ledger and every call of git is a point to be killed at. The engine is scripted here, since what is
tested is what the parent does between measurements; tests/test_loop.py kills real ones.
"""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from autoresearch import knobs, workspace
from autoresearch import lab as labs
from autoresearch.corpus.prepare import prepare
from autoresearch.ledger import Ledger
from autoresearch.loop import Limits, Watchers
from autoresearch.program import load
from autoresearch.records import Measurement, Progress, Trial
from autoresearch.settings import Device
from autoresearch.workspace import Workspace

FILE = """\
VOCAB_SIZE = 256  # bytes
CONTEXT = 8  # tokens
RATE = 0.5  # [0.1, 1.0]; step size
"""


def edit(title: str, old: float, new: float) -> str:
    line = "RATE = {}  # [0.1, 1.0]; step size"
    block = f"<<<<<<< SEARCH\n{line.format(old)}\n=======\n{line.format(new)}\n>>>>>>> REPLACE\n"
    return f"TITLE: {title}\ntrain_core.py\n{block}"


REPLIES = [
    edit("better", 0.5, 0.4),
    *["TITLE: a nonsense\n\nNo edit at all."] * 4,  # two repairs and a whole file are asked for, in vain
    edit("worse", 0.4, 0.9),
    edit("best", 0.4, 0.3),
]
EXPECTED = [  # number, status, title, value
    (1, "kept", "baseline", 0.5),
    (2, "kept", "better", 0.4),
    (3, "failed", "a nonsense", None),
    (4, "discarded", "worse", 0.9),
    (5, "kept", "best", 0.3),
]


class ScriptedEngine:
    """Scores a file by its RATE, and leaves the files that a measurement leaves."""

    hardware = "a script, 1 core, no memory"
    fingerprint = "scripted"

    def __init__(self, scratch: Path, environ: Mapping[str, str], label: str, device: Device) -> None:
        pass

    def reap(self) -> int:
        return 0

    def measure(self, trial: Trial, watch: Callable[[Progress], None]) -> Measurement:
        watch(Progress("train", 0.0))
        value = float(knobs.values(trial.source)["RATE"])
        if trial.tip:
            assert Path(trial.tip.train_cache, "kernel").exists()
        for path in (trial.keep.weights, trial.keep.losses):
            Path(path).write_bytes(b"kept")
        for path in (trial.keep.train_cache, trial.keep.open_cache):
            Path(path).mkdir(exist_ok=True)
            Path(path, "kernel").write_bytes(b"kept")
        return Measurement(seed=trial.seed, outcome="scored", value=value, seconds={"total": 0.0}, harness="scripted")


class Trap:
    """Kills its process, at once and for good, at the n-th point."""

    def __init__(self, at: int) -> None:
        self.left = at

    def spring(self) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    texts = tmp_path / "texts"
    texts.mkdir()
    for number in range(60):
        (texts / f"{number}.txt").write_text(f"{number} and some words, {number * number} of them\n" * 5)
    lab = tmp_path / "lab"
    program = (
        f"---\nedit: train_core.py\ncorpus: {texts}\nvocab_sizes: [256]\nmin_gain: 0.01\n---\nFind a better rate.\n"
    )
    workspace.create(lab, {"train_core.py": FILE, "program.md": program}, "A lab")
    (lab / "replies.jsonl").write_text("".join(json.dumps({"reply": reply}) + "\n" for reply in REPLIES))
    prepare(str(texts), [256], tmp_path / "cache")
    monkeypatch.setattr(labs, "LocalEngine", ScriptedEngine)
    return lab


def work(folder: Path) -> None:
    """What `autoresearch run` does."""
    lab = labs.open_lab(folder, folder.parent / "cache", {})
    program = load(folder / "program.md")
    with lab.lock("night"):
        text = (folder / "program.md").read_text()
        watcher = Watchers()
        agent = lab.agent(f"replay:{folder / 'replies.jsonl'}", "night", watcher)
        loop = lab.loop(program, text, "night", watcher, agent)
        loop.until(Limits(experiments=len(EXPECTED)))


def in_a_process(action: Callable[[], None]) -> int:
    """The wait status of a process that does it: 0 if it went well, 9 if it was killed."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            action()
            code = 0
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1]


def killed_at(point: int, folder: Path) -> int:
    """Work, in a process that dies at the n-th commit of a transaction or call of git."""
    trap = Trap(point)
    write, call = Ledger._write, Workspace._git

    @contextmanager
    def writing(self: Ledger) -> Iterator[object]:
        with write(self) as db:
            yield db
        trap.spring()

    def calling(self: Workspace, *command: str, env: Mapping[str, str] | None = None) -> str:
        result = call(self, *command, env=env)
        trap.spring()
        return result

    def action() -> None:
        Ledger._write = writing  # type: ignore[method-assign]
        Workspace._git = calling  # type: ignore[method-assign]
        work(folder)

    return in_a_process(action)


def check(folder: Path) -> None:
    """Ledger, refs and files agree with each other and with a run that nothing ever happened to."""
    space = Workspace(folder)
    ledger = Ledger(space.state, create=False)
    experiments = ledger.experiments("night")
    assert [(e.number, e.status, e.title, e.value) for e in experiments] == EXPECTED
    assert {e.stage for e in experiments} == {"done"}
    for experiment in experiments:
        firsts = [r for r in ledger.recorded("night", experiment.number) if r.purpose == "first"]
        assert len(firsts) == (0 if experiment.status == "failed" else 1)
        assert space.attempt("night", experiment.number) == experiment.commit
    kept = [e for e in experiments if e.status == "kept"]
    assert space.branch("night") == kept[-1].commit
    assert [e.parent for e in kept[1:]] == [e.commit for e in kept[:-1]]
    for name in ("weights.safetensors", "losses.npz", "train-cache", "open-cache"):
        left = {int(path.parent.name) for path in (space.state / "runs" / "night").glob(f"*/{name}")}
        assert left == {1, kept[-1].number}
    ledger.close()


def test_a_run_killed_at_any_point_ends_as_if_nothing_had_happened(folder: Path) -> None:
    state, points = folder / ".git", 0
    pristine = folder.parent / "pristine"
    shutil.copytree(state, pristine)
    while True:
        points += 1
        shutil.rmtree(state)
        shutil.copytree(pristine, state)
        status = killed_at(points, folder)
        if status == 0:
            break
        assert status == signal.SIGKILL, f"at point {points}"
        assert in_a_process(lambda: work(folder)) == 0, f"after point {points}"
        check(folder)
    assert points > 60
    check(folder)


def test_a_run_killed_again_and_again_still_ends(folder: Path) -> None:
    kills = 0
    for point in [3, 9, 14, 11, 17, 23, 12, 19, 13, 16, 21, 15] * 5:
        status = killed_at(point, folder)
        if status == 0:
            break
        assert status == signal.SIGKILL
        kills += 1
    assert kills >= 5
    assert in_a_process(lambda: work(folder)) == 0
    check(folder)
