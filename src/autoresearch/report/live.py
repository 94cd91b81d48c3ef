"""The live view: what a run does now, on as many lines and columns as there are.

It is drawn from what the ledger says (`Facts`) and what the process at work says (`LiveState`), so that `run` and
`status --watch` show the same. Below each other: the run in a line, the experiment at hand, two charts, the last
verdicts, and what it takes.
"""

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from autoresearch.ledger import Ledger
from autoresearch.program import program_of
from autoresearch.records import Experiment, Metric, Point, Usage
from autoresearch.report.charts import Chart, Range, height_at, spanning
from autoresearch.report.state import LiveState, current
from autoresearch.report.tables import harmless, spending, standing_word, value
from autoresearch.schema import Calls, Run
from autoresearch.units import format_duration, format_size

DOING = {
    "proposing": "proposing", "proposed": "committing", "committed": "starting", "running": "starting",
    "import": "starting", "build": "building the model", "warmup": "warming up", "train": "training",
    "save": "saving", "score": "scoring", "measured": "deciding", "decided": "settling",
    "waiting": "waiting for the device", "done": "done",
}  # fmt: skip
_BESIDE = 76  # columns from which the two charts stand beside each other
_TALLEST = 16  # lines of a chart
_LOWEST = 5  # lines under which a chart says nothing
_MOST_VERDICTS = 12
_MOST_TEXT = 2000  # characters of a text from elsewhere that are looked at
_OWN, _TIP, _KEPT = "cyan", "", "bold green"
_MEAN = 0.05  # share of the budget over which a loss is averaged
_EARLY = 0.05  # share of the budget in which losses are not yet worth the room on the chart


@dataclass(frozen=True, slots=True)
class Facts:
    """What the ledger says of a run."""

    run: Run
    experiments: tuple[Experiment, ...]
    budget: float  # seconds of training
    usage: Usage
    calls: Calls

    def experiment(self, number: int) -> Experiment | None:
        """The one of that number."""
        return next((e for e in reversed(self.experiments) if e.number == number), None)

    def tip(self, before: int) -> Experiment | None:
        """The last one kept before that number."""
        kept = (e for e in reversed(self.experiments) if e.holds)
        return next((e for e in kept if e.number < before and e.value is not None), None)

    def moved_on(self, ledger: Ledger, experiment: Experiment) -> "Facts":
        """The same with one experiment as it stands now, and the calls: to read all of a long run takes its time."""
        others = (e for e in self.experiments if e.number != experiment.number)
        experiments = sorted((*others, experiment), key=lambda e: e.number)
        tag = self.run.tag
        return replace(self, experiments=tuple(experiments), usage=ledger.usage(tag), calls=ledger.calls(tag))


def gather(ledger: Ledger, tag: str) -> Facts | None:
    """Read them; None if there is no such run yet."""
    run = ledger.run(tag)
    if run is None:
        return None
    budget = program_of(run).settings.budget
    return Facts(run, tuple(ledger.experiments(tag)), budget, ledger.usage(tag), ledger.calls(tag))


def doing(ledger: Ledger, run: Run) -> Text | None:
    """What the process at work on a run does, in a line, and why nothing; None if it has not said so."""
    state = current(ledger, run.tag)
    if state is None:
        return None
    reason = _line(state.waiting.reason if state.waiting else state.note or "")
    return Text.assemble(_doing(state, program_of(run).settings.budget, time.time()), f": {reason}" if reason else "")


