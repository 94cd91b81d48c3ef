"""How little a model may gain by looking ahead, unseen: `python benchmarks/audit.py [--draws 100] [--text 20000000]`.

Losses are made up: a tip's, and a candidate's that differ from them by chance, as between two trainings. The candidate
then claims less than is true at some positions, in one of five ways. Positions are drawn, and the verdict is given, by
the judge's own code. Prints a Markdown table: by what the claim is too low, how often that is found, and by what the
value is too low that is believed, at the mean of all draws: by nothing where it is found.
"""

import argparse
import math
import time
from collections.abc import Callable

import numpy as np

from autoresearch.harness import sampling, score
from autoresearch.harness.sampling import Chances

CONTEXT, BYTES = 2048, 4.0  # targets in a row, and bytes of text that one stands for
LOSS, SPREAD = 2.4, 0.3  # nats: of the tip at the mean, and by which a candidate's differ at a position
ROUNDING = 0.001  # nats: standard deviation between compiled and eager, in bfloat16
NATS = BYTES * math.log(2)  # a target, of one bit per byte

Floats = np.typing.NDArray[np.floating]
Way = Callable[[Floats, Floats], Floats]

# What is gained at a position by one who looks, of its honest loss and the tip's.
WAYS: dict[str, Way] = {
    "whole losses": lambda honest, tip: honest,
    "1 nat a position": lambda honest, tip: np.minimum(honest, 1.0),
    "what the tip does better, were that known": lambda honest, tip: np.maximum(honest - tip, 0.0),
    "0.4 nat a position, which no single one gives away": lambda honest, tip: np.minimum(honest, 0.4),
    "0.02 nat a position": lambda honest, tip: np.minimum(honest, 0.02),
}


def tried(
    way: Way, gain: float, audit: int, targets: int, draws: int, random: np.random.Generator
) -> tuple[float, float]:
    """Share of the draws in which it is found; and the mean of what is gained in bits per byte, 0 where it is found."""
    tip = random.gamma(0.7, LOSS / 0.7, targets).astype(np.float32)
    honest = np.maximum(tip + random.normal(0.0, SPREAD, targets).astype(np.float32), 0.0)
    each = way(honest, tip)
    looks = random.random(targets) < min(1.0, gain * NATS / float(each.mean()))
    false = np.where(looks, each, 0.0)
    chances = Chances.of(tip, honest - false, CONTEXT)
    found, gained = 0, 0.0
    for _ in range(draws):
        sample = sampling.draw(chances, audit, random)
        places = sample.rows * CONTEXT + sample.places
        difference = false[places] + random.normal(0.0, ROUNDING, len(places))
        verdict = score._audit(difference, sample.weights)
        if score._disbelief(verdict, difference[np.abs(difference) > score.OUTLIER]):
            found += 1
        else:
            charged = max(0.0, verdict.mean + score.CORRECTION * verdict.error)
            gained += (float(false.mean()) - charged) / NATS
    return found / draws, gained / draws


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=100)
    parser.add_argument("--text", type=float, default=2e7, help="bytes of held-out text")
    options = parser.parse_args()
    began, random = time.monotonic(), np.random.default_rng(1)
    targets = int(options.text / BYTES)
    print("| how | claimed too low, bits per byte | audited | found | believed too low, at the mean |")
    print("|---|---|---|---|---|")
    for name, way in WAYS.items():
        for gain in (0.0001, 0.0003, 0.001):
            for audit in (1024, 4096):
                found, left = tried(way, gain, audit, targets, options.draws, random)
                print(f"| {name} | {gain} | {audit:,} | {found:.1%} | {left:+.5f} |", flush=True)
    seconds = time.monotonic() - began
    print(f"\n{targets:,} targets in rows of {CONTEXT:,}; {options.draws} draws each; {seconds:.0f} s.")


if __name__ == "__main__":
    main()
