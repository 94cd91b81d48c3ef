"""Variants of the training core side by side: `python benchmarks/core.py CORPUS VARIANT ... [--seeds 3]`.

Variants are named as in benchmarks/variants.py. Each is trained and scored by the engine, as in a run, with the same
seeds. The machine's GPUs take one each, seed by seed, so that what was cut short can still be compared. Every
measurement is a line in `--results`: the same command goes on where it stopped, and another one adds its own. `CORPUS`
was prepared before.

Prints a Markdown table of all that lies there: mean and standard deviation of val_bpb over the seeds, its ratio to the
first variant over the seeds they share, with its standard error, and the passes over the corpus. Cores are to be judged
within one pass: what memorizes wins beyond it.
"""

import argparse
import json
import math
import os
import queue
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import variants

from autoresearch import arguments, knobs
from autoresearch.corpus import store
from autoresearch.engine.gpus import VISIBLE, visible_gpus
from autoresearch.engine.local import LocalEngine
from autoresearch.errors import UserError
from autoresearch.machine import cache_folder
from autoresearch.records import Kept, Measurement, Trial
from autoresearch.settings import Settings

FIGURES = {  # of a result, times a factor, with so many digits
    "passes": ("passes", 1, 2),
    "tokens/s": ("tokens_per_second", 1, 0),
    "MFU %": ("mfu", 100, 1),
    "steps": ("steps", 1, 0),
    "peak GB": ("peak_memory", 1e-9, 1),
    "parameters, M": ("parameters", 1e-6, 1),
    "active, M": ("active_parameters", 1e-6, 1),
}
HEAD = ["seconds", "variant", "n", "val_bpb", "sd", "sd %", "ratio", *FIGURES]
BESIDE = 60.0  # seconds that a measurement takes beside its training, at most
BYTES = 40_000_000  # of text that is scored
LOG = 2000  # characters of each log's end that are shown when something fails


def record(variant: str, seed: int, budget: float, m: Measurement) -> dict[str, Any]:
    """A line of the results."""
    train = m.seconds.get("train")
    return {
        "variant": variant,
        "seed": seed,
        "budget": budget,
        "outcome": m.outcome,
        "value": m.value,
        "reason": m.reason,
        "steps": m.steps,
        "passes": m.passes,
        "tokens_per_second": m.tokens / train if m.tokens and train else None,
        "mfu": m.mfu,
        "peak_memory": m.peak_memory,
        "parameters": m.parameters,
        "active_parameters": m.active_parameters,
        "seconds": dict(m.seconds),
        "device": m.device_name,
        "torch": m.torch_version,
        "corpus": m.corpus,
        "curve": [(point.step, round(point.loss, 4)) for point in m.curve],
    }


class Bench:
    """What is left to measure, and what was measured."""

    def __init__(self, options: argparse.Namespace, results: Path) -> None:
        self.options, self.results = options, results
        self.cache = cache_folder(os.environ)
        self.budget = arguments.budget(options.budget)
        self.ends = time.monotonic() + options.within
        self.lock = threading.Lock()
        done = {(line["variant"], line["seed"], line["budget"]) for line in self.lines() if line["outcome"] == "scored"}
        self.jobs: queue.SimpleQueue[tuple[str, int]] = queue.SimpleQueue()
        for seed in range(options.first, options.first + options.seeds):
            for variant in options.variants:
                if (variant, seed, self.budget) not in done:
                    self.jobs.put((variant, seed))

    def lines(self) -> list[dict[str, Any]]:
        """All results so far."""
        return [json.loads(line) for line in self.results.read_text().splitlines()] if self.results.exists() else []

    def work(self, device: str | None, scratch: Path) -> None:
        """Measure on one device (its UUID; None: the only one) until nothing is left, or no time."""
        environ = {**os.environ, **({VISIBLE: device} if device else {})}
        engine = LocalEngine(scratch, environ, "core")
        try:
            while time.monotonic() + self.budget + BESIDE < self.ends:
                try:
                    variant, seed = self.jobs.get_nowait()
                except queue.Empty:
                    return
                self.measure(engine, variant, seed, scratch)
        finally:
            engine.close()

    def measure(self, engine: LocalEngine, variant: str, seed: int, scratch: Path) -> None:
        """One measurement; what the variant compiles on this device is there for its next seed."""
        source = variants.source(variant, self.options.set)
        constants = knobs.values(source)
        vocab_size, context = (int(constants[name]) for name in ("VOCAB_SIZE", "CONTEXT"))
        settings = Settings(
            budget=self.budget,
            max_steps=self.options.steps,
            startup_limit=300.0,
            vocab_sizes=(vocab_size,),
            validation=self.options.validation,
        )
        view = store.open(self.options.corpus, self.cache).view(vocab_size)
        folder = scratch / "kept" / str(abs(hash(source)))
        logs = folder / f"logs-{seed}"
        kept = Kept(*(str(folder / part) for part in ("weights", "losses", "train-cache", "open-cache")))
        m = engine.measure(
            Trial(source, seed, vocab_size, context, view, settings, tip=kept, keep=kept, logs=str(logs))
        )
        line = record(variant, seed, self.budget, m)
        with self.lock, self.results.open("a") as file:
            file.write(json.dumps(line) + "\n")
            figure = f"{m.value:.5f}" if m.value else f"{m.outcome}: {m.reason}"
            print(f"{variant}, seed {seed}: {figure} in {m.seconds.get('total', 0.0):.0f} s", flush=True)
            for log in sorted(logs.glob("*.log")) if m.value is None else ():
                print(f"{log.name}: ...{log.read_text()[-LOG:]}", flush=True)


