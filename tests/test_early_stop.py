"""Early stops in a run: what is held against what, and what is said of it. The engine is scripted."""

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest

from autoresearch import knobs, pace
from autoresearch.ledger import Ledger
from autoresearch.limits import Limits
from autoresearch.records import Measurement, Progress, Trial
from autoresearch.report.status import EarlyStop, report
from autoresearch.workspace import Workspace
from tests.nights import ScriptedEngine, Story, edit, make_night

REPLIES = [edit("worse", 0.5, 0.9), edit("better", 0.5, 0.4), edit("worse again", 0.4, 0.8)]


class Paced(ScriptedEngine):
    """Ends at half of the clock what has a RATE far above the tip's, or spares it if it is told to."""

    trials: ClassVar[list[Trial]] = []
    spared = False

    def measure(self, trial: Trial, watch: Callable[[Progress], None]) -> Measurement:
        self.trials.append(trial)
        rate = float(knobs.values(trial.source)["RATE"])
        curve = (rate,) * pace.PARTS
        held = trial.pace
        condemned = None
        if held and rate - (held.tip[-1] or 0.0) > held.margin:
            condemned = "far behind"
            if not self.spared:
                return Measurement(trial.seed, "stopped", condemned=condemned, reason=condemned, harness="scripted")
        scored = super().measure(trial, watch)
        told = {"value": scored.value, "harness": "scripted", "steps": 10, "tokens": 80, "pace": curve}
        return Measurement(trial.seed, "scored", condemned=condemned, **told)


def told(settings: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spared: bool = False) -> Ledger:
    """The ledger of a run of the three replies."""
    night = make_night(Story(settings, REPLIES), tmp_path, monkeypatch, Paced)
    monkeypatch.setattr(Paced, "trials", [])
    monkeypatch.setattr(Paced, "spared", spared)
    night.work(Limits(experiments=1 + len(REPLIES)))
    return Ledger(Workspace(night.folder).state)


def statuses(ledger: Ledger) -> list[tuple[str, str | None]]:
    return [(e.status, e.reason) for e in ledger.experiments("night")]


def test_what_is_far_behind_the_tip_is_stopped_and_counted(tmp_path, monkeypatch):
    ledger = told("seeds: 2\nsigma: 0.01", tmp_path, monkeypatch)
    found = statuses(ledger)
    assert [status for status, _ in found] == ["kept", "stopped", "kept", "stopped"]
    assert found[1][1] == found[3][1] == "far behind"
    first, noise, second, third, fourth, *ending = Paced.trials
    assert first.pace is noise.pace is None  # nothing to keep pace with
    assert all(trial.pace is None for trial in ending)  # what is measured again is let finish
    assert [trial.pace and trial.pace.tip[-1] for trial in (second, third, fourth)] == pytest.approx([0.5, 0.5, 0.4])
    assert second.pace and second.pace.step == 8
    status = report(ledger, ledger.runs()[0], alive=False)
    assert status.early_stop == EarlyStop(stopped=2, spared=0, spared_kept=0)
    assert status.experiments["stopped"] == 2
    assert ledger.experiments("night")[1].value is None


def test_what_is_spared_is_judged_by_its_score(tmp_path, monkeypatch):
    ledger = told("seeds: 2\nsigma: 0.01", tmp_path, monkeypatch, spared=True)
    assert [status for status, _ in statuses(ledger)] == ["kept", "discarded", "kept", "discarded"]
    status = report(ledger, ledger.runs()[0], alive=False)
    assert status.early_stop == EarlyStop(stopped=0, spared=2, spared_kept=0)


@pytest.mark.parametrize("settings", ["seeds: 2\nsigma: 0.01\nearly_stop: false", "seeds: 1\nsigma: 0.01"])
def test_it_can_be_switched_off_and_needs_a_repeat(settings, tmp_path, monkeypatch):
    ledger = told(settings, tmp_path, monkeypatch)
    assert [status for status, _ in statuses(ledger)] == ["kept", "discarded", "kept", "discarded"]
    assert all(trial.pace is None for trial in Paced.trials)
