"""Charts in text, as they are read."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from autoresearch.report.charts import Chart, Range, height_at, spanning


def rows(chart: Chart, ends: tuple[str, str] = ("0", "9"), name: str = "clock") -> list[str]:
    return [line.plain for line in chart.drawn(ends, name)]


def test_a_falling_line_goes_from_the_upper_left_to_the_lower_right() -> None:
    chart = Chart(20, 5, Range(0, 1), Range(0, 4))
    chart.line([(0, 4), (1, 0)], "cyan")
    assert rows(chart) == [
        "3.50 ┤⠑⠢⢄⡀          ",
        "     │   ⠈⠑⠤⣀       ",
        "1.50 ┤       ⠉⠒⢄⡀   ",
        "0.50 ┤          ⠈⠑⠢⢄",
        "     └0── clock ───9",
    ]


def test_what_is_drawn_later_lies_above_and_what_is_outside_is_left_out() -> None:
    chart = Chart(14, 4, Range(0, 2), Range(0, 3))
    chart.across(lambda x: 1.5 if x >= 1 else None, "─", "")
    chart.marks([(0, 2.9), (1, 1.5), (2, 0.1), (3, 1), (1, 9), (1, math.nan), (math.inf, 1)], "●", "")
    assert [row[6:] for row in rows(chart)[:3]] == ["●       ", "    ●───", "       ●"]


def test_a_steep_curve_has_no_gap_if_it_is_joined() -> None:
    def jump(x: float) -> float:
        return 3.5 if x < 1 else 0.5

    drawn = []
    for joined in (False, True):
        chart = Chart(11, 5, Range(0, 2), Range(0, 4))
        chart.across(jump, "·", "", joined)
        drawn.append([row[6:] for row in rows(chart)[:4]])
    assert drawn == [["··   ", "     ", "     ", "  ···"], ["··   ", "  ·  ", "  ·  ", "  ···"]]


def test_figures_are_as_fine_as_the_axis() -> None:
    fine = rows(Chart(40, 5, Range(0, 1), Range(0.9712, 0.9731)))
    assert [row.split()[0] for row in fine[:4] if "┤" in row] == ["0.97286", "0.97191", "0.97144"]
    coarse = rows(Chart(40, 5, Range(0, 1), Range(1000, 3000)))
    assert coarse[0].startswith("2750 ┤")


@pytest.mark.parametrize("values", [[2.0, math.nan], [math.inf, 0.0, 0.0], [-1.0, 1.0], [1e300, 5.0]])
def test_a_range_is_never_empty(values: list[float]) -> None:
    span = spanning(values)
    assert span and span.low < span.high < 10
    assert all(0 < span.share(v) < 1 for v in values if abs(v) < 1e9)


def test_nothing_to_draw_has_no_figures() -> None:
    assert spanning([]) is None and spanning([math.nan, math.inf]) is None
    assert [row.split() for row in rows(Chart(20, 4, Range(0, 1), None))[:3]] == [["│"]] * 3


def test_the_height_of_a_curve_between_its_points() -> None:
    curve = [(0.0, 4.0), (0.5, 2.0), (0.5, 1.0), (1.0, 0.0)]
    assert [height_at(curve, x) for x in (-0.1, 0.0, 0.25, 0.75, 1.0, 1.1)] == [None, 4.0, 3.0, 0.5, 0.0, None]
    assert height_at([], 0.5) is None


@given(
    st.lists(st.tuples(st.floats(), st.floats()), max_size=30),
    st.integers(1, 60),
    st.integers(1, 20),
    st.floats(-1e6, 1e6),
)
def test_whatever_is_drawn_no_row_is_wider_than_the_chart(
    points: list[tuple[float, float]], width: int, height: int, low: float
) -> None:
    chart = Chart(width + 20, height, Range(0, 1), Range(low, low + 7))
    chart.line(points, "")
    chart.marks(points, "●", "")
    lines = rows(chart)
    assert len(lines) == max(2, height) and max(map(cell_len, lines)) <= width + 20