def table(lines: Iterable[dict[str, Any]], yardstick: str) -> str:
    """The scored measurements, by budget and variant; ratios are to the variant named as the yardstick."""
    groups: dict[tuple[float, str], dict[int, dict[str, Any]]] = {}
    for line in lines:
        if line["outcome"] == "scored":
            groups.setdefault((line["budget"], line["variant"]), {})[line["seed"]] = line
    rows = [f"| {' | '.join(HEAD)} |", "|---" * len(HEAD) + "|"]
    for (budget, variant), seeds in sorted(groups.items()):
        first = groups.get((budget, yardstick), {})
        values = [line["value"] for line in seeds.values()]
        mean, deviation = statistics.mean(values), statistics.stdev(values) if len(values) > 1 else math.nan
        ratios = [seeds[seed]["value"] / first[seed]["value"] for seed in seeds.keys() & first.keys()]
        error = statistics.stdev(ratios) / math.sqrt(len(ratios)) if len(ratios) > 1 else math.nan
        ratio = f"{statistics.mean(ratios):.4f} ± {error:.4f}" if ratios else "–"
        spread = [f"{mean:.4f}", f"{deviation:.4f}", f"{100 * deviation / mean:.2f}", ratio]
        means = [average(seeds.values(), name, scale, digits) for name, scale, digits in FIGURES.values()]
        rows.append(f"| {' | '.join([f'{budget:g}', f'`{variant}`', str(len(seeds)), *spread, *means])} |")
    return "\n".join(rows)


def average(lines: Iterable[dict[str, Any]], name: str, scale: float, digits: int) -> str:
    """Of one figure, over the lines that have it."""
    found = [scale * line[name] for line in lines if line[name] is not None]
    return f"{statistics.mean(found):,.{digits}f}" if found else "–"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", help="prepared before")
    parser.add_argument("variants", nargs="+", metavar="VARIANT")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first", type=int, default=1, help="of the seeds")
    parser.add_argument("--budget", default="90s", help="training time of each")
    parser.add_argument("--steps", type=int, help="batches that end a training, if they come before its budget")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a constant of every variant")
    parser.add_argument("--validation", type=int, default=BYTES, help="bytes of text to score")
    parser.add_argument("--within", type=float, default=float("inf"), help="seconds in which to be done")
    parser.add_argument("--results", type=Path, default=Path("core.jsonl"))
    options = parser.parse_args()
    try:
        for variant in options.variants:
            variants.source(variant, options.set)
        bench = Bench(options, options.results)
        gpus: list[str | None] = [gpu.uuid for gpu in visible_gpus(os.environ)]
        with tempfile.TemporaryDirectory() as name:
            hands = [
                threading.Thread(target=bench.work, args=(gpu, Path(name) / str(number)))
                for number, gpu in enumerate(gpus or [None])
            ]
            for hand in hands:
                hand.start()
            for hand in hands:
                hand.join()
        print(f"\n{table(bench.lines(), options.variants[0])}")
    except (UserError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
