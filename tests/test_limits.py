"""When time is short, or somebody is in the way: a night ends in order, and takes up what the person has mended."""

import contextlib
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from autoresearch import steady, wiring
from autoresearch.errors import AgentError, DeadlinePassed, EngineError
from autoresearch.lab import open_lab
from autoresearch.ledger import Ledger
from autoresearch.limits import Limits
from autoresearch.loop import Loop
from autoresearch.program import load
from autoresearch.records import Brief, Measurement, Progress, Proposal, Trial
from autoresearch.stages import Watchers
from autoresearch.workspace import Workspace
from tests.nights import CHECKED, FILE, PLAIN, Night, ScriptedEngine, Story, make_night

TAKES = 100.0  # seconds of a measurement
TIMED = "budget: 80s\n"  # of which it is expected that it takes 98


class Clock:
    """The time by which deadlines are kept; only measurements move it."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.measured = 0
        self.takes: dict[int, float] = {}  # by the number of a measurement


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(steady, "now", lambda: made.now)
    return made


def timed(clock: Clock, meanwhile: Callable[[int], object] = lambda number: None) -> type[ScriptedEngine]:
    """An engine that takes its time. meanwhile: told of each measurement's number before it."""

    class Timed(ScriptedEngine):
        def measure(self, trial: Trial, watch: Callable[[Progress], None]) -> Measurement:
            clock.measured += 1
            meanwhile(clock.measured)
            clock.now += (takes := clock.takes.get(clock.measured, TAKES))
            if trial.deadline is not None and clock.now > trial.deadline:
                raise DeadlinePassed("the run's time is up in the middle of an experiment")
            return replace(super().measure(trial, watch), seconds={"total": takes})

    return Timed


def ledger_of(night: Night) -> Ledger:
    return Ledger(Workspace(night.folder).state)


