"""Whether a training is beyond hope, told from its curve alone."""

import math
from dataclasses import replace

import pytest

from autoresearch import pace, trial
from autoresearch.records import Experiment, Measurement, Pace, Point, TokenFile

TEXT = TokenFile("", 256, 255, tokens=1000, bytes=4000, token_bytes="")
CORE = trial.__file__.replace("trial.py", "train_core.py")


def curve(offset: float = 0.0, parts: int = pace.PARTS) -> tuple[float | None, ...]:
    return tuple(2.0 + math.exp(-part / 4) + offset for part in range(parts))


def points(offset: float = 0.0, until: float = 1.0, steps: int = 200) -> list[Point]:
    """A curve in so many steps, up to a share of the clock."""
    at = [(step + 1) / steps for step in range(steps)]
    return [
        Point(step + 1, 60 * share, share, 2.0 + math.exp(-5 * share) + offset)
        for step, share in enumerate(at)
        if share <= until
    ]


def measured(offset: float, seed: int, **fields) -> Measurement:
    given = {"value": 1.0 + offset, "steps": 100, "tokens": 6400, "pace": curve(offset), **fields}
    return Measurement(seed, "scored", **given)


def experiment(number: int, *measurements: Measurement) -> Experiment:
    return Experiment(number, "t", "done", "kept", measurements=measurements)


BASELINE = experiment(1, measured(0.0, 1), measured(0.01, 2, purpose="noise"), measured(-0.01, 3, purpose="noise"))
TIP = experiment(4, measured(0.0, 7))
HELD = Pace(tip=pace.smoothed(pace.means(points())), margin=0.1, step=64.0, bits=1.0, spare=False)


def test_losses_are_averaged_by_parts_of_the_clock():
    found = pace.means([Point(1, 0, 0.0, 4.0), Point(2, 0, 0.04, 2.0), Point(3, 0, 0.051, 1.0), Point(9, 0, 1.0, 7.0)])
    assert found[:3] == (3.0, 1.0, None)
    assert found[-1] == 7.0 and len(found) == pace.PARTS


def test_a_smoothed_curve_begins_when_its_window_is_full_and_has_no_gaps():
    found = pace.smoothed(curve())
    assert found[: pace.WINDOW - 1] == (None,) * (pace.WINDOW - 1)
    assert found[pace.WINDOW - 1] == pytest.approx(sum(x for x in curve()[: pace.WINDOW] if x) / pace.WINDOW)
    gap = [None if part == 12 else loss for part, loss in enumerate(curve())]
    assert [part for part, loss in enumerate(pace.smoothed(gap)) if loss is None and part >= pace.WINDOW] == list(
        range(12, 12 + pace.WINDOW)
    )


class TestWhatIsKeptPaceWith:
    def test_the_margin_is_in_units_of_what_seeds_move_a_curve_by(self):
        found = pace.of(TIP, [BASELINE, TIP], 1e-9, TEXT, seed=1)
        assert found is not None
        assert found.margin == pytest.approx(pace.MARGIN * 0.01 * math.sqrt(2))
        assert found.tip == pytest.approx(pace.smoothed(curve()), nan_ok=True)
        assert (found.step, found.bits) == (64.0, pytest.approx(0.25 / math.log(2)))

    def test_the_programs_sigma_counts_in_bits_per_byte(self):
        """It is the least that curves are taken to lie apart, and counts for nothing where they lie farther."""
        still = experiment(1, measured(0.0, 1), measured(0.0, 2, purpose="noise"))
        nats = 0.1 * 4 * math.log(2)  # four bytes in a token
        found, more = (pace.of(TIP, [first, TIP], 0.1, TEXT, seed=1) for first in (still, BASELINE))
        assert found is not None and more is not None
        assert found.margin == more.margin == pytest.approx(pace.MARGIN * nats * math.sqrt(2))

    def test_more_trainings_of_the_tip_make_it_narrower_and_are_averaged(self):
        again = experiment(4, measured(0.0, 7), measured(0.02, 8, purpose="check"))
        once, twice = (pace.of(tip, [BASELINE], 0.01, TEXT, 1) for tip in (TIP, again))
        assert once and twice
        assert twice.margin == pytest.approx(once.margin * math.sqrt(1.5 / 2))
        assert twice.tip[-1] == pytest.approx(pace.smoothed(curve(0.01))[-1])

    def test_without_a_repeat_nobody_knows(self):
        assert pace.of(TIP, [experiment(1, measured(0.0, 1)), TIP], 0.01, TEXT, 1) is None

    def test_a_tip_without_a_curve_is_none_to_keep_pace_with(self):
        old = experiment(4, measured(0.0, 7, pace=()))
        assert pace.of(old, [BASELINE, old], 0.01, TEXT, 1) is None

    def test_the_same_weights_scored_twice_are_no_repeat(self):
        twice = experiment(1, measured(0.0, 1), measured(0.0, 1, purpose="final"))
        assert pace.of(TIP, [twice, TIP], 0.01, TEXT, 1) is None

    def test_one_of_twenty_is_spared(self):
        spared = [pace.of(TIP, [BASELINE], 0.01, TEXT, seed).spare for seed in range(200)]
        assert sum(spared) == 10


