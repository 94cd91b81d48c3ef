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
from dataclasses import dataclass
from pathlib import Path

import pytest

from autoresearch import knobs, machine, workspace
from autoresearch import lab as labs
from autoresearch.corpus.prepare import prepare
from autoresearch.engine.sandbox import Sandbox
from autoresearch.ledger import Ledger
from autoresearch.loop import Limits
from autoresearch.program import load
from autoresearch.records import Measurement, Progress, Trial
from autoresearch.settings import Device
from autoresearch.stages import Watchers
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


@dataclass(frozen=True)
class Story:
    """A run: what its program says, what the agent answers, and how it must end."""

    settings: str
    replies: list[str]
    expected: list[tuple[int, str, str | None, str, float | None]]  # number, status, standing, title, value
    again: dict[int, list[str]]  # by experiment: what was measured again, and what for
    strict: bool = False
    points: int = 60  # at least so many to be killed at


PLAIN = Story(
    "seeds: 1",
    [
        edit("better", 0.5, 0.4),
        *["TITLE: a nonsense\n\nNo edit at all."] * 4,  # two repairs and a whole file are asked for, in vain
        edit("worse", 0.4, 0.9),
        edit("best", 0.4, 0.3),
    ],
    [
        (1, "kept", None, "baseline", 0.5),
        (2, "kept", "provisional", "better", 0.4),
        (3, "failed", None, "a nonsense", None),
        (4, "discarded", None, "worse", 0.9),
        (5, "kept", "provisional", "best", 0.3),
    ],
    {},
)
# The second edit is measured at 0.21 and is 0.41 in truth: it is kept, checked and rolled back.
CHECKED = Story(
    "seeds: 2",
    [edit("better", 0.5, 0.4), edit("lucky", 0.4, 0.41), edit("best", 0.4, 0.3)],
    [
        (1, "kept", None, "baseline", 0.5),
        (2, "kept", "confirmed", "better", 0.4),
        (3, "kept", "rolled_back", "lucky", 0.21),
        (4, "kept", "confirmed", "best", 0.3),
    ],
    {1: ["noise", "final"], 2: ["check"], 3: ["check"], 4: ["check", "final", "final"]},
    strict=True,
    points=90,
)
LUCK = {0.41: 0.2}  # by rate: what the first measurement flatters


class ScriptedEngine:
    """Scores a file by its RATE, and leaves the files that a measurement leaves."""

    hardware = "a script, 1 core, no memory"
    fingerprint = "scripted"

    def __init__(
        self, scratch: Path, environ: Mapping[str, str], label: str, device: Device, sandbox: Sandbox | None
    ) -> None:
        pass

    def reap(self) -> int:
        return 0

    def measure(self, trial: Trial, watch: Callable[[Progress], None]) -> Measurement:
        watch(Progress("train", 0.0))
        rate = float(knobs.values(trial.source)["RATE"])
        again = "seed-" in trial.logs
        value = round(rate - (0.0 if again else LUCK.get(rate, 0.0)), 9)
        if trial.tip:
            assert Path(trial.tip.train_cache, "kernel").exists()
        if trial.weights:
            assert Path(trial.weights).read_bytes() == b"kept"
        if trial.keep is None:
            return Measurement(seed=trial.seed, outcome="scored", value=value, harness="scripted")
        Path(trial.logs).mkdir(exist_ok=True)
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

    def __call__(self) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


class Camera:
    """Copies what is on the disk at every point: what a process that is killed there leaves."""

    def __init__(self, state: Path, copies: Path) -> None:
        self.state, self.copies, self.taken = state, copies, 0

    def __call__(self) -> None:
        self.taken += 1
        shutil.copytree(self.state, self.copies / f"{self.taken:04}")


@pytest.fixture(params=[PLAIN, CHECKED], ids=["plain", "checked"])
def story(request: pytest.FixtureRequest) -> Story:
    return request.param


