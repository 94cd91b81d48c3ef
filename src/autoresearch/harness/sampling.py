"""Where a claimed score is audited: positions drawn in proportion to what cheating there would be worth."""

from dataclasses import dataclass
from typing import BinaryIO, NamedTuple
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from autoresearch.harness.validation import Validation

Floats = NDArray[np.float64]
Losses = NDArray[np.floating]  # nats of each target, [N], in single or double precision


class Sample(NamedTuple):
    """Targets to audit, one to a row. Weights make sums over the sample estimate sums over all targets."""

    rows: NDArray[np.int64]
    places: NDArray[np.int64]  # of the last token given, in its row; the target is the next one
    weights: Floats


class Incumbent(NamedTuple):
    """What a claim is held against."""

    losses: Losses  # its nats for each target
    seconds: float | None = None  # that its open process took for as many targets; None: not known


@dataclass(frozen=True, slots=True)
class Chances:
    """What each target's chance is in proportion to.

    0.45 of it to the incumbent's loss, 0.45 to the gain claimed over it, and 0.1 is the same for all, which bounds the
    weights.
    """

    context: int
    parts: list[tuple[Losses, float]]  # values of targets, and by what factor
    share: Floats  # [rows]: sums

    @classmethod
    def of(cls, incumbent: Losses, claim: Losses, context: int) -> "Chances":
        """incumbent, claim: nats of each target."""
        gain = np.subtract(incumbent, claim, dtype=np.float32)
        np.maximum(gain, 0.0, out=gain)
        even = np.broadcast_to(np.float32(1.0), len(claim))
        parts, share = [], np.zeros(-(-len(claim) // context))
        for weight, values in ((0.45, incumbent), (0.45, gain), (0.10, even)):
            if not values.any():
                values = even
            sums = by_row(values, context)
            factor = weight / sums.sum()
            share += factor * sums
            parts.append((values, factor))
        return cls(context, parts, share)


def draw(chances: Chances, size: int, random: np.random.Generator) -> Sample:
    """Draw `size` targets, or one of each row if there are fewer rows.

    Rows are drawn without return by systematic sampling, so their chances are exactly what is asked (Madow 1949).
    """
    context, parts, share = chances.context, chances.parts, chances.share
    drawn = _inclusion(share, min(size, len(share)))
    chosen = _systematic(drawn, random)
    targets = chosen[:, None] * context + np.arange(context)
    there = targets < len(parts[0][0])  # but for the padding of the last row
    grid = np.where(there, sum(factor * values[np.where(there, targets, 0)] for values, factor in parts), 0.0)
    cumulative = np.cumsum(grid, axis=1)
    places = np.array([np.searchsorted(row, random.random() * row[-1], side="right") for row in cumulative])
    places = np.minimum(places, np.count_nonzero(grid, axis=1) - 1)
    return Sample(chosen, places, 1.0 / (drawn[chosen] * grid[np.arange(len(grid)), places] / share[chosen]))


def by_row(values: Losses, context: int) -> Floats:
    """float64[rows]: the sums over each row of `context` targets, the last of which may be shorter."""
    whole = len(values) // context
    rows = values[: whole * context].reshape(whole, context).sum(axis=1, dtype=np.float64)
    rest = values[whole * context :]
    return np.append(rows, rest.sum(dtype=np.float64)) if len(rest) else rows


def unigram(validation: Validation) -> Floats:
    """Nats of each target under its own frequency, plus one: a stand-in where there is no incumbent."""
    counts = np.bincount(validation.stream, minlength=validation.vocab_size) + 1.0
    losses: Floats = -np.log(counts / counts.sum())[validation.stream]
    return losses


def save(file: BinaryIO, validation: Validation, losses: NDArray[np.float32], seconds: float, machine: str) -> None:
    """Keep the loss of each target with its size in the text, so that it can be compared across vocabularies, and how
    long the open process took, and on what."""
    np.savez(file, sizes=validation.sizes, losses=losses, seconds=np.float64(seconds), machine=np.str_(machine))


def incumbent(path: str | None, validation: Validation, machine: str) -> Incumbent:
    """Of this text, and with its seconds if it was scored on such a machine. The losses of one with another vocabulary
    are spread over their bytes.

    A file that is not there, or is not what `save` writes of this text, is as good as none.
    """
    kept = _load(path) if path else None
    if kept is None:
        return Incumbent(unigram(validation))
    sizes, losses, taken, where = kept
    seconds = taken * validation.targets / max(1, len(sizes)) if taken is not None and where == machine else None
    if np.array_equal(sizes, validation.sizes):
        return Incumbent(losses, seconds)
    here, there = _places(validation.sizes), _places(sizes)
    if here[-1] != there[-1]:  # it was scored on another text
        return Incumbent(unigram(validation))
    cumulative = np.concatenate([[0.0], np.cumsum(losses, dtype=np.float64)])
    nats: Floats = np.diff(np.interp(here, there, cumulative)).clip(min=0.0)
    return Incumbent(nats, seconds)


def _load(path: str) -> tuple[NDArray[np.uint16], NDArray[np.float32], float | None, str] | None:
    try:
        with np.load(path, allow_pickle=False) as file:
            sizes, losses = file["sizes"], file["losses"]
            seconds = float(file["seconds"]) if "seconds" in file else None  # not in those of earlier versions
            machine = str(file["machine"]) if "machine" in file else ""
    except (OSError, ValueError, KeyError, EOFError, BadZipFile, TypeError):
        return None
    if (sizes.dtype, losses.dtype) != (np.uint16, np.float32) or sizes.ndim != 1 or sizes.shape != losses.shape:
        return None
    return (sizes, losses.clip(min=0.0), seconds, machine) if np.isfinite(losses).all() else None


def _places(sizes: NDArray[np.uint16]) -> Floats:
    """[N + 1]: where each target begins, and the last one ends, in bytes; BOS counts one, so that it has a place."""
    return np.concatenate([[0.0], np.cumsum(np.maximum(sizes, 1), dtype=np.int64)])


def _inclusion(share: Floats, size: int) -> Floats:
    """Chances proportional to the shares, none above 1, that sum to `size`."""
    chance = np.zeros(len(share))
    certain = np.zeros(len(share), dtype=bool)
    while True:
        free = ~certain
        chance[certain] = 1.0
        if free.any():
            chance[free] = share[free] / share[free].sum() * (size - certain.sum())
        over = free & (chance >= 1.0)
        if not over.any():
            return chance
        certain |= over


def _systematic(chance: Floats, random: np.random.Generator) -> NDArray[np.int64]:
    """Indices, each included with its chance; their number is the sum of the chances."""
    order = random.permutation(len(chance))
    ticks = np.cumsum(chance[order])
    size = round(float(ticks[-1]))
    hits = np.searchsorted(ticks, random.random() + np.arange(size), side="right")
    drawn: NDArray[np.int64] = order[np.unique(np.minimum(hits, len(order) - 1))]  # rounding must draw none twice
    return drawn
