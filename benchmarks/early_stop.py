"""What early stops cost and save, on recorded curves: `python benchmarks/early_stop.py benchmarks/curves/tiny.jsonl`.

Each recorded training stands once for the tip and once for a proposal: every pair of two different files is replayed
under the functions of `pace.py` that a run uses. Its margin comes of a few seeds of the baseline, as in a run, which
are drawn anew many times. A pair is *won* if `decide.py` keeps the proposal. The interval is a bootstrap over files.

    --collect  records first what is not there yet: the first file of --program with 16 seeds, with one to three knobs
               set anew, and with the honest patches of tests/cheats that leave the rows as they are; each trained for
               --steps or for --budget and scored. `--part 0/2` does every other one, so that two processes share the
               work: each on the GPU that CUDA_VISIBLE_DEVICES leaves it, or on one core.
"""

import argparse
import hashlib
import json
import math
import os
import random
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import variants

sys.path.insert(0, str(Path(__file__).parents[1]))

from autoresearch import arguments, decide, knobs, pace, program
from autoresearch.agent.search import Axis
from autoresearch.corpus import store
from autoresearch.engine.local import LocalEngine
from autoresearch.machine import cache_folder
from autoresearch.records import Experiment, Measurement, Metric, Point, TokenFile, Trial
from autoresearch.settings import Settings
from tests.cheats.honest import HONEST

TINY = Path(__file__).parents[1] / "programs" / "tiny.md"
BASELINE = "baseline"
SEEDS, DRAWN = 16, 100  # of the baseline; files with knobs set anew
ROWS = {"BATCH_ROWS", "MICRO_ROWS", "CONTEXT", "VOCAB_SIZE"}
KEPT_AS_THEY_ARE = ROWS | {"LATE_SHARE", "DEPTH"}
MARGINS = (2.0, 3.0, 4.0, 6.0)
DRAWS, RESAMPLED = 10, 1000


def files(settings: Settings) -> dict[str, str]:
    """Every file of a program by its name, always the same."""
    first = knobs.assign(variants.source("shipped"), settings.constants)
    found = {BASELINE: first}
    space = {k.name: Axis(k.value, k.domain) for k in knobs.read(first).values() if k.domain}
    names = sorted(space.keys() - KEPT_AS_THEY_ARE)
    for number in range(DRAWN):
        rng = random.Random(number)
        chosen = rng.sample(names, k=rng.choice((1, 1, 1, 2, 2, 3)))
        drawn = {name: _anywhere(space[name], rng) if number % 3 == 0 else space[name].step(rng) for name in chosen}
        found[f"knobs {number}"] = knobs.assign(first, drawn)
    rows = {name: value for name, value in knobs.values(first).items() if name in ROWS}
    for name, patch in HONEST.items():
        text = first
        for old, new in patch.edits:
            text = text.replace(old, new)
        text = knobs.assign(text, patch.constants)
        values = knobs.values(text)
        if patch.edits and not patch.settings and all(values[name] == value for name, value in rows.items()):
            found[f"patch: {name}"] = text
    return found


def _anywhere(axis: Axis, rng: random.Random) -> knobs.Value:
    if axis.domain.choices:
        return axis.step(rng)
    low, high = axis.bounds
    if axis.domain.log:
        return axis.fit(math.exp(rng.uniform(math.log(low), math.log(high))))
    return axis.fit(rng.uniform(low, high))


# ---------------------------------------------------------------------------------------------- recording


def collect(path: Path, settings: Settings, part: str) -> None:
    """Train and score what is missing in the file, and append to it."""
    share, shares = map(int, part.split("/"))
    texts = files(settings)
    jobs = [(BASELINE, seed) for seed in range(SEEDS)] + [(name, 0) for name in texts if name != BASELINE]
    done = {(record["file"], record["seed"]) for record in read(path)}
    values = knobs.values(texts[BASELINE])
    vocab_size, context = int(values["VOCAB_SIZE"]), int(values["CONTEXT"])
    view = store.open(settings.corpus, cache_folder(os.environ)).view(vocab_size)
    with tempfile.TemporaryDirectory() as scratch, path.open("a", buffering=1) as results:
        engine = LocalEngine(Path(scratch), {**os.environ, "OMP_NUM_THREADS": "1"}, "curves", settings.device)
        for name, number in jobs[share::shares]:
            if (name, number) in done:
                continue
            seed = int.from_bytes(hashlib.sha256(f"{name}/{number}".encode()).digest()[:4]) >> 1
            m = engine.measure(Trial(texts[name], seed, vocab_size, context, view, settings))
            print(f"{name}, seed {number}: {m.outcome} {m.value} {m.reason or ''}", flush=True)
            if m.outcome == "scored":
                record = {"file": name, "seed": number, "value": m.value, "steps": m.steps, "tokens": m.tokens}
                record["token"] = round(view.train.bytes / view.train.tokens, 4)  # bytes
                results.write(json.dumps({**record, "pace": [p and round(p, 5) for p in m.pace]}) + "\n")
        engine.close()