@dataclass(frozen=True, slots=True)
class View:
    """A renderable that fills the lines it is given, and no more. height: lines at most; None: all there are.
    verdicts: whether to show those of the last experiments."""

    facts: Facts
    state: LiveState | None
    height: int | None = None
    verdicts: bool = False

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Its lines, none of them wrapped."""
        height = min(self.height or options.size.height, options.size.height)
        for line in lines(self.facts, self.state, options.max_width, height, time.time(), self.verdicts):
            line.no_wrap, line.overflow = True, "crop"
            yield line


def lines(
    facts: Facts, state: LiveState | None, width: int, height: int, now: float, verdicts: bool = False
) -> list[Text]:
    """The view at the time `now`, at most `height` lines of at most `width` columns."""
    number = state.number if state else max((e.number for e in facts.experiments), default=0)
    experiment = facts.experiment(number)
    head = [_rule(facts, state, width, now), _title(facts, experiment, state, width, now)]
    said = _said(facts, experiment, width)
    waited = _waited(state, width, now)
    foot = _flow(_figures(facts, state, now), width, 2)
    room = height - len(head) - len(waited) - len(foot)
    said = said[: max(0, min(3 if height >= 30 else 2, room - _LOWEST - 4))]
    room -= len(said)
    last = _verdicts(facts) if verdicts else []
    below = min(len(last), 3) + 1 if last and height >= 20 else 0
    charts: list[Text] = []
    if room - below >= _LOWEST + 4:  # the headings, and a line above and below
        most = min(room - below - 4, _TALLEST) + 2
        charts = [Text(), *_charts(facts, experiment, state, width, most, room - below - 2), Text()]
    last = last[: max(0, room - len(charts) - 1)]
    shown = [*head, *said, *waited, *charts, *last, *([Text()] if last else []), *foot]
    for line in shown:
        line.truncate(width, overflow="ellipsis")
    return shown[:height]


# ---------------------------------------------------------------------------------------------- the lines above


def _rule(facts: Facts, state: LiveState | None, width: int, now: float) -> Text:
    """The run in a line: how many, how far."""
    done = [e for e in facts.experiments if e.stage == "done"]
    kept = sum(e.holds for e in done)
    best, name = facts.tip(1 << 62), facts.run.metric.name
    parts = [f"run {facts.run.tag}", f"{len(done)} done, {kept} kept"]
    if best:
        standing = f", {best.standing}" if best.standing else ""
        parts.append(f"{_line(name)} {value(best.level)} (#{best.number}{standing})")
        base = facts.experiments[0].value
        if base is not None and best.level is not None and best.number > 1:
            parts.append(f"{best.level - base:+.4f} since #1")
    if state:
        parts.append(f"{format_duration(max(0.0, now - state.began))} at work")
    text = Text("── ", style="dim")
    for index, part in enumerate(parts):
        more = f"{' · ' if index else ''}{part}"
        if index and text.cell_len + len(more) + 3 > width:
            break
        text.append(more, style="not dim bold" if index == 0 else "not dim")
    text.append(" " + "─" * max(0, width - text.cell_len - 1))
    return text


def _title(facts: Facts, experiment: Experiment | None, state: LiveState | None, width: int, now: float) -> Text:
    """The experiment at hand, and at the right what is done with it."""
    right = _doing(state, facts.budget, now)
    number = state.number if state else experiment.number if experiment else 0
    title = _line(experiment.title if experiment else "")
    if not title and (number or not facts.experiments):
        title = f"asking {_line(facts.run.agent)}" if number > 1 else "the baseline"
    text = Text.assemble((f"#{number} " if number else "", "bold"), (title, "bold"))
    text.truncate(max(10, width - right.cell_len - 2), overflow="ellipsis")
    text.append(" " * max(1, width - right.cell_len - text.cell_len))
    return text.append_text(right)


def _doing(state: LiveState | None, budget: float, now: float) -> Text:
    if state is None:
        return Text("")
    if state.waiting:
        return Text(f"waiting, {format_duration(max(0.0, state.waiting.until - now))} more", style="yellow")
    word = _line(DOING.get(state.phase, state.phase))[:40]
    if state.phase == "train" and state.curve:
        point = state.curve[-1]
        clock = f"{format_duration(point.seconds)} of {format_duration(budget)}"
        return Text.assemble((word, _OWN), f" {clock}, step {point.step:,}")
    return Text.assemble((word, _OWN), f" {format_duration(max(0.0, now - state.since))}")


def _said(facts: Facts, experiment: Experiment | None, width: int) -> list[Text]:
    """The hypothesis, and what is expected of it."""
    if experiment is None:
        return []
    words = _line(experiment.hypothesis)
    if experiment.expect is not None:
        words = f"Expects {experiment.expect:+g}. {words}"
    return _indented(words.strip(), "dim", width)


def _waited(state: LiveState | None, width: int, now: float) -> list[Text]:
    """Why nothing happens."""
    if state is None or state.waiting is None:
        return _indented(_line(state.note), "yellow", width)[:2] if state and state.note else []
    until, reason = at(state.waiting.until), _line(state.waiting.reason)
    return _indented(f"until {until}: {reason}", "yellow", width)[:2]


def _indented(text: str, style: str, width: int) -> list[Text]:
    """In as many lines as it takes, none for nothing."""
    wrapped = Text(text, style=style).wrap(Console(width=width), max(10, width - 3)) if text else ()
    return [Text("   ").append_text(line) for line in wrapped]


def _line(text: str) -> str:
    """A text from elsewhere as one line."""
    return " ".join(harmless(text[:_MOST_TEXT]).split())


def at(moment: float) -> str:
    """A time of day, the user's own."""
    try:
        return time.strftime("%H:%M:%S", time.localtime(moment))
    except (OverflowError, ValueError, OSError):  # a file said so
        return "?"


