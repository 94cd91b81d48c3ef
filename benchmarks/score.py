"""How the scorer treats honest, cheating and broken models: `python benchmarks/score.py [--honest 10] [--cheats 3]`.

Prints a Markdown table: each honest model with that many different weights, each cheat that many times, each broken
model once; every scoring in fresh processes and at fresh random positions. Exit code 1 if any is not as it should be.
"""

import argparse
import multiprocessing
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from autoresearch.tasks import ScoreResult
from tests.harness import zoo
from tests.harness.scoring import score


@dataclass(frozen=True)
class Job:
    kind: str
    name: str
    source: str
    expected: str
    seed: int
    folder: str


@dataclass(frozen=True)
class Row:
    """One model's scorings."""

    job: Job
    results: tuple[ScoreResult, ...]
    seconds: float

    @property
    def as_expected(self) -> int:
        return sum(result.outcome == self.job.expected for result in self.results)

    def __str__(self) -> str:
        claims = [result.claim for result in self.results if result.claim is not None]
        audits = [result.audit for result in self.results if result.audit is not None]
        claim = f"{statistics.median(claims):.4f}" if claims else "–"
        mean = f"{statistics.median(audit.mean for audit in audits):.2g}" if audits else "–"
        largest = f"{max((audit.largest for audit in audits), key=abs):.2g}" if audits else "–"
        outcome = f"{self.as_expected} of {len(self.results)} {self.job.expected}"
        return f"| {self.job.kind} | {self.job.name} | {outcome} | {claim} | {mean} | {largest} | {self.seconds:.1f} |"


def jobs(folder: str, honest: int, cheats: int) -> list[Job]:
    models = [Job("honest", n, s, "scored", seed, folder) for n, s in zoo.HONEST.items() for seed in range(honest)]
    models += [
        Job("cheat", n, zoo.BIGRAM + s, "quarantined", seed, folder)
        for n, s in [*zoo.CHEATS.items(), ("predictions drawn anew", zoo.NOISE)]
        for seed in range(cheats)
    ]
    return models + [Job("broken", n, zoo.BIGRAM + s, "crashed", 0, folder) for n, (s, _) in zoo.BROKEN.items()]


def run(job: Job) -> tuple[Job, ScoreResult, float]:
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp(dir=job.folder))
    began = time.monotonic()
    limit = 6.0 if job.name == "too slow" else 300.0
    result = score(job.source, folder, zoo.texts(folder), seed=job.seed, limit=limit)
    return job, result, time.monotonic() - began


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--honest", type=int, default=10, help="different weights of each honest model")
    parser.add_argument("--cheats", type=int, default=3, help="scorings of each cheat")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder, context.Pool(options.processes) as pool:
        done = pool.map(run, jobs(folder, options.honest, options.cheats), chunksize=1)
    rows = []
    for kind, name in dict.fromkeys((job.kind, job.name) for job, _, _ in done):
        mine = [item for item in done if (item[0].kind, item[0].name) == (kind, name)]
        seconds = statistics.median(seconds for _, _, seconds in mine)
        rows.append(Row(mine[0][0], tuple(result for _, result, _ in mine), seconds))
    print("| kind | model | outcome | claimed bits per byte | mean d, nats | largest d, nats | seconds |")
    print("|---|---|---|---|---|---|---|")
    print(*rows, sep="\n")
    wrong = sum(len(row.results) - row.as_expected for row in rows)
    honest = sum(len(row.results) for row in rows if row.job.kind == "honest")
    print(f"\n{honest} honest scorings, {len(done)} in all, {wrong} not as they should be.")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
