"""Measurements so far -> what holds. Pure: no clock, no file, no randomness.

One value says little: a night of a hundred experiments keeps the lucky among the equal. So a change is kept
*provisionally* beyond one standard error of a difference; every CHECK_EVERY experiments the tip is measured once more,
with a fresh seed, and all that was kept since the last check is *confirmed* or *rolled back*. What a run has gained is
told by measurements that chose nothing: fresh seeds of the tip against those of the baseline that decided nothing.
`benchmarks/verdict.py` simulates nights under these very functions.
"""

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import accumulate
from statistics import fmean

from autoresearch.records import Agreement, Experiment, Gain, Measurement, Metric, Purpose, Spread, Verdict
from autoresearch.settings import Settings

SHORTER_BY = 10  # lines that make an equal result worth keeping
DOUBT = math.log(3)  # standard deviation of log sigma, where a program guesses it: wrong by a factor of three or so
ERRORS = 1.0  # standard errors of a difference that a gain must exceed
CHECK_EVERY = 20  # experiments between two checks of the tip
JUMP = 0.9  # of the tip's value: whole leaks have taken 0.92 to 0.998 off; mending a file that learned nothing, 0.88
_LOGS = [i / 20 for i in range(-280, 281)]  # what log sigma may be, less that of the guess


def decide(
    settings: Settings, metric: Metric, tip: Experiment | None, measurement: Measurement, lines: int, spread: Spread
) -> Verdict:
    """Keep or not: `tip` is the last kept experiment (None for the baseline), `lines` the new length of the file."""
    if measurement.outcome != "scored" or measurement.value is None:
        status = "crashed" if measurement.outcome == "scored" else measurement.outcome
        return Verdict(status, measurement.reason or "no score")
    if tip is None or tip.level is None:
        return Verdict("kept", "the baseline")
    if tip.deciding and tip.deciding.conditions != measurement.conditions:
        return Verdict("discarded", "not compared: device, torch, corpus or scoring code are not those of the tip")
    jump = metric.gain(tip.level, measurement.value)
    if metric.goal == "minimize" and jump > JUMP * abs(tip.level):
        share = f"better by {jump:.4f}, {jump / abs(tip.level):.0%} at once"
        return Verdict("quarantined", f"{share}: that is not believed until a person has read it")
    limit = settings.memory_limit
    over = limit is not None and (measurement.peak_memory or 0) > limit
    return _compare(settings, metric, tip, (measurement.value,), lines, over, spread)


def check(settings: Settings, metric: Metric, confirmed: Experiment, tip: Experiment, spread: Spread) -> Verdict:
    """Whether the tip holds, by its checks alone: `kept` if it is still better than the last one that was confirmed,
    or as good and shorter. Memory was weighed when it was kept."""
    if not (values := tip.values("check")):
        failed = next((m for m in reversed(tip.measurements) if m.purpose == "check"), None)
        return Verdict("discarded", (failed and failed.reason) or "no score")
    return _compare(settings, metric, confirmed, values, tip.lines or 0, False, spread)


def _compare(
    settings: Settings, metric: Metric, old: Experiment, new: Sequence[float], lines: int, over: bool, spread: Spread
) -> Verdict:
    """Whether `new` values of a file so many lines long beat the old one's level. over: the memory limit."""
    gain = metric.gain(fmean(old.levels), fmean(new))
    noise = max(settings.min_gain, ERRORS * spread.sigma * math.sqrt(1 / len(old.levels) + 1 / len(new)))
    needed = noise * (2 if over else 1)
    memory = " and uses more memory than the limit" if over else ""
    sigmas = f"{abs(gain):.4f} ({abs(gain) / spread.sigma:.1f} sigma)"
    if gain > needed:
        return Verdict("kept", f"better by {sigmas}{memory}")
    saved = (old.lines or 0) - lines
    if abs(gain) <= noise and saved >= SHORTER_BY and not over:
        return Verdict("kept", f"equal ({gain:+.4f}) and {saved} lines of code shorter")
    if gain > noise:
        return Verdict("discarded", f"better by {sigmas}{memory}: that asks for more than {needed:.2g}")
    if gain > 0:
        return Verdict("discarded", f"better by {sigmas}, not by more than {needed:.2g}{memory}")
    return Verdict("discarded", f"worse by {sigmas}{memory}" if gain else f"no change{memory}")


# ---------------------------------------------------------------------------------------------- measured again


def confirmed(history: Sequence[Experiment]) -> Experiment:
    """The last one that is surely better than what was before it; at first the baseline."""
    return next((e for e in reversed(history) if e.standing == "confirmed"), history[0])


def due(settings: Settings, history: Sequence[Experiment], strict: bool = False) -> tuple[Experiment, Purpose] | None:
    """What is to be measured again before the next proposal, and what for. strict: check each keep at once."""
    if not history or history[0].status != "kept":
        return None
    if _measured(history[0], "noise") < settings.seeds - 1:
        return history[0], "noise"
    tip = [e for e in history if e.holds][-1]
    regular = (history[-1].number - 1) % CHECK_EVERY == 0
    if tip.standing == "provisional" and not _measured(tip, "check") and settings.seeds > 1 and (regular or strict):
        return tip, "check"
    return None


def last_due(settings: Settings, history: Sequence[Experiment]) -> tuple[Experiment, Purpose] | None:
    """The same when a run comes to its end: a last check, and then what its gain is told by."""
    if settings.seeds == 1 or due(settings, history):
        return due(settings, history)
    held = [e for e in history if e.holds]
    if len(held) < 2:
        return None
    tip = held[-1]
    if tip.standing == "provisional" and not _measured(tip, "check"):
        return tip, "check"
    if _measured(history[0], "final") < len(history[0].scored("noise")):
        return history[0], "final"
    return (tip, "final") if _measured(tip, "final") < settings.seeds else None


