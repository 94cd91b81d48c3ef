"""Measurements so far -> Verdict. Pure: no clock, no file, no randomness."""

import math
from collections.abc import Iterable, Sequence
from statistics import NormalDist, fmean

from autoresearch.records import Agreement, Experiment, Measurement, Metric, Spread, Verdict
from autoresearch.settings import Settings

SHORTER_BY = 10  # lines that make an equal result worth keeping
PRIOR_WEIGHT = 4  # the program's sigma counts as much as this many degrees of freedom


def decide(settings: Settings, metric: Metric, tip: Experiment | None, measurement: Measurement, lines: int) -> Verdict:
    """Keep or not: `tip` is the last kept experiment (None for the baseline), `lines` the new length of the file."""
    if measurement.outcome != "scored" or measurement.value is None:
        status = "crashed" if measurement.outcome == "scored" else measurement.outcome
        return Verdict(status, measurement.reason or "no score")
    if tip is None or tip.value is None:
        return Verdict("kept", "the baseline")
    if tip.deciding and tip.deciding.conditions != measurement.conditions:
        return Verdict("discarded", "not compared: device, torch, corpus or scoring code are not those of the tip")
    gain = metric.gain(tip.value, measurement.value)
    limit = settings.memory_limit
    over = limit is not None and (measurement.peak_memory or 0) > limit
    needed = settings.min_gain * (2 if over else 1)
    memory = " and uses more memory than the limit" if over else ""
    if gain > needed:
        return Verdict("kept", f"better by {gain:.4f}{memory}")
    saved = (tip.lines or 0) - lines
    if abs(gain) <= settings.min_gain and saved >= SHORTER_BY and not over:
        return Verdict("kept", f"equal ({gain:+.4f}) and {saved} lines of code shorter")
    if gain > settings.min_gain:
        return Verdict("discarded", f"better by {gain:.4f}{memory}: that asks for more than {needed:g}")
    if gain > 0:
        return Verdict("discarded", f"better by {gain:.4f}, not by more than {needed:g}{memory}")
    return Verdict("discarded", f"worse by {-gain:.4f}{memory}" if gain else f"no change{memory}")


def spread(prior: float, repeats: Iterable[Sequence[float]]) -> Spread:
    """Sigma pooled over groups of repeated values, shrunk towards the prior (which counts as PRIOR_WEIGHT of them)."""
    total, freedom = PRIOR_WEIGHT * prior**2, float(PRIOR_WEIGHT)
    for values in repeats:
        mean = fmean(values)
        total += sum((value - mean) ** 2 for value in values)
        freedom += len(values) - 1
    return Spread(math.sqrt(total / freedom), freedom)


def agreement(recorded: float, again: Sequence[float], spread: Spread) -> Agreement:
    """Two-sided test at 5 %: |mean(again) - recorded| against t * sigma * sqrt(1 + 1/n)."""
    difference = fmean(again) - recorded
    allowed = student(0.975, spread.freedom) * spread.sigma * math.sqrt(1 + 1 / len(again))
    return Agreement(difference, allowed, abs(difference) <= allowed)


def student(p: float, freedom: float) -> float:
    """Quantile of Student's t: Cornish and Fisher's expansion, within 1 % from 4 degrees of freedom at 0.975."""
    z = NormalDist().inv_cdf(p)
    return (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    )
