"""Where a claimed score is audited: positions drawn in proportion to what cheating there would be worth."""

from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from autoresearch.harness.validation import Validation

Floats = NDArray[np.float64]


class Sample(NamedTuple):
    """Targets to audit, one to a row. Weights make sums over the sample estimate sums over all targets."""

    rows: NDArray[np.int64]
    places: NDArray[np.int64]  # of the last token given, in its row; the target is the next one
    weights: Floats


def draw(incumbent: Floats, claim: Floats, context: int, size: int, random: np.random.Generator) -> Sample:
    """Draw `size` targets, or one of each row if there are fewer rows.

    incumbent, claim: nats of each target, [N]. A target is drawn with probability 0.45 in proportion to the
    incumbent's loss, 0.45 in proportion to the gain claimed over it, 0.1 evenly, which bounds the weights. Rows are
    drawn without return by systematic sampling, so their chances are exactly what is asked (Madow 1949).
    """
    even = np.full(len(claim), 1.0)
    gain = np.maximum(incumbent - claim, 0.0)
    chance = 0.45 * _shares(incumbent) + 0.45 * _shares(gain) + 0.10 * _shares(even)
    rows = -(-len(claim) // context)
    table = np.zeros(rows * context)
    table[: len(claim)] = chance
    grid = table.reshape(rows, context)
    share = grid.sum(axis=1)
    drawn = _inclusion(share, min(size, rows))
    chosen = _systematic(drawn, random)
    cumulative = np.cumsum(grid[chosen], axis=1)
    places = np.array([np.searchsorted(row, random.random() * row[-1], side="right") for row in cumulative])
    places = np.minimum(places, np.count_nonzero(grid[chosen], axis=1) - 1)
    return Sample(chosen, places, 1.0 / (drawn[chosen] * grid[chosen, places] / share[chosen]))


def unigram(validation: Validation) -> Floats:
    """Nats of each target under its own frequency, plus one: a stand-in where there is no incumbent."""
    counts = np.bincount(validation.stream, minlength=validation.vocab_size) + 1.0
    losses: Floats = -np.log(counts / counts.sum())[validation.stream]
    return losses


def save_losses(file: BinaryIO, validation: Validation, losses: NDArray[np.float32]) -> None:
    """Keep the loss of each target by its place in the text, so that it can be compared across vocabularies."""
    np.savez(file, places=_places(validation), losses=losses)


def incumbent_losses(path: str | None, validation: Validation) -> Floats:
    """The incumbent's nats for each target here. One with another vocabulary has its losses spread over their bytes."""
    if path is None:
        return unigram(validation)
    with np.load(path, allow_pickle=False) as file:
        places, losses = file["places"].astype(np.float64), file["losses"].astype(np.float64)
    here = _places(validation)
    if places[-1] != here[-1]:  # it was scored on another text
        return unigram(validation)
    cumulative = np.concatenate([[0.0], np.cumsum(losses)])
    nats: Floats = np.diff(np.interp(here, places, cumulative)).clip(min=0.0)
    return nats


def _places(validation: Validation) -> Floats:
    """[N + 1]: where each target begins, and the last one ends, in bytes; BOS counts one, so that it has a place."""
    sizes = np.diff(validation.offsets, append=validation.bytes)
    return np.concatenate([[0.0], np.cumsum(np.maximum(sizes, 1))])


def _shares(values: Floats) -> Floats:
    total = values.sum()
    return values / total if total > 0 else np.full(len(values), 1.0 / len(values))


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