def owed(settings: Settings, history: Sequence[Experiment]) -> int:
    """Trainings of the baseline that come before the first proposal."""
    return max(0, settings.seeds - (_measured(history[0], "first") + _measured(history[0], "noise") if history else 0))


def reserve(settings: Settings) -> int:
    """Trainings that a run may still need when its last proposal is decided."""
    return 0 if settings.seeds == 1 else 1 + settings.seeds


def _measured(experiment: Experiment, purpose: Purpose) -> int:
    return sum(m.purpose == purpose for m in experiment.measurements)


# ---------------------------------------------------------------------------------------------- statistics


def repeats(history: Iterable[Experiment], tested: int | None = None) -> list[tuple[float, ...]]:
    """Groups of values that differ by chance alone. `tested`: the number of an experiment whose first value is to be
    held against them.

    A value that chose its experiment is none of them, since being chosen moved it. Nothing chose the baseline's.
    """
    groups: list[tuple[float, ...]] = []
    for experiment in history:
        if experiment.number == 1:
            first: tuple[Purpose, ...] = () if tested == 1 else ("first",)
            kinds: tuple[tuple[Purpose, ...], ...] = ((*first, "noise", "replay"),)
        else:
            kinds = (("replay",), ("final",))  # which were scored on different splits
        groups += [experiment.values(*purposes) for purposes in kinds]
    return [values for values in groups if len(values) > 1]


def noise(settings: Settings, history: Iterable[Experiment], tested: int | None = None) -> Spread:
    """How far chance alone moves a value, by the program's guess and by what the history has repeated. `tested`: as in
    `repeats`."""
    return spread(settings.sigma, repeats(history, tested))


def spread(prior: float, groups: Iterable[Sequence[float]]) -> Spread:
    """Sigma by groups of repeated values and by the program's guess of it, the prior.

    A guess is wrong by a factor, either way: what is known of log sigma before anything was repeated is a normal
    distribution about the guess's, with standard deviation DOUBT. (The usual inverse gamma would all but exclude that
    the guess is too large.) `sigma` is the geometric mean of the posterior.
    """
    return _posterior(prior, *_pooled(groups))


@lru_cache(maxsize=64)
def _posterior(prior: float, squares: float, repeats: int) -> Spread:
    densities = [-((z / DOUBT) ** 2 + squares / (prior * math.exp(z)) ** 2) / 2 - repeats * z for z in _LOGS]  # logs
    top = max(densities)
    chances = [math.exp(density - top) for density in densities]
    total = sum(chances)
    mean = sum(chance * z for chance, z in zip(chances, _LOGS, strict=True)) / total
    low, high = 1.0, 100.0  # of the errors, `reach` holds 95 in 100
    while high - low > 0.001:
        reach = (low + high) / 2
        within = (math.erf(reach * math.exp(mean - z) / math.sqrt(2)) for z in _LOGS)
        inside = sum(chance * share for chance, share in zip(chances, within, strict=True)) / total
        low, high = (reach, high) if inside < 0.95 else (low, reach)
    return Spread(prior * math.exp(mean), repeats, high)


def _pooled(groups: Iterable[Sequence[float]]) -> tuple[float, int]:
    """The squares about the groups' means, and how many values more than groups there are: degrees of freedom."""
    squares, repeats = 0.0, 0
    for values in groups:
        mean = fmean(values)
        squares += sum((value - mean) ** 2 for value in values)
        repeats += len(values) - 1
    return squares, repeats


def gain(metric: Metric, history: Sequence[Experiment]) -> Gain | None:
    """What the tip has gained over the baseline on the test split; None before that was measured.

    The interval is Student's, with sigma from repeats alone: the program's own guess has no part in it.
    """
    tips = [e for e in history if e.holds]
    if len(tips) < 2 or not (old := tips[0].values("final")) or not (new := tips[-1].values("final")):
        return None
    squares, freedom = _pooled(repeats(history))
    error = None
    if freedom:
        error = student(0.975, freedom) * math.sqrt(squares / freedom * (1 / len(old) + 1 / len(new)))
    return Gain(metric.gain(fmean(old), fmean(new)), error, fmean(old), fmean(new), (len(old), len(new)))


def agreement(recorded: float, again: Sequence[float], spread: Spread) -> Agreement:
    """Two-sided test at 5 %: |mean(again) - recorded| against sigma * sqrt(1 + 1/n), sigma as far as it is known."""
    difference = fmean(again) - recorded
    allowed = spread.reach * spread.sigma * math.sqrt(1 + 1 / len(again))
    return Agreement(difference, allowed, abs(difference) <= allowed)


def student(p: float, freedom: float) -> float:
    """Quantile of Student's t, to five digits.

    With t = sqrt(freedom) * tan(a), the density of a is that of cos(a) ** (freedom - 1), between fixed ends.
    """
    if p < 0.5:
        return -student(1 - p, freedom)
    steps = 4000
    width = min(math.pi / 2, 20 / math.sqrt(freedom)) / steps  # beyond t = 20 is nothing where freedom is large
    areas = list(accumulate((math.cos((i + 0.5) * width) ** (freedom - 1) for i in range(steps)), initial=0.0))
    share = (2 * p - 1) * areas[-1]
    index = bisect_left(areas, share, lo=1)
    angle = (index - 1 + (share - areas[index - 1]) / (areas[index] - areas[index - 1])) * width
    return math.sqrt(freedom) * math.tan(angle)
