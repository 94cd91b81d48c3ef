"""What an experiment takes beside its training: `python benchmarks/overhead.py LAB [--tag T]`, of a run that was made.

Prints a Markdown table from the ledger, in seconds: each scored experiment from launch to score (`total`), what of it
is over the budget, each phase and the rest, how long the device had nothing to do (outside warm-up, clock and
scoring), and the whole cycle with the proposal, git and the verdict. Then the clock against its budget in percent,
tokens a second, MFU in percent, and the median and 99th percentile of a step in milliseconds, where the curve has
every step. Last the medians of all experiments but the baseline, which finds nothing compiled.
"""

import argparse
import csv
import itertools
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

from autoresearch.errors import UserError
from autoresearch.ledger import Ledger
from autoresearch.program import program_of
from autoresearch.records import Experiment, Measurement
from autoresearch.report.status import BUSY
from autoresearch.settings import Settings
from autoresearch.workspace import Workspace

FEWEST = 50  # steps, under which there is no 99th percentile
COVERED = 0.8  # share of the steps that must be on the curve


@dataclass(frozen=True)
class Row:
    """One experiment: its figures by name, in seconds if the name says nothing else; None where unknown."""

    number: int
    figures: dict[str, float | None]


def row(experiment: Experiment, m: Measurement, settings: Settings, curve: Path, before: float | None) -> Row:
    """before: when the experiment before this one ended, seconds since the epoch."""
    phases = {name: seconds for name, seconds in m.seconds.items() if name != "total"}
    total, train = m.seconds["total"], m.seconds["train"]
    budget = train if settings.max_steps else settings.budget  # steps end it before its time
    p50, p99 = step_times(curve)
    cycle = experiment.ended - before if experiment.ended and before else None
    return Row(
        experiment.number,
        {
            "total": total,
            "overhead": total - budget,
            **phases,
            "rest": total - sum(phases.values()),
            "idle": total - sum(phases.get(name, 0.0) for name in BUSY),
            "cycle": cycle,
            "clock %": 100 * (train / budget - 1),
            "tokens/s": m.tokens / train if m.tokens else None,
            "MFU %": 100 * m.mfu if m.mfu else None,
            "p50 ms": p50,
            "p99 ms": p99,
        },
    )


def step_times(curve: Path) -> tuple[float | None, float | None]:
    """Median and 99th percentile of a step, milliseconds; None if too few steps are on the curve."""
    try:
        with curve.open(newline="") as file:
            points = [(int(point["step"]), float(point["seconds"])) for point in csv.DictReader(file)]
    except FileNotFoundError:
        return None, None
    took = [1000 * (b[1] - a[1]) for a, b in itertools.pairwise(points) if b[0] == a[0] + 1]
    if len(took) < FEWEST or len(took) < COVERED * points[-1][0]:
        return None, None
    return statistics.median(took), statistics.quantiles(took, n=100)[98]


def rows(ledger: Ledger, tag: str, settings: Settings) -> list[Row]:
    """Of a run's scored experiments."""
    found, before = [], None
    for experiment in ledger.experiments(tag):
        m = experiment.deciding
        if m and m.outcome == "scored" and "train" in m.seconds:
            curve = ledger.folder_of(tag, experiment.number) / "curve.csv"
            found.append(row(experiment, m, settings, curve, before))
        before = experiment.ended
    return found


def table(found: list[Row]) -> str:
    """Markdown, with the medians of all but the baseline in the last line."""
    names = list(dict.fromkeys(name for one in found for name in one.figures))
    lines = [f"| # | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    lines += [
        f"| {one.number} | {' | '.join(_shown(name, one.figures.get(name)) for name in names)} |" for one in found
    ]
    later = [one for one in found if one.number > 1]
    medians = [_median([one.figures.get(name) for one in later]) for name in names]
    shown = " | ".join(_shown(name, median) for name, median in zip(names, medians, strict=True))
    return "\n".join([*lines, f"| median of {len(later)} | {shown} |"])


def _median(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _shown(name: str, figure: float | None) -> str:
    if figure is None:
        return "–"
    return f"{figure:,.0f}" if name == "tokens/s" else f"{figure:+.2f}" if name == "clock %" else f"{figure:.2f}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lab", type=Path)
    parser.add_argument("--tag", help="which run; the one worked on last if not given")
    options = parser.parse_args()
    try:
        ledger = Ledger(Workspace(options.lab).state, create=False)
        run = ledger.run(options.tag) if options.tag else next(iter(ledger.runs()), None)
    except UserError as error:
        parser.error(str(error))
    if run is None:
        parser.error(f"there is no run {options.tag} in {options.lab}: `autoresearch log` there shows one")
    settings = program_of(run).settings
    found = rows(ledger, run.tag, settings)
    if not found:
        parser.error(f"run {run.tag} has no scored experiment yet")
    torch = next((m.torch_version for e in ledger.experiments(run.tag) if (m := e.deciding)), None)
    print(f"run {run.tag} on {run.device}, torch {torch}, budget {settings.budget:g} s\n")
    print(table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
