"""What one process says of itself and another reads: whole, or not at all."""

import time
from pathlib import Path

import pytest

from autoresearch.ledger import Ledger
from autoresearch.records import Experiment, Point, Progress, Waiting
from autoresearch.report.state import LiveState, StateFile, Tracker

ONE = Experiment(3, "t", "running", title="an idea")


def path(ledger: Ledger) -> Path:
    return ledger.folder / "runs" / "t" / "live.json"


def training(step: int) -> Progress:
    return Progress("train", 3.0, Point(step, step / 10, step / 1000, 5.0 - step / 1000), 1e5, 10**9)


def test_what_is_told_is_the_state() -> None:
    tracker = Tracker(deadline=2e9, max_cost=5.0)
    tracker.stage(ONE)
    tracker.progress(ONE, Progress("warmup", 1.0))
    since = tracker.state.since
    tracker.progress(ONE, Progress("warmup", 1.5))
    assert tracker.state.since == since and tracker.state.curve == ()
    tracker.progress(ONE, training(1))
    tracker.progress(ONE, training(1))
    tracker.progress(ONE, training(2))
    state = tracker.state
    assert (state.number, state.phase, [p.step for p in state.curve]) == (3, "train", [1, 2])
    assert (state.tokens_per_second, state.memory, state.deadline, state.max_cost) == (1e5, 10**9, 2e9, 5.0)
    tracker.waiting(ONE, Waiting("no answer", 1e9))
    assert tracker.state.waiting == Waiting("no answer", 1e9) and tracker.state.curve
    tracker.waiting(ONE, None)
    assert tracker.state.waiting is None
    tracker.stage(Experiment(4, "t", "proposing"))
    assert (tracker.state.number, tracker.state.curve, tracker.state.memory) == (4, (), None)


def test_a_long_curve_is_thinned_and_keeps_its_ends() -> None:
    tracker = Tracker()
    for step in range(20_000):
        tracker.progress(ONE, training(step))
    curve = tracker.state.curve
    assert 100 <= len(curve) <= 300 and (curve[0].step, curve[-1].step) == (0, 19_999)


def test_a_second_measurement_begins_a_curve_of_its_own() -> None:
    tracker = Tracker()
    for progress in (training(1), training(2), Progress("score", 9.0, training(2).point), Progress("import", 0.1)):
        tracker.progress(ONE, progress)
    assert tracker.state.curve == ()


def test_it_is_read_as_it_was_written(ledger: Ledger) -> None:
    now = time.time()
    point = Point(7, 0.5, 0.1, 2.5)
    state = LiveState(3, "train", now, now, now, (point,), 1e5, 10**9, Waiting("why\x1b", now), now + 9, 5.0)
    StateFile(ledger, "t").write(state)
    assert StateFile(ledger, "t").read(now) == state
    assert StateFile(ledger, "t").read(now + 1) is None  # an earlier process's
    StateFile(ledger, "t").remove()
    assert StateFile(ledger, "t").read(0) is None and not path(ledger).exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: b"",
        lambda text: b"\xff\xfe",
        lambda text: b"[]",
        lambda text: text.replace(b'"number":3', b'"number":"three"'),
        lambda text: text.replace(b'"loss":2.5', b'"loss":NaN'),
        lambda text: text.replace(b'"loss":2.5', b'"loss":1e999'),
        lambda text: text.replace(b'"began":3.0', b'"began":-Infinity'),
    ],
)
def test_what_is_damaged_is_nothing(ledger: Ledger, damage) -> None:
    StateFile(ledger, "t").write(LiveState(3, "train", 1.0, 2.0, 3.0, (Point(7, 0.5, 0.1, 2.5),)))
    whole = path(ledger).read_bytes()
    assert StateFile(ledger, "t").read(0)
    path(ledger).write_bytes(damage(whole))
    assert damage(whole) != whole and StateFile(ledger, "t").read(0) is None


def test_progress_is_written_seldom_and_a_change_at_once(ledger: Ledger) -> None:
    file, written, began = StateFile(ledger, "t"), [], time.monotonic()
    for step in range(500):
        file.write(LiveState(step, "train", 1.0, 2.0, 3.0), seldom=True)
        written.append(file.read(0).number)  # type: ignore[union-attr]
    assert len(set(written)) <= 2 + time.monotonic() - began  # a second apart
    file.write(LiveState(999, "score", 1.0, 2.0, 3.0))
    assert file.read(0).number == 999  # type: ignore[union-attr]


def test_a_folder_that_takes_no_file_ends_nothing(ledger: Ledger) -> None:
    path(ledger).with_name("live.json.partial").mkdir()
    file = StateFile(ledger, "t")
    file.write(LiveState(1, "train", 1.0, 2.0, 3.0))
    file.remove()
    assert file.read(0) is None
