"""Where a run stands, by what the ledger holds."""

import pytest

from autoresearch.ledger import Ledger
from autoresearch.records import Measurement, Metric, Purpose
from autoresearch.report.status import report
from autoresearch.schema import Run

RUN = Run("t", 0.0, "t", "", "---\n---\n", "search", "cpu", "stdlib", "", Metric(), "", "base")


def test_a_device_is_busy_with_whatever_is_measured(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for what a person replays, which may be beside the run."""
    moment = [1000.0]
    monkeypatch.setattr("time.time", lambda: moment[0])
    ledger.start(RUN)
    session = ledger.enter("t", "search")

    def measured(purpose: Purpose, number: int, seed: int) -> None:
        experiment = ledger.experiment("t", number)
        assert experiment
        id = ledger.begin(experiment, purpose, seed)
        moment[0] += 50
        seconds = {"warmup": 5.0, "train": 30.0, "open": 4.0, "sealed": 1.0, "save": 3.0, "total": 50.0}
        ledger.finish(id, Measurement(seed, "scored", 2.0, seconds=seconds))

    for number in (1, 2):
        ledger.open_experiment("t")
        measured("first", number, 1)
        found = ledger.experiment("t", number)
        assert found
        ledger.advance(found, "done", status="kept", value=2.0, ended=moment[0])
    for seed, purpose in enumerate(("noise", "check", "final", "replay")):
        measured(purpose, 1, seed + 2)  # type: ignore[arg-type]
    ledger.leave(session, "done")
    assert report(ledger, RUN, False).gpu_busy == pytest.approx(4 * 40 / 250)