def test_a_deadline_that_passes_in_a_repeat_ends_the_night_in_order(
    clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    story = replace(CHECKED, settings=f"{TIMED}{CHECKED.settings}")
    night = make_night(story, tmp_path, monkeypatch, timed(clock))
    clock.takes = {2: 5000.0}  # the baseline's repeat
    night.work(Limits(clock.now + 1000))
    assert ledger_of(night).sessions("night")[-1].why == "the run's time is up in the middle of an experiment"

    last = 1 + 1 + 3 + 3 + 3  # the baseline twice, edits and their checks, the end
    clock.takes = {2 + last - 1: 5000.0}
    night.work(Limits(clock.now + 4000, len(story.expected)))
    assert ledger_of(night).sessions("night")[-1].why == "4 experiments are done"
    assert clock.measured == last + 1

    night.work()
    night.check()


def test_a_night_that_is_too_short_for_its_end_tries_something_all_the_same(
    clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    story = replace(CHECKED, settings=f"{TIMED}{CHECKED.settings}", strict=False)
    night = make_night(story, tmp_path, monkeypatch, timed(clock))
    night.work(Limits(clock.now + 4.5 * TAKES))  # the baseline twice, and two of what is left
    done = ledger_of(night).experiments("night")
    assert [(e.number, e.status) for e in done] == [(1, "kept"), (2, "kept"), (3, "kept")]


@pytest.mark.parametrize(("trainings", "reserved"), [(5.5, 0), (7.5, 3)])
def test_who_proposes_leaves_time_for_the_end(
    clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trainings: float, reserved: int
) -> None:
    night = make_night(Story(f"{TIMED}seeds: 2", []), tmp_path, monkeypatch, timed(clock))
    loop, asked = loop_of(night)
    limits = Limits(clock.now + trainings * TAKES, 2)
    end = limits.deadline
    assert end and (loop.in_a_hurry(limits) is None) == bool(reserved)
    loop.until(limits)
    assert [end - (brief.until or 0) for brief in asked] == [(1 + reserved) * TAKES]


def loop_of(night: Night) -> tuple[Loop, list[Brief]]:
    """What `autoresearch run` works with, and what is asked of its agent."""
    asked: list[Brief] = []

    class Asked:
        name = "asked"

        def propose(self, brief: Brief) -> Proposal:
            asked.append(brief)
            return Proposal(title="nothing", failure="no idea")

    lab = open_lab(night.folder, night.folder.parent / "cache", {})
    path = night.folder / "program.md"
    engine = wiring.engine(lab, "night", "cpu")
    return wiring.loop(lab, load(path), path.read_text(), "night", Watchers(), Asked(), engine), asked


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def test_a_branch_that_somebody_looks_at_stays_until_they_have_looked(
    clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checked out while the second is measured, which is kept, and left while the fourth is, which is not."""
    seen = []

    def meanwhile(number: int) -> None:
        seen.append(git(night.folder, "rev-parse", "autoresearch/night"))
        if number == 2:
            git(night.folder, "switch", "--quiet", "autoresearch/night")
        if number == 3:
            assert git(night.folder, "status", "--porcelain", "--untracked-files=no") == ""
            git(night.folder, "switch", "--quiet", "-")

    night = make_night(PLAIN, tmp_path, monkeypatch, timed(clock, meanwhile))
    night.work()
    night.check()
    assert seen[0] == seen[1] == seen[2] != seen[3] != git(night.folder, "rev-parse", "autoresearch/night")


@pytest.mark.parametrize("ends", ["in order", "by Ctrl-C"])
def test_a_branch_that_somebody_still_looks_at_when_the_run_ends_is_moved_by_the_next_start(
    clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    def meanwhile(number: int) -> None:
        if number == 2:
            git(night.folder, "switch", "--quiet", "autoresearch/night")
        if number == 3 and ends == "by Ctrl-C":
            raise KeyboardInterrupt

    night = make_night(PLAIN, tmp_path, monkeypatch, timed(clock, meanwhile))
    before = git(night.folder, "rev-parse", "HEAD")
    with contextlib.suppress(KeyboardInterrupt):
        night.work(Limits(experiments=4))
    assert git(night.folder, "rev-parse", "autoresearch/night") == before
    tip = ledger_of(night).tip("night")
    assert tip and tip.number == 2
    git(night.folder, "switch", "--quiet", "-")
    night.work()
    night.check()


def test_a_baseline_that_crashed_and_was_then_cut_short_is_begun_again_as_it_is_now(
    clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Unlucky(timed(clock)):  # type: ignore[misc]
        def measure(self, trial: Trial, watch: Callable[[Progress], None]) -> Measurement:
            measured: Measurement = super().measure(trial, watch)
            if clock.measured == 2:
                raise KeyboardInterrupt
            return replace(measured, outcome="crashed", value=None) if clock.measured == 1 else measured

    night = make_night(Story(f"{TIMED}seeds: 1", []), tmp_path, monkeypatch, Unlucky)
    for rate, error in ((0.5, EngineError), (0.45, KeyboardInterrupt)):
        commit(night, rate)
        with pytest.raises(error):
            night.work(Limits(experiments=1))
    commit(night, 0.35)
    night.work(Limits(experiments=1))
    (baseline,) = ledger_of(night).experiments("night")
    assert (baseline.status, baseline.value) == ("kept", 0.35)


@pytest.mark.parametrize("takes", [98.0, 130.0])
def test_what_is_held_back_for_the_end_is_settled_when_it_is_known_what_a_training_takes(
    clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, takes: float
) -> None:
    """98 s were expected: the baseline twice, one more and three for the end. At 130 s that is too much."""
    night = make_night(Story(f"{TIMED}seeds: 2", []), tmp_path, monkeypatch, timed(clock))
    loop, asked = loop_of(night)
    clock.takes = dict.fromkeys(range(1, 20), takes)
    limits = Limits(clock.now + 6.3 * 98)
    assert loop.in_a_hurry(limits) is None
    with contextlib.suppress(AgentError):  # it has no idea, time after time
        loop.until(limits)
    assert asked
    assert (limits.deadline or 0) - (asked[0].until or 0) == (takes if takes == 130 else 4 * takes)


def commit(night: Night, rate: float) -> None:
    """Another file to begin with, if it is another."""
    (night.folder / "train_core.py").write_text(FILE.replace("0.5", str(rate)))
    git(night.folder, "commit", "--quiet", "--all", "--allow-empty", "--message", "mended")


@pytest.mark.parametrize("edited", ["file", "program", "nothing"])
def test_a_baseline_that_was_cut_short_is_begun_again_as_it_is_now(
    clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, edited: str
) -> None:
    def meanwhile(number: int) -> None:
        if number == 1:
            raise KeyboardInterrupt

    night = make_night(Story(f"{TIMED}seeds: 1", []), tmp_path, monkeypatch, timed(clock, meanwhile))
    with pytest.raises(KeyboardInterrupt):
        night.work(Limits(experiments=1))
    if edited == "file":
        commit(night, 0.45)
    if edited == "program":
        path = night.folder / "program.md"
        path.write_text(path.read_text().replace("80s", "90s"))  # with a figure, that would be another run
    night.work(Limits(experiments=1))
    (baseline,) = ledger_of(night).experiments("night")
    assert (baseline.status, baseline.value) == ("kept", 0.45 if edited == "file" else 0.5)
    assert git(night.folder, "rev-parse", "autoresearch/night") == git(night.folder, "rev-parse", "HEAD")
    assert len(ledger_of(night).recorded("night")) == 1
