"""Nights that are scripted: what the agent answers, what the engine measures, and how the run must end.

All else is real: the ledger, git, a corpus, and the loop.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from autoresearch import knobs, machine, wiring, workspace
from autoresearch.corpus.prepare import prepare
from autoresearch.lab import open_lab
from autoresearch.ledger import Ledger
from autoresearch.limits import Limits
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
    # number, status, standing, title, value
    expected: list[tuple[int, str, str | None, str, float | None]] = field(default_factory=list)
    again: dict[int, list[str]] = field(default_factory=dict)  # by experiment: what was measured again, and what for
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

    def __init__(self, scratch: Path, environ: Mapping[str, str], label: str, device: Device, **_: object) -> None:
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


@dataclass(frozen=True)
class Night:
    """A lab in which a story is told."""

    folder: Path
    story: Story

    def work(self, limits: Limits | None = None) -> None:
        """What `autoresearch run` does."""
        lab = open_lab(self.folder, self.folder.parent / "cache", {})
        program = load(self.folder / "program.md")
        with lab.lock("night"):
            text = (self.folder / "program.md").read_text()
            watcher = Watchers()
            engine = wiring.engine(lab, "night", "cpu")
            agent = wiring.agent(lab, f"replay:{self.folder / 'replies.jsonl'}", "night", watcher)
            loop = wiring.loop(lab, program, text, "night", watcher, agent, engine, strict=self.story.strict)
            loop.until(limits or Limits(experiments=len(self.story.expected)))

    def check(self) -> None:
        """Ledger, refs and files agree with each other and with a run that nothing ever happened to."""
        space = Workspace(self.folder)
        ledger = Ledger(space.state, create=False)
        experiments = ledger.experiments("night")
        assert [(e.number, e.status, e.standing, e.title, e.value) for e in experiments] == self.story.expected
        assert {e.stage for e in experiments} == {"done"}
        for experiment in experiments:
            purposes = [record.measurement.purpose for record in ledger.recorded("night", experiment.number)]
            first = [] if experiment.status == "failed" else ["first"]
            assert purposes == [*first, *self.story.again.get(experiment.number, [])]
            seeds = {record.measurement.seed for record in ledger.recorded("night", experiment.number)}
            same_weights = purposes.count("final") if experiment.number == 1 else 0
            assert len(seeds) == len(purposes) - same_weights
            assert space.attempt("night", experiment.number) == experiment.commit
        kept = [e for e in experiments if e.holds]
        assert space.branch("night") == kept[-1].commit
        assert [e.parent for e in kept[1:]] == [e.commit for e in kept[:-1]]
        for name in ("weights.safetensors", "losses.npz", "train-cache", "open-cache"):
            left = {int(path.parent.name) for path in (space.state / "runs" / "night").glob(f"*/{name}")}
            assert left == {1, kept[-1].number}
        assert not [*(space.state / "runs" / "night").glob("*/seed-*/weights.safetensors")]  # all scored in the end
        ledger.close()


def make_night(
    story: Story, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: type[ScriptedEngine] = ScriptedEngine
) -> Night:
    """The lab where a story can be told: the engine is scripted in this process."""
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
    monkeypatch.setattr(wiring, "LocalEngine", engine)
    monkeypatch.setattr(machine, "sync", lambda folder: None)  # no power is cut here, and waiting for disks adds up
    monkeypatch.setattr(workspace, "_SYNCED", ())
    return Night(lab, story)