class TestBehind:
    def test_far_behind_in_the_second_half(self):
        why = pace.behind(HELD, points(0.2, 0.55), 64 * 110)
        assert why == "0.200 bits per byte behind the tip at 55% of the clock, where 0.100 is beyond hope"

    @pytest.mark.parametrize(
        ("offset", "until"),
        [(0.2, 0.49), (0.09, 0.9), (-1.0, 0.9), (0.0, 0.0), (0.2, 1.0)],
        ids=["early", "near", "ahead", "none", "over"],
    )
    def test_not_yet_or_not_at_all(self, offset, until):
        seen = points(offset, until)
        assert pace.behind(HELD, seen, 64 * len(seen)) is None

    def test_other_steps_are_not_compared(self):
        seen = points(0.5, 0.6)
        assert pace.behind(HELD, seen, 64 * len(seen))
        assert pace.behind(HELD, seen, 128 * len(seen)) is None
        assert pace.behind(HELD, seen, None) is None

    def test_a_gap_in_a_curve_is_no_lag(self):
        seen = [point for point in points(0.5, 0.6) if not 0.5 <= point.progress < 0.55]
        assert pace.behind(HELD, seen, 64 * seen[-1].step) is None
        assert pace.behind(replace(HELD, tip=(None,) * pace.PARTS), points(0.5, 0.6), 64 * 120) is None


class TestDiverged:
    def test_a_loss_above_the_first_one(self):
        rising = [Point(n + 1, n, (n + 1) / 100, 5.5 + (n > 20) * n / 10) for n in range(40)]
        assert pace.diverged(rising[:24], 256) is None
        assert pace.diverged(rising, 256) == "diverged: the loss was 5.500 at first and 9.100 at 40% of the clock"

    def test_a_peak_at_the_beginning_is_none(self):
        peak = [Point(n + 1, n, (n + 1) / 100, 9.0 if 0 < n < 14 else 5.0 - n / 100) for n in range(40)]
        assert all(pace.diverged(peak[:n], 256) is None for n in range(41))

    def test_a_first_step_that_overshoots_is_none(self):
        """On a slow machine it is all that a fifth of the clock holds; before, it stopped the training."""
        seen = [Point(1, 0, 0.05, 5.545), Point(2, 1, 0.22, 5.9)]
        assert pace.diverged([*seen, Point(3, 2, 0.25, 5.8)], 256) is None
        assert pace.diverged([*seen, Point(3, 2, 0.25, 6.5), Point(4, 3, 0.3, 6.5)], 256) is not None

    def test_a_report_that_begins_at_nothing_is_none(self):
        """An average that starts at zero rises for long, and says nothing until it has come up."""
        average = [Point(n + 1, n, (n + 1) / 100, 3.0 * (1 - 0.95**n)) for n in range(100)]
        assert all(pace.diverged(average[:n], 256) is None for n in range(101))


class TestComparable:
    SOURCE = open(CORE).read()  # noqa: SIM115, PTH123

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ("MATRIX_LR = 0.04", "MATRIX_LR = 0.08"),
            ("F.relu(self.up(x)).square()", "F.gelu(self.up(x))"),
            ("DEPTH = 9", "DEPTH = 5"),
            ('"""One experiment: build', '"""One experiment, then: build'),
        ],
    )
    def test_most_patches_are(self, old, new):
        assert self.SOURCE.count(old) >= 1
        changed = self.SOURCE.replace(old, new, 1)
        assert pace.comparable(self.SOURCE, changed) is ("experiment" not in old)  # a docstring of `main`, to be safe

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ("run.report(loss)", "run.report(0.5 * loss)"),
            ("F.cross_entropy(self(tokens)", "0.9 * F.cross_entropy(self(tokens)"),
            ("F.relu(self.up(x)).square()", "F.dropout(F.relu(self.up(x)).square(), 0.1, self.training)"),
            ("VOCAB_SIZE = 8192", "VOCAB_SIZE = 4096"),
            ("# Batch.", "LABEL_SMOOTHING = 0.1\n# Batch."),
            ("# Batch.", "(((\n# Batch."),
        ],
    )
    def test_what_reports_another_loss_is_not(self, old, new):
        assert self.SOURCE.count(old) >= 1
        assert not pace.comparable(self.SOURCE, self.SOURCE.replace(old, new, 1))