@pytest.fixture
def folder(story: Story, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return make_folder(story, tmp_path, monkeypatch)


def make_folder(story: Story, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A lab where the story can be told: the engine is scripted in this process."""
    texts = tmp_path / "texts"
    texts.mkdir()
    for number in range(60):
        (texts / f"{number}.txt").write_text(f"{number} and some words, {number * number} of them\n" * 5)
    lab = tmp_path / "lab"
    settings = f"edit: train_core.py\ncorpus: {texts}\nvocab_sizes: [256]\nmin_gain: 0.01\n{story.settings}"
    program = f"---\n{settings}\n---\nFind a better rate.\n"
    workspace.create(lab, {"train_core.py": FILE, "program.md": program}, "A lab")
    (lab / "replies.jsonl").write_text("".join(json.dumps({"reply": reply}) + "\n" for reply in story.replies))
    prepare(str(texts), [256], tmp_path / "cache")
    monkeypatch.setattr(labs, "LocalEngine", ScriptedEngine)
    monkeypatch.setattr(machine, "sync", lambda folder: None)  # no power is cut here, and waiting for disks adds up
    monkeypatch.setattr(workspace, "_SYNCED", ())
    return lab


def work(folder: Path, story: Story, limits: Limits | None = None) -> None:
    """What `autoresearch run` does."""
    lab = labs.open_lab(folder, folder.parent / "cache", {})
    program = load(folder / "program.md")
    with lab.lock("night"):
        text = (folder / "program.md").read_text()
        watcher = Watchers()
        agent = lab.agent(f"replay:{folder / 'replies.jsonl'}", "night", watcher)
        loop = lab.loop(program, text, "night", watcher, agent, strict=story.strict)
        loop.until(limits or Limits(experiments=len(story.expected)))


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


def worked(folder: Path, story: Story, at_each: Callable[[], None]) -> int:
    """The wait status of a process that works and does something at each point: when a transaction has been committed,
    or git called."""
    write, call = Ledger._write, Workspace._git

    @contextmanager
    def writing(self: Ledger) -> Iterator[object]:
        with write(self) as db:
            yield db
        at_each()

    def calling(self: Workspace, *command: str, env: Mapping[str, str] | None = None) -> str:
        result = call(self, *command, env=env)
        at_each()
        return result

    def action() -> None:
        Ledger._write = writing  # type: ignore[method-assign]
        Workspace._git = calling  # type: ignore[method-assign]
        work(folder, story)

    return in_a_process(action)


def check(folder: Path, story: Story) -> None:
    """Ledger, refs and files agree with each other and with a run that nothing ever happened to."""
    space = Workspace(folder)
    ledger = Ledger(space.state, create=False)
    experiments = ledger.experiments("night")
    assert [(e.number, e.status, e.standing, e.title, e.value) for e in experiments] == story.expected
    assert {e.stage for e in experiments} == {"done"}
    for experiment in experiments:
        purposes = [record.measurement.purpose for record in ledger.recorded("night", experiment.number)]
        first = [] if experiment.status == "failed" else ["first"]
        assert purposes == [*first, *story.again.get(experiment.number, [])]
        seeds = {record.measurement.seed for record in ledger.recorded("night", experiment.number)}
        assert len(seeds) == len(purposes) - (experiment.number == 1) * purposes.count("final")  # of the same weights
        assert space.attempt("night", experiment.number) == experiment.commit
    kept = [e for e in experiments if e.holds]
    assert space.branch("night") == kept[-1].commit
    assert [e.parent for e in kept[1:]] == [e.commit for e in kept[:-1]]
    for name in ("weights.safetensors", "losses.npz", "train-cache", "open-cache"):
        left = {int(path.parent.name) for path in (space.state / "runs" / "night").glob(f"*/{name}")}
        assert left == {1, kept[-1].number}
    ledger.close()


def test_a_run_killed_at_any_point_ends_as_if_nothing_had_happened(folder: Path, story: Story) -> None:
    state, copies = folder / ".git", folder.parent / "copies"
    assert worked(folder, story, Camera(state, copies)) == 0
    check(folder, story)
    points = sorted(copies.iterdir())
    assert len(points) > story.points
    for point in points:
        shutil.rmtree(state)
        point.rename(state)
        assert in_a_process(lambda: work(folder, story)) == 0, f"after point {point.name}"
        check(folder, story)


def test_a_run_killed_again_and_again_still_ends(folder: Path, story: Story) -> None:
    kills = 0
    for point in [3, 9, 14, 11, 17, 23, 12, 19, 13, 16, 21, 15] * 5:
        status = worked(folder, story, Trap(point))
        if status == 0:
            break
        assert status == signal.SIGKILL
        kills += 1
    assert kills >= 5
    assert in_a_process(lambda: work(folder, story)) == 0
    check(folder, story)


def test_what_a_keep_leaves_is_on_the_disk_before_the_ledger_says_so(
    folder: Path, story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a power cut could leave a tip whose caches are half there, and each experiment on it would crash."""
    synced: list[tuple[int, str] | None] = []

    def sync(place: Path) -> None:
        ledger = Ledger(place, create=False)
        waiting = ledger.unfinished("night")
        synced.append((waiting.number, waiting.stage) if waiting else None)
        ledger.close()

    monkeypatch.setattr(machine, "sync", sync)
    work(folder, story)
    kept = [number for number, status, *_ in story.expected if status == "kept"]
    assert [at for at in synced if at] == [(number, "running") for number in kept]
    assert synced.count(None) == sum(purposes.count("noise") for purposes in story.again.values())