# ---------------------------------------------------------------------------------------------- the charts


def _charts(
    facts: Facts, experiment: Experiment | None, state: LiveState | None, width: int, height: int, room: int
) -> list[Text]:
    """Two charts with two lines of heading each, beside each other, or below, or the one that says more."""
    if width >= _BESIDE:
        half = (width - 3) // 2
        left = _losses(facts, experiment, state, half, height)
        right = _values(facts, half, height)
        for line in left:
            line.truncate(half + 3, pad=True)
        return [a.append_text(b) for a, b in zip(left, right, strict=True)]
    each = min(height, (room - 1) // 2)
    if each >= _LOWEST + 2:
        return [*_losses(facts, experiment, state, width, each), Text(), *_values(facts, width, each)]
    curve = state is not None and state.curve
    return _losses(facts, experiment, state, width, height) if curve else _values(facts, width, height)


def _losses(
    facts: Facts, experiment: Experiment | None, state: LiveState | None, width: int, height: int
) -> list[Text]:
    """The loss over the clock, against the tip's; a replay's against what was recorded."""
    number = state.number if state else experiment.number if experiment else 0
    other = facts.tip(number)
    again = experiment is not None and experiment.stage == "done" and experiment.deciding is not None
    if again and state is not None:
        other = experiment
    own = _smooth(state.curve) if state else []
    before = _smooth(other.deciding.curve) if other and other.deciding else []
    points = [*own, *before]
    late = [loss for share, loss in points if share >= _EARLY] or [loss for _, loss in points]
    chart = Chart(width, height - 2, Range(0.0, 1.0), spanning(late))
    chart.across(lambda x: height_at(before, x), "·", _TIP, joined=True)
    chart.line(own, _OWN)
    legend = Text()
    if own:
        legend.append("⠤⠤ ", style=_OWN).append(f"#{number} {own[-1][1]:.4f}  ")
    if other and before:
        clock = min(max(own[-1][0], before[0][0]), before[-1][0]) if own else before[-1][0]  # where both have one
        then = value(height_at(before, clock) if len(before) > 1 else before[0][1])
        name = "recorded" if again and state is not None else f"tip #{other.number}"
        legend.append(f"·· {name} {then}{' by then' if own else ''}")
    heading = Text.assemble(("training loss", "bold"), (", nats per token", "dim"))
    return [heading, legend, *chart.drawn(("0", format_duration(facts.budget)), "clock")]


def _smooth(curve: Sequence[Point]) -> list[tuple[float, float]]:
    """Loss by share of the budget, each the mean over the twentieth of the budget before it: batches differ."""
    shown: list[tuple[float, float]] = []
    near: deque[Point] = deque()
    for point in curve:
        near.append(point)
        while near[0].progress < point.progress - _MEAN:
            near.popleft()
        shown.append((point.progress, sum(p.loss for p in near) / len(near)))
    return shown


def _values(facts: Facts, width: int, height: int) -> list[Text]:
    """The value of each experiment by its number: those kept, the others, and the line of the tip."""
    metric = facts.run.metric
    scored = [(e, e.level) for e in facts.experiments if e.level is not None]
    kept = [(float(e.number), level) for e, level in scored if e.holds]
    others = [(float(e.number), level) for e, level in scored if not e.holds]
    lost = [float(e.number) for e in facts.experiments if e.value is None and e.stage == "done"]
    last = max((e.number for e in facts.experiments), default=1)
    shown = spanning(_worth_showing([v for _, v in kept], [v for _, v in others], metric), 0.08)
    minimize = metric.goal == "minimize"
    chart = Chart(width, height - 2, Range(1.0, max(2.0, float(last))), shown)
    chart.across(lambda x: _standing(kept, x), "─", _KEPT)
    chart.marks(others, "∘", "")
    shown = shown or Range(0.0, 1.0)
    worst, best = (shown.high, shown.low) if minimize else (shown.low, shown.high)
    chart.marks([(n, worst) for n, v in others if metric.gain(worst, v) < 0], "↑" if minimize else "↓", "")
    chart.marks([(n, best) for n in lost], "×", "red")
    chart.marks(kept, "●", _KEPT)
    better = "lower" if minimize else "higher"
    heading = Text.assemble((_line(metric.name), "bold"), (f", {better} is better", "dim"))
    legend = Text.assemble(("●", _KEPT), " kept  ", ("─", _KEPT), " tip  ∘ not kept")
    if lost:
        legend.append("  ").append("×", style="red").append(" no value")
    return [heading, legend, *chart.drawn(("1", str(last)) if last > 1 else ("1", ""), "experiment")]


def _worth_showing(kept: Sequence[float], others: Sequence[float], metric: Metric) -> list[float]:
    """All kept values, and of the others those that a few very bad ones would not press flat."""
    if not kept:
        return list(others)
    base, best = kept[0], kept[-1]
    ordered = sorted(metric.gain(v, base) for v in others)  # how much worse than the baseline
    usual = ordered[int(0.7 * (len(ordered) - 1))] if ordered else 0.0
    most = max(usual, 2 * abs(best - base)) * 1.5
    return [*kept, *(v for v in others if metric.gain(v, base) <= most)]


def _standing(kept: Sequence[tuple[float, float]], x: float) -> float | None:
    """The value of the tip once experiment x was decided."""
    return next((v for number, v in reversed(kept) if number <= x), None)


# ---------------------------------------------------------------------------------------------- the lines below


def _verdicts(facts: Facts) -> list[Text]:
    """The last experiments that are done, the latest first, a line each."""
    shown = []
    for e in [e for e in facts.experiments if e.stage == "done"][: -_MOST_VERDICTS - 1 : -1]:
        word = standing_word(e)
        text = Text.assemble((f"#{e.number:<4}", "bold"), (f"{word.plain:<12}", word.style), f"{value(e.value):>8}  ")
        text.append(_line(e.title))
        if e.reason:
            text.append(f"  {_line(e.reason)}", style="dim")
        shown.append(text)
    return shown


def _figures(facts: Facts, state: LiveState | None, now: float) -> list[str]:
    """What it takes: speed, memory, money, time."""
    parts = []
    if state and state.tokens_per_second:
        parts.append(f"{state.tokens_per_second:,.0f} tokens/s")
    if state and state.memory:
        parts.append(f"memory {format_size(state.memory)}")
    if money := spending(facts.usage.usd, facts.calls, state.max_cost if state else None):
        parts.append(money)
    if state and state.deadline is not None:
        left = format_duration(max(0.0, state.deadline - now))
        parts.append(f"{left} left of {format_duration(max(0.0, state.deadline - state.began))}")
    return parts


def _flow(parts: Sequence[str], width: int, most: int) -> list[Text]:
    """Parts in as few lines as they need, broken only between them."""
    rows: list[str] = []
    for part in parts:
        if rows and len(rows[-1]) + 3 + len(part) <= width:
            rows[-1] += f" · {part}"
        else:
            rows.append(part)
    return [Text(row) for row in rows[:most]]
