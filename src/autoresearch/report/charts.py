"""Charts in text: a line of braille dots, marks of one character each, axes with figures. They read without colour."""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from rich.text import Text

_BRAILLE = 0x2800
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # by row and column of a cell's 4 by 2 dots
_ABSURD = 1e15  # beyond it, an axis would be all figures


@dataclass(frozen=True, slots=True)
class Range:
    """What an axis spans, from its origin to its end."""

    low: float
    high: float

    def share(self, value: float) -> float:
        """Where a value lies between the ends: 0 to 1 within."""
        return (value - self.low) / (self.high - self.low)


def spanning(values: Iterable[float], margin: float = 0.04) -> Range | None:
    """A range around values, wider than nothing; what is not finite, or absurd, is left out. None if all is."""
    finite = [v for v in values if abs(v) < _ABSURD]
    if not finite:
        return None
    low, high = min(finite), max(finite)
    around = (high - low) * margin or abs(high) * 0.01 or 0.5
    return Range(low - around, high + around)


class Chart:
    """A grid of characters to draw on; what is drawn later lies above.

    width, height: of the whole, in characters, its axes included. x, y: what the axes span; y is None where there is
    nothing to draw yet. Points outside, or not finite, are not drawn.
    """

    def __init__(self, width: int, height: int, x: Range, y: Range | None) -> None:
        rows = max(1, height - 1)
        blank, y = y is None, y or Range(0.0, 1.0)
        digits = min(5, max(0, 2 - math.floor(math.log10(y.high - y.low))))
        figures = [f"{y.low + (y.high - y.low) * (rows - row - 0.5) / rows:.{digits}f}" for row in range(rows)]
        labelled = () if blank else (0, rows // 2, rows - 1)
        self._labels = [figures[row] if row in labelled else "" for row in range(rows)]
        self._margin = max(map(len, figures))
        self._columns, self._rows, self._x, self._y = max(1, width - self._margin - 2), rows, x, y
        self._dots: dict[tuple[int, int], int] = {}
        self._cells: dict[tuple[int, int], tuple[str, str]] = {}

    def line(self, points: Iterable[tuple[float, float]], style: str) -> None:
        """Join points, in braille."""
        across, down = self._columns * 2, self._rows * 4
        last: tuple[int, int] | None = None
        for x, y in points:
            dot = self._place(x, y, across, down)
            if dot:
                for column, row in _between(last or dot, dot):
                    cell = (column // 2, row // 4)
                    self._dots[cell] = self._dots.get(cell, 0) | _DOTS[row % 4][column % 2]
                    self._cells[cell] = (chr(_BRAILLE + self._dots[cell]), style)
            last = dot

    def marks(self, points: Iterable[tuple[float, float]], mark: str, style: str) -> None:
        """A character at each point."""
        for x, y in points:
            if cell := self._place(x, y, self._columns, self._rows):
                self._cells[cell] = (mark, style)

    def across(self, height: Callable[[float], float | None], mark: str, style: str, joined: bool = False) -> None:
        """A character in each column, at the height that the function has there; none where it has none.

        joined: steep parts are filled, so that no gap is seen.
        """
        last: int | None = None
        for column in range(self._columns):
            x = self._x.low + (self._x.high - self._x.low) * column / max(1, self._columns - 1)
            y = height(x)
            cell = None if y is None else self._place(x, y, self._columns, self._rows)
            if cell:
                top = bottom = cell[1]
                if joined and last is not None:
                    top, bottom = min(top, last + 1), max(bottom, last - 1)
                for row in range(top, bottom + 1):
                    self._cells[column, row] = (mark, style)
            last = cell[1] if cell else None

    def drawn(self, ends: tuple[str, str], name: str) -> list[Text]:
        """The lines of the chart. ends: figures at the ends of the x axis, whose name stands between them."""
        lines = []
        for row, label in enumerate(self._labels):
            line = Text(f"{label:>{self._margin}} {'┤' if label else '│'}", style="dim")
            cells = [self._cells.get((column, row), (" ", "")) for column in range(self._columns)]
            for style, run in itertools.groupby(cells, key=lambda cell: cell[1]):
                line.append("".join(mark for mark, _ in run), style=f"not dim {style}")
            lines.append(line)
        left, right = ends
        room = self._columns - len(left) - len(right)
        name = f" {name} " if len(name) + 4 <= room else ""
        lines.append(Text(f"{'':{self._margin}} └{left}{name:─^{max(0, room)}}{right}", style="dim"))
        return lines

    def _place(self, x: float, y: float, across: int, down: int) -> tuple[int, int] | None:
        """Column and row of a point on a grid of that size."""
        right, up = self._x.share(x), self._y.share(y)
        if not (0 <= right <= 1 and 0 <= up <= 1):  # nor what is not a number
            return None
        return round(right * (across - 1)), round((1 - up) * (down - 1))


def _between(a: tuple[int, int], b: tuple[int, int]) -> Iterable[tuple[int, int]]:
    """The dots of a straight line, its ends included."""
    steps = max(abs(b[0] - a[0]), abs(b[1] - a[1]), 1)
    for step in range(steps + 1):
        yield round(a[0] + (b[0] - a[0]) * step / steps), round(a[1] + (b[1] - a[1]) * step / steps)


def height_at(points: Sequence[tuple[float, float]], x: float) -> float | None:
    """The height of a curve of joined points at x; None beyond its ends. `points` are in order of x."""
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if x0 <= x <= x1:
            return y1 if x1 == x0 else y0 + (y1 - y0) * (x - x0) / (x1 - x0)
    return None
