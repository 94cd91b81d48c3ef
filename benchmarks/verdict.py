"""Nights under three rules, with the code of `autoresearch.decide` itself: `python benchmarks/verdict.py [--nights N]`.

A night is 100 proposals. Of these 45 % are worse, by 0.003 bits per byte at the mean (exponential), 40 % are nearly
nothing (normal, sd 0.0003), and 15 % are gains, of 0.0015 at the mean (exponential); in a world without gains those
are nearly nothing, too. A measurement is the truth and a normal error of deviation sigma. The program guesses 0.0007
for it (--guess), whatever it is; the verdict estimates it from that and from what the night repeats.

- greedy: what measures better is kept, and the best value found is what is reported.
- confirm each: `run --strict`, each keep is checked at once.
- the rule: provisional keeps, a check every 20 experiments, and fresh seeds at the end.

Prints a Markdown table: what the tip is truly better by, the changes in it, the share of those that are no gains, the
mean of the reported gain less the true one, the trainings beyond one a proposal, and how often the reported interval
holds the truth, all over nights. Nights that kept nothing report nothing, which is true, and have no interval.
"""

import argparse
import random
import statistics
import sys
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import product

from autoresearch import decide
from autoresearch.records import Experiment, Measurement, Metric, Purpose, Spread, Standing
from autoresearch.settings import Settings

PROPOSALS = 100
BITS = Metric()
RULES = ("greedy", "confirm each", "the rule")
NO_NOISE = Spread(1e-12, 1)


@dataclass(frozen=True)
class Night:
    """What came of one."""

    true: float  # gain of the tip
    reported: float
    keeps: int
    false: int  # keeps that are no gain
    extra: int  # trainings beyond one a proposal and the baseline's
    covered: bool | None  # None: no interval


def effect(draw: random.Random, gains: bool) -> float:
    """The true gain of a proposal, bits per byte."""
    kind = draw.random()
    if kind < 0.45:
        return -draw.expovariate(1 / 0.003)
    return draw.expovariate(1 / 0.0015) if gains and kind > 0.85 else draw.gauss(0.0, 0.0003)


class Campaign:
    """A run of which nothing is trained: each value is the truth and an error."""

    def __init__(self, rule: str, sigma: float, guess: float, draw: random.Random) -> None:
        self.strict, self.greedy = rule == "confirm each", rule == "greedy"
        self.settings = Settings(min_gain=0.0, seeds=1) if self.greedy else Settings(sigma=guess)
        self.sigma, self.draw = sigma, draw
        self.measured = 0
        self.truth = {1: 1.0}  # value of each experiment
        self.effects: dict[int, float] = {}
        first = self.measure(1, "first")
        self.history = [Experiment(1, "t", "done", "kept", value=first.value, lines=600, measurements=(first,))]

    def measure(self, number: int, purpose: Purpose) -> Measurement:
        """Train and score; the baseline's last ones are its repeats of the beginning, which are only scored again."""
        if (number, purpose) == (1, "final"):
            baseline = self.history[0]
            value = baseline.values("noise")[len(baseline.values("final"))]
        else:
            self.measured += 1
            value = self.truth[number] + self.draw.gauss(0.0, self.sigma)
        return Measurement(seed=self.measured, outcome="scored", value=value, purpose=purpose)

    def spread(self) -> Spread:
        return NO_NOISE if self.greedy else decide.noise(self.settings, self.history)

    def tip(self) -> Experiment:
        return [e for e in self.history if e.holds][-1]

    def propose(self, effect: float) -> None:
        """One proposal on the tip, decided, and what is due after it."""
        number, tip = len(self.history) + 1, self.tip()
        self.truth[number], self.effects[number] = self.truth[tip.number] - effect, effect
        first = self.measure(number, "first")
        verdict = decide.decide(self.settings, BITS, tip, first, 600, self.spread())
        standing: Standing | None = "provisional" if verdict.status == "kept" else None
        self.history.append(
            Experiment(
                number, "t", "done", verdict.status, standing, value=first.value, lines=600, measurements=(first,)
            )
        )
        self.repeat(decide.due)

    def repeat(self, due) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
        """Measure again what is due, until nothing is."""
        options = {"strict": self.strict} if due is decide.due else {}
        while task := due(self.settings, self.history, **options):
            experiment, purpose = task
            again = replace(
                experiment, measurements=(*experiment.measurements, self.measure(experiment.number, purpose))
            )
            self.history[experiment.number - 1] = again
            if purpose == "check":
                holds = decide.check(self.settings, BITS, decide.confirmed(self.history), again, self.spread())
                standing: Standing = "confirmed" if holds.status == "kept" else "rolled_back"
                self.history = [
                    replace(e, standing=standing) if e.holds and e.standing == "provisional" else e
                    for e in self.history
                ]


def night(rule: str, sigma: float, guess: float, gains: bool, seed: int) -> Night:
    """One night from its seed."""
    draw = random.Random(seed)
    run = Campaign(rule, sigma, guess, draw)
    run.repeat(decide.due)
    for _ in range(PROPOSALS):
        run.propose(effect(draw, gains))
    run.repeat(decide.last_due)
    tip, kept = run.tip(), [run.effects[e.number] for e in run.history[1:] if e.holds]
    true = run.truth[1] - run.truth[tip.number]
    found = decide.gain(BITS, run.history)
    if rule == "greedy":
        first, last = run.history[0].value, tip.value
        assert first is not None
        assert last is not None
        reported, covered = first - last, None
    else:
        reported = found.value if found else 0.0
        covered = abs(found.value - true) <= found.error if found and found.error is not None else None
    extra = run.measured - PROPOSALS - 1
    return Night(true, reported, len(kept), sum(effect <= 0 for effect in kept), extra, covered)


def row(rule: str, sigma: float, guess: float, gains: bool, nights: Iterable[Night]) -> str:
    """A line of the table."""
    found = list(nights)
    kept = sum(n.keeps for n in found)
    biases = [n.reported - n.true for n in found]
    covered = [n.covered for n in found if n.covered is not None]
    error = statistics.stdev(biases) / len(biases) ** 0.5
    cells = [
        f"{sigma:g}", f"{guess:g}", "yes" if gains else "no", rule,
        f"{statistics.fmean(n.true for n in found):.4f}", f"{kept / len(found):.1f}",
        f"{sum(n.false for n in found) / max(1, kept):.1%}",
        f"{statistics.fmean(biases):+.5f} ± {error:.5f}",
        f"{statistics.fmean(n.extra for n in found):.1f}",
        f"{statistics.fmean(covered):.1%} of {len(covered)}" if covered else "–",
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nights", type=int, default=1000, help="of each kind")
    parser.add_argument("--sigma", type=float, nargs="*", default=[0.0003, 0.0007, 0.0012, 0.002])
    parser.add_argument("--guess", type=float, nargs="*", default=[0.0007], help="of sigma, in the program")
    parser.add_argument("--rules", nargs="*", choices=RULES, default=RULES)
    options = parser.parse_args()
    print("| sigma | guess | gains | rule | true gain | keeps | false | bias | extra | interval holds |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    with ProcessPoolExecutor() as pool:
        for world in product(options.sigma, options.guess, (True, False), options.rules):
            sigma, guess, gains, rule = world
            nights = pool.map(partial(night, rule, sigma, guess, gains), range(options.nights), chunksize=20)
            print(row(rule, sigma, guess, gains, nights), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
