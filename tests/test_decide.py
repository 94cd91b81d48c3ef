"""Keep or not: every branch of the rule, and the statistics against known values."""

import pytest

from autoresearch.decide import SHORTER_BY, agreement, decide, spread, student
from autoresearch.records import Experiment, Measurement, Metric, Spread
from autoresearch.settings import Settings

GB = 10**9
SETTINGS = Settings(min_gain=0.01, memory_limit=GB)
TIP = Experiment(3, "t", "done", status="kept", value=2.0, lines=500)
BITS = Metric()


def scored(value: float, memory: int | None = GB // 2) -> Measurement:
    return Measurement(seed=1, outcome="scored", value=value, peak_memory=memory)


@pytest.mark.parametrize(
    ("measurement", "lines", "status", "reason"),
    [
        (scored(1.9), 500, "kept", "better by 0.1000"),
        (scored(1.9), 9999, "kept", "better by 0.1000"),
        (scored(1.995), 500, "discarded", "better by 0.0050, not by more than 0.01"),
        (scored(2.0), 500, "discarded", "no change"),
        (scored(2.3), 400, "discarded", "worse by 0.3000"),
        (scored(2.005), 500 - SHORTER_BY, "kept", "equal (-0.0050) and 10 lines of code shorter"),
        (scored(1.995), 500 - SHORTER_BY, "kept", "equal (+0.0050) and 10 lines of code shorter"),
        (scored(2.005), 501 - SHORTER_BY, "discarded", "worse by 0.0050"),
        (scored(2.02), 0, "discarded", "worse by 0.0200"),
        (scored(1.985, 2 * GB), 500, "discarded", "more memory than the limit: that asks for more than 0.02"),
        (scored(1.97, 2 * GB), 500, "kept", "better by 0.0300 and uses more memory than the limit"),
        (scored(1.999, 2 * GB), 100, "discarded", "not by more than 0.02 and uses more memory"),
        (scored(1.9, None), 500, "kept", "better by 0.1000"),
        (Measurement(1, "crashed", reason="NaN"), 500, "crashed", "NaN"),
        (Measurement(1, "stopped", reason="hopeless"), 500, "stopped", "hopeless"),
        (Measurement(1, "quarantined", reason="a leak", value=0.1), 500, "quarantined", "a leak"),
        (Measurement(1, "crashed"), 500, "crashed", "no score"),
        (Measurement(1, "scored", value=None), 500, "crashed", "no score"),
    ],
)
def test_the_rule(measurement: Measurement, lines: int, status: str, reason: str) -> None:
    verdict = decide(SETTINGS, BITS, TIP, measurement, lines)
    assert verdict.status == status
    assert reason in verdict.reason and "\n" not in verdict.reason


def test_without_a_tip_a_score_is_the_baseline() -> None:
    assert decide(SETTINGS, BITS, None, scored(9.9, 5 * GB), 500).status == "kept"
    assert decide(SETTINGS, BITS, None, Measurement(1, "crashed", reason="x"), 500).status == "crashed"


def test_where_higher_is_better() -> None:
    accuracy = Metric("accuracy", "maximize")
    assert decide(SETTINGS, accuracy, TIP, scored(2.1), 500).status == "kept"
    assert decide(SETTINGS, accuracy, TIP, scored(1.9), 500).status == "discarded"


def test_without_a_memory_limit_memory_does_not_count() -> None:
    assert decide(Settings(min_gain=0.01), BITS, TIP, scored(1.985, 10**15), 500).status == "kept"


@pytest.mark.parametrize(
    ("p", "freedom", "value"),
    [  # from published tables of Student's t
        (0.975, 4, 2.776), (0.975, 5, 2.571), (0.975, 10, 2.228), (0.975, 30, 2.042), (0.975, 120, 1.980),
        (0.95, 6, 1.943), (0.95, 20, 1.725), (0.5, 7, 0.0), (0.025, 10, -2.228), (0.975, 1e9, 1.960),
    ],
)  # fmt: skip
def test_students_t(p: float, freedom: float, value: float) -> None:
    assert student(p, freedom) == pytest.approx(value, rel=0.01, abs=1e-9)


def test_the_spread_begins_at_the_programs_and_follows_the_data() -> None:
    assert spread(0.01, []) == Spread(pytest.approx(0.01), 4)
    assert spread(0.01, [[2.0]]).sigma == pytest.approx(0.01)
    found = spread(0.01, [[2.0, 2.2], [1.0, 1.0, 1.3]])  # sums of squares 0.02 and 0.06, freedom 1 and 2
    assert found.freedom == 7
    assert found.sigma == pytest.approx(((4 * 0.01**2 + 0.02 + 0.06) / 7) ** 0.5)
    assert spread(0.01, [[0.0, 1.0] * 500]).sigma == pytest.approx(0.5, rel=0.01)


def test_agreement_is_a_test_at_five_percent() -> None:
    sure = Spread(0.01, 1e9)
    assert agreement(2.0, [2.02], sure).agrees and not agreement(2.0, [2.03], sure).agrees
    assert agreement(2.0, [2.03], sure).difference == pytest.approx(0.03)
    assert agreement(2.0, [1.97], sure).difference == pytest.approx(-0.03)
    assert agreement(2.0, [2.02], sure).allowed == pytest.approx(1.96 * 0.01 * 2**0.5, rel=1e-3)
    assert agreement(2.0, [2.02] * 4, sure).allowed == pytest.approx(1.96 * 0.01 * 1.25**0.5, rel=1e-3)
    assert agreement(2.0, [2.0], Spread(0.01, 4)).allowed > agreement(2.0, [2.0], sure).allowed