def read(path: Path) -> list[dict[str, Any]]:
    """The records of a file, none if it is not there."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


# ---------------------------------------------------------------------------------------------- replay


@dataclass(frozen=True)
class Pair:
    """A proposal against a tip: whether it would be kept, and which share of it was trained before it was stopped."""

    tip: str
    file: str
    won: bool
    trained: float  # 1.0: it was not stopped


def points(curve: list[float | None], parts: int) -> list[Point]:
    """The curve when so many parts of the clock are over."""
    seen = [Point(n, n, (n + 0.5) / pace.PARTS, loss) for n, loss in enumerate(curve[:parts]) if loss is not None]
    following = [loss for loss in curve[parts:] if loss is not None] or [seen[-1].loss]
    return [*seen, Point(parts, parts, parts / pace.PARTS, following[0])]


def stopped_at(held: Any, record: dict[str, Any]) -> float:
    """The share of the clock at which a training is stopped; 1.0 if it is not."""
    per_step = record["tokens"] / record["steps"]
    for parts in range(pace.FIRST, pace.PARTS):
        if pace.behind(held, points(record["pace"], parts), int(per_step * parts)):
            return parts / pace.PARTS
    return 1.0


def replayed(records: list[dict[str, Any]], settings: Settings, rng: random.Random) -> Iterator[Pair]:
    """Every pair, the margin by as many seeds of the baseline as the program trains."""
    train = TokenFile("", 256, 255, 10**6, int(10**6 * records[0].get("token", 1.0)), "")
    bases = [measured(record) for record in records if record["file"] == BASELINE]
    sigma = decide.spread(settings.sigma, [[m.value for m in bases if m.value is not None]])
    for old in records:
        repeats = rng.sample(bases, settings.seeds)
        first = Experiment(1, "t", "done", "kept", measurements=tuple(replace(m, purpose="noise") for m in repeats))
        tip = Experiment(2, "t", "done", "kept", value=old["value"], lines=1, measurements=(measured(old),))
        held = pace.of(tip, [first, tip], settings.sigma, train, 1)
        for new in records:
            if new["file"] == old["file"]:
                continue
            verdict = decide.decide(settings, Metric(), tip, measured(new), 1, sigma)
            yield Pair(old["file"], new["file"], verdict.status == "kept", stopped_at(held, new))


def measured(record: dict[str, Any]) -> Measurement:
    """A record as a measurement."""
    seed = hash((record["file"], record["seed"]))
    figures = {name: record[name] for name in ("value", "steps", "tokens")}
    return Measurement(seed, "scored", pace=tuple(record["pace"]), **figures)


def wrong(pairs: list[Pair], weight: dict[str, int] | None = None) -> float:
    """The share of the winners that were stopped. weight: how often each file counts."""
    total = stopped = 0
    for pair in pairs:
        if pair.won:
            times = weight[pair.tip] * weight[pair.file] if weight else 1
            total += times
            stopped += times * (pair.trained < 1)
    return stopped / total if total else 0.0


def interval(pairs: list[Pair], rng: random.Random) -> tuple[float, float]:
    """Of that share, by drawing the files anew."""
    names = sorted({pair.file for pair in pairs})
    found = []
    for _ in range(RESAMPLED):
        weight = dict.fromkeys(names, 0)
        for name in rng.choices(names, k=len(names)):
            weight[name] += 1
        found.append(wrong(pairs, weight))
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("curves", type=Path)
    parser.add_argument("--program", type=Path, default=TINY)
    parser.add_argument("--corpus", help="in place of the program's")
    parser.add_argument("--collect", action="store_true")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--budget", help="such as 20s, in place of --steps")
    parser.add_argument("--part", default="0/1")
    options = parser.parse_args()
    settings = program.load(options.program).settings
    if options.collect:
        clock = {"budget": 600.0, "max_steps": options.steps}
        if options.budget:
            clock = {"budget": arguments.budget(options.budget), "max_steps": None}
        changes = {**clock, "startup_limit": 300.0, "corpus": options.corpus or settings.corpus}
        collect(options.curves, settings.model_copy(update=changes), options.part)
        return
    texts, chosen = files(settings), pace.MARGIN
    same = {name for name, text in texts.items() if pace.comparable(texts[BASELINE], text)}  # then any two of them are
    records = [record for record in read(options.curves) if record["file"] in same]
    print(f"{len(records)} curves of {len({r['file'] for r in records})} files that report the same loss\n")
    print("| margin | pairs | won | of these stopped | 95 % | of the others stopped | of their time saved |")
    print("|---|---|---|---|---|---|---|")
    for margin in sorted({*MARGINS, chosen}):
        pace.MARGIN = margin
        rng = random.Random(0)
        draws = [list(replayed(records, settings, rng)) for _ in range(DRAWS)]
        pairs = [pair for draw in draws for pair in draw]
        lost = [pair for pair in pairs if not pair.won]
        low, high = interval(pairs, rng)
        print(
            f"| {margin:g}{' (the rule)' if margin == chosen else ''} | {len(draws[0]):,} "
            f"| {sum(pair.won for pair in draws[0]):,} | {wrong(pairs):.2%} | {low:.2%} to {high:.2%} "
            f"| {sum(pair.trained < 1 for pair in lost) / len(lost):.1%} "
            f"| {sum(1 - pair.trained for pair in lost) / len(lost):.1%} |"
        )


if __name__ == "__main__":
    main()
