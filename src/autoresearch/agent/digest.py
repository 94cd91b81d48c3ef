"""What a run has learned so far, as a bounded text for the prompt.

Titles, reasons and tracebacks were written by models and by code that models wrote: they are cleaned, cut, and marked
as data.
"""

import re
from collections import Counter
from collections.abc import Sequence

from autoresearch.agent.reply import clean
from autoresearch.history import gain_over_parent
from autoresearch.records import Experiment, Metric
from autoresearch.units import format_duration, format_size

KEPT = 30  # the latest kept experiments
OTHERS = 15  # the latest of the rest
MAX_LINE = 340
EXPLAINED = 8  # the latest of the rest, whose hypothesis is told too
MAX_DIGEST = 16_000
MAX_TRACEBACK = 3_000

_TAG = re.compile(r"<(\s*/?\s*data)", re.IGNORECASE)


def as_data(name: str, text: str) -> str:
    """The text between tags that it cannot contain, so that it cannot pretend to be anything else."""
    inert = _TAG.sub(r"‹\1", text)
    return f'<data name="{name}">\n{inert}\n</data>'


def history(experiments: Sequence[Experiment], metric: Metric) -> str:
    """The run in a page: where it stands, what was kept, what was tried of late and how each family fared."""
    done = [e for e in experiments if e.status != "running"]
    if not done:
        return "Nothing has been run yet."
    kept = [e for e in done if e.holds]
    others = [e for e in done if not e.holds]
    parts = [_standing(kept, metric)]
    if kept:
        parts.append(_listed("Kept, oldest first", kept[-KEPT:], len(kept), done, metric))
    if others:
        parts.append(_listed("Not kept, oldest first", others[-OTHERS:], len(others), done, metric))
        told = [e for e in others[-EXPLAINED:] if e.hypothesis]
        parts.append("\n".join(["What the last of these were to show:", *map(_hypothesis, told)]) if told else "")
        parts.append("Experiments and keeps by family: " + _families(done))
    return "\n\n".join(part for part in parts if part)[:MAX_DIGEST]


def crash(last: Experiment) -> str | None:
    """The end of the traceback of an experiment that crashed; None for any other."""
    if last.status != "crashed":
        return None
    failed = last.deciding
    lines = [f"title: {clean(last.title, 120)}", f"hypothesis: {clean(last.hypothesis, 400)}"]
    lines.append(f"reason: {clean(last.reason or '', 300)}")
    if failed and failed.phase:
        lines.append(f"phase: {clean(failed.phase, 40)}")
    if failed and failed.traceback:
        tail = failed.traceback[-MAX_TRACEBACK:].split("\n")
        lines += ["traceback, its end:", *(clean_code(line) for line in tail)]
    return "\n".join(lines)


def clean_code(line: str) -> str:
    """A line of a traceback: safe like `clean`, its indentation kept."""
    return line[: len(line) - len(line.lstrip(" "))][:40] + clean(line, MAX_LINE)


def _standing(kept: Sequence[Experiment], metric: Metric) -> str:
    values = [e.level for e in kept if e.level is not None]
    if not values:
        return f"No {metric.name} has been measured yet."
    gain = metric.gain(values[0], values[-1])
    standing = (
        f"{metric.name}: {_figure(values[0])} at the start, {_figure(values[-1])} now (gain {gain:+.4f};"
        " here a positive gain is always an improvement)."
    )
    speed = _speed(kept[-1])
    return f"{standing}\nThe file as it is now: {speed}." if speed else standing


def _speed(tip: Experiment) -> str:
    """What the hardware makes of the tip: where time, memory and text are left."""
    first = tip.deciding
    if first is None or not first.tokens or not first.seconds.get("train"):
        return ""
    parts = [f"{first.tokens / first.seconds['train']:,.0f} tokens/s"]
    if first.mfu is not None:
        parts.append(f"{first.mfu:.1%} of the device's peak (MFU)")
    if first.peak_memory:
        parts.append(f"{format_size(first.peak_memory)} of memory at its peak")
    if first.seconds.get("warmup") is not None:
        parts.append(f"{format_duration(first.seconds['warmup'])} of warm-up before the clock")
    if first.passes is not None:
        repeated = " (what memorizes, such as n-gram tables, does so with text that is repeated)"
        parts.append(
            f"{first.passes:.2f} passes over the {first.train_tokens:,} tokens to train on"
            + (repeated if first.passes > 1 else "")
        )
    return ", ".join(parts)


def _listed(title: str, shown: Sequence[Experiment], total: int, done: Sequence[Experiment], metric: Metric) -> str:
    count = f"{title} ({total})" if total == len(shown) else f"{title} (the last {len(shown)} of {total})"
    return "\n".join([f"{count}:", *(_line(e, gain_over_parent(e, done, metric), metric) for e in shown)])


def _line(experiment: Experiment, gain: float | None, metric: Metric) -> str:
    value = experiment.value
    figures = _figure(value) if value is not None else experiment.status
    if gain is not None:
        expected = f", expected {metric.gain(0.0, experiment.expect):+.4f}" if experiment.expect is not None else ""
        figures += f" (gain {gain:+.4f}{expected})"
    if value is not None and experiment.status not in ("kept", "discarded"):
        figures += f" {experiment.status}"
    if experiment.standing == "confirmed":
        figures += " confirmed"
    elif experiment.standing == "rolled_back":
        figures += " rolled back: measured again, what was kept with it did not hold"
    text = f"#{experiment.number} {figures}{_cost(experiment)} [{experiment.family}] {clean(experiment.title, 120)}"
    # The reason of a discard repeats the figures; that of the others is the news.
    if experiment.reason and experiment.status not in ("kept", "discarded"):
        text += f": {clean(experiment.reason, 160)}"
    return text if len(text) <= MAX_LINE else text[: MAX_LINE - 1] + "…"


def _cost(experiment: Experiment) -> str:
    """What the first training took and reached: it tells a bad idea from a slow one, and from a busy machine."""
    first = experiment.deciding
    if first is None or first.steps is None:
        return ""
    parts = [f"{first.steps} steps"]
    if first.tokens:
        parts.append(f"{first.tokens / 1e6:.3g}M tokens")
    if first.parameters:
        active = f" ({first.active_parameters / 1e6:.2f}M active)" if first.active_parameters else ""
        parts.append(f"{first.parameters / 1e6:.2f}M params{active}")
    if first.peak_memory:
        parts.append(format_size(first.peak_memory))
    if first.loss is not None:
        parts.append(f"training loss {first.loss:.3f}")
    return " in " + ", ".join(parts)


def _hypothesis(experiment: Experiment) -> str:
    return f"#{experiment.number} {clean(experiment.hypothesis, 240)}"


def _families(done: Sequence[Experiment]) -> str:
    tried = Counter(e.family for e in done if e.number > 1)
    kept = Counter(e.family for e in done if e.number > 1 and e.holds)
    return ", ".join(f"{family} {count}/{kept[family]}" for family, count in tried.most_common())


def _figure(value: float) -> str:
    return f"{value:.4f}"
