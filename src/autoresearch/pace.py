"""Whether a training keeps pace with the tip's: one that is far behind by now is not worth the rest of its budget.

Compared are the losses that both have reported up to the same share of the clock. What a curve says of the end differs
from patch to patch: a schedule that falls later looks bad until then. So nothing is judged in the first half, the
margin is several times what seeds move a curve by, and where a patch changes what a step or its loss is, nothing is
judged at all. The curve is the candidate's own word: it may end an experiment, and never keeps one.
`benchmarks/early_stop.py` replays recorded curves under these very functions.
"""

import ast
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from statistics import fmean, variance

from autoresearch import knobs
from autoresearch.records import Experiment, Measurement, Pace, Point, TokenFile

PARTS = 20  # of the clock: in each, the losses are averaged
WINDOW = 6  # parts: the last so many together are compared, since single batches differ more than models do
FIRST = 10  # parts that are over before anything is judged by its lag, and ...
SETTLED = 4  # ... by its loss alone, which may have a peak at the beginning
WORSE = 1.1  # times the loss at first, and by chance, beyond which a training has diverged: a first step may overshoot
MARGIN = 4.0  # standard deviations of a curve between seeds, by which it may lie behind
SPARED = 20  # one of so many is let finish though it is condemned
_SAME_STEP = 0.01  # relative difference of tokens in a step, up to which steps are the same
_OF_LOSS = re.compile(r"loss|entropy|report|smooth|drop|label", re.IGNORECASE)

Curve = Sequence[float | None]  # mean loss in each part of the clock, nats per token


def means(points: Iterable[Point]) -> tuple[float | None, ...]:
    """The mean reported loss in each part of the clock; None for a part without a point."""
    parts: list[list[float]] = [[] for _ in range(PARTS)]
    for point in points:
        parts[min(PARTS - 1, int(point.progress * PARTS))].append(point.loss)
    return tuple(fmean(losses) if losses else None for losses in parts)


def smoothed(curve: Curve) -> tuple[float | None, ...]:
    """At each part the mean of it and those before it, WINDOW together; None where one of them is missing."""
    return tuple(_mean(curve[part + 1 - WINDOW : part + 1]) if part + 1 >= WINDOW else None for part in range(PARTS))


def of(tip: Experiment, history: Iterable[Experiment], sigma: float, train: TokenFile, seed: int) -> Pace | None:
    """What a training with this seed is to keep pace with; None where too little was measured to say.

    history: the whole run, the tip in it. sigma: the program's, bits per byte. train: the text, encoded as for the tip.
    """
    bits = train.tokens / train.bytes / math.log(2)
    trained = _trainings(tip)
    deviation = spread(sigma / bits, ([smoothed(m.pace) for m in _trainings(e)] for e in history))
    if not trained or deviation is None:
        return None
    curves = [smoothed(m.pace) for m in trained]
    return Pace(
        tip=tuple(_mean(losses) for losses in zip(*curves, strict=True)),
        margin=MARGIN * deviation * math.sqrt(1 + 1 / len(trained)),
        step=fmean(m.tokens / m.steps for m in trained if m.tokens and m.steps),
        bits=bits,
        spare=seed % SPARED == 0,
    )


def spread(prior: float, groups: Iterable[Sequence[Curve]]) -> float | None:
    """The standard deviation of smoothed curves between seeds, all judged parts together, nats per token.

    groups: of curves that differ by their seeds alone. No less than the prior, which is of values in the end: before
    that, curves lie farther apart, and in a short training by far. None without a repeat.
    """
    total, freedom = 0.0, 0
    for curves in groups:
        judged = zip(*(curve[FIRST - 1 :] for curve in curves), strict=True)
        parts = [variance(losses) for losses in _complete(judged)] if len(curves) > 1 else []
        if parts:
            total += (len(curves) - 1) * fmean(parts)
            freedom += len(curves) - 1
    return max(prior, math.sqrt(total / freedom)) if freedom else None


def behind(pace: Pace, points: Sequence[Point], tokens: int | None) -> str | None:
    """Why a training is beyond hope, in a line, by its curve so far; None if it is not, or if nobody can say.

    tokens: that it has trained on by its last point.
    """
    part = _over(points)
    if not FIRST <= part < PARTS or not tokens or not points[-1].step:  # in the end, its score is near
        return None
    if abs(tokens / points[-1].step / pace.step - 1) > _SAME_STEP:
        return None
    own, tip = smoothed(means(points))[part - 1], pace.tip[part - 1]
    if own is None or tip is None or own - tip <= pace.margin:
        return None
    lag, margin = (own - tip) * pace.bits, pace.margin * pace.bits
    return (
        f"{lag:.3f} bits per byte behind the tip at {part / PARTS:.0%} of the clock, where {margin:.3f} is beyond hope"
    )


def diverged(points: Sequence[Point], vocab_size: int) -> str | None:
    """Why a training is beyond hope whatever it is compared with: it predicts worse than at first, and than chance."""
    part = _over(points)
    last = means(points)[part - 1] if SETTLED <= part < PARTS else None
    if last is None or last <= WORSE * max(points[0].loss, math.log(vocab_size)):
        return None
    return f"diverged: the loss was {points[0].loss:.3f} at first and {last:.3f} at {part / PARTS:.0%} of the clock"


def comparable(old: str, new: str) -> bool:
    """Whether two source texts report the same loss, as far as can be told without running them: no function that
    speaks of losses is another, nor a constant, nor the vocabulary."""
    if knobs.values(old).get("VOCAB_SIZE") != knobs.values(new).get("VOCAB_SIZE"):
        return False
    try:
        return sorted(_speaking(ast.parse(old))) == sorted(_speaking(ast.parse(new)))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False


def _over(points: Sequence[Point]) -> int:
    """Parts of the clock that are over."""
    return int(points[-1].progress * PARTS) if points else 0


def _trainings(experiment: Experiment) -> list[Measurement]:
    """Its trainings, each with a seed of its own, as far as they compare."""
    scored = experiment.scored("first", "noise", "check", "final", "replay")
    by_seed = {m.seed: m for m in scored if len(m.pace) == PARTS and m.steps and m.tokens}
    return list(by_seed.values())


def _mean(losses: Curve) -> float | None:
    known = [loss for loss in losses if loss is not None]
    return fmean(known) if known and len(known) == len(losses) else None


def _complete(parts: Iterable[Curve]) -> list[list[float]]:
    """Losses of several curves, part by part; without the parts that one of them lacks."""
    return [[loss for loss in part if loss is not None] for part in parts if None not in part]


def _speaking(node: ast.AST, place: str = "") -> Iterator[str]:
    """What in a file speaks of losses: whole functions, and statements outside of them."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef):
            yield from _speaking(child, f"{place}{child.name}.")
        elif isinstance(child, ast.stmt) and any(map(_OF_LOSS.search, _names(child))):
            yield place + ast.dump(child)


def _names(node: ast.AST) -> Iterator[str]:
    """Every identifier within."""
    for part in ast.walk(node):
        for _, value in ast.iter_fields(part):
            if isinstance(value, str) and not isinstance(part, ast.Constant):
                yield value
