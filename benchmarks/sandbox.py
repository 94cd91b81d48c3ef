"""What the sandbox costs an experiment: `python benchmarks/sandbox.py [--pairs N] [--program P --corpus C]`.

Without a program a bigram model is trained for a step on made-up tokens on the CPU: nearly all of what it takes is
processes that begin and end. With one, its first file is trained for --budget on a prepared corpus, with what was
compiled before. Confined and not in turn, by two engines. Prints a Markdown table of the median seconds by phase, in
all, beside the training, and of the tokens a second; the median of the pairs' differences, with the least and the most
of them; and what the probe at the start of a run takes.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import variants
from made_up import token_file

from autoresearch import arguments, program, trial
from autoresearch.corpus import store
from autoresearch.engine import sandbox
from autoresearch.engine.local import LocalEngine
from autoresearch.machine import cache_folder
from autoresearch.records import CorpusView, Kept, Measurement, Trial
from autoresearch.settings import Settings

VOCAB, CONTEXT = 256, 32
SOURCE = f"""
import torch
import torch.nn.functional as F
from torch import nn

VOCAB_SIZE, CONTEXT = {VOCAB}, {CONTEXT}


def build_model(device):
    return nn.Embedding(VOCAB_SIZE, VOCAB_SIZE, device=device)


def main(run):
    model = build_model(run.device)
    run.start(model)
    for inputs, targets in run.batches(8, CONTEXT):
        run.report(F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten()))
    run.save(model)
"""


def bigram(home: Path) -> Trial:
    """A step of a bigram model, on the CPU."""
    settings = Settings(budget=60.0, max_steps=1, startup_limit=120.0, vocab_sizes=(VOCAB,), audit=32, device="cpu")
    train, validation = (token_file(home / f"{split}.bin", 50_000, VOCAB) for split in ("train", "validation"))
    return Trial(SOURCE, 0, VOCAB, CONTEXT, CorpusView("made up", train, validation), settings)


def first(path: Path, corpus: str | None, budget: float, home: Path) -> Trial:
    """The first file of a program."""
    chosen = program.load(path)
    prepared = store.open(corpus or chosen.settings.corpus, cache_folder(os.environ))
    source = trial.with_constants(variants.source("shipped"), chosen)
    shorter = replace(chosen, settings=chosen.settings.model_copy(update={"budget": budget}))
    return trial.build(shorter, source, 0, prepared.view, home / "logs")


def figures(measured: Measurement) -> dict[str, float]:
    """Seconds by phase, in all and beside the training; tokens a second."""
    phases = {name: seconds for name, seconds in measured.seconds.items() if name != "total"}
    total, train = measured.seconds["total"], measured.seconds["train"]
    rest = {"the rest": total - sum(phases.values()), "in all": total, "beside the training": total - train}
    return {**phases, **rest, "tokens/s": (measured.tokens or 0) / train}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=30)
    parser.add_argument("--program", type=Path)
    parser.add_argument("--corpus", help="in place of the program's; prepared before")
    parser.add_argument("--budget", type=arguments.budget, default=10.0, help="of the program's trainings, such as 10s")
    options = parser.parse_args()
    began = time.monotonic()
    confined = sandbox.examine(os.environ)
    probed = time.monotonic() - began
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        job = first(options.program, options.corpus, options.budget, home) if options.program else bigram(home)
        engines = {
            kind: LocalEngine(home / kind, os.environ, kind, job.settings.device, sandbox=found)
            for kind, found in (("off", sandbox.OFF), ("on", confined))
        }
        kept = {kind: Kept(*(str(home / f"{kind}-{n}") for n in range(4))) for kind in engines}
        found: dict[str, list[dict[str, float]]] = {kind: [] for kind in engines}
        for pair in range(options.pairs + 1):
            for kind, engine in engines.items():
                measured = engine.measure(replace(job, tip=kept[kind]) if pair else replace(job, keep=kept[kind]))
                if measured.outcome != "scored":
                    print(f"{kind}: {measured.outcome} in {measured.phase}: {measured.reason}\n{measured.traceback}")
                    return 1
                if pair:  # the first one waits for imports and compilers
                    found[kind].append(figures(measured))
                if options.program:
                    print(
                        f"{kind}: {measured.seconds['total']:.1f} s, {measured.value:.4f}", file=sys.stderr, flush=True
                    )
        for engine in engines.values():
            engine.close()
    print(
        f"sandbox {confined.describe()}, of {', '.join(confined.mechanisms)}; {options.pairs} pairs; {engine.hardware}"
    )
    print(f"the probe, once a run: {probed:.2f} s\n")
    print("| | without | with | ratio | difference of a pair, median | least | most |\n|---|---|---|---|---|---|---|")
    for name in found["off"][0]:
        off, on = ([one[name] for one in found[kind]] for kind in ("off", "on"))
        differences = [b - a for a, b in zip(off, on, strict=True)]
        without, with_it = statistics.median(off), statistics.median(on)
        cells = [statistics.median(differences), min(differences), max(differences)]
        shown = " | ".join(f"{cell:+,.0f}" if name == "tokens/s" else f"{cell:+.3f}" for cell in cells)
        both = f"{without:,.0f} | {with_it:,.0f}" if name == "tokens/s" else f"{without:.2f} | {with_it:.2f}"
        print(f"| {name} | {both} | {with_it / without if without else 1:.3f} | {shown} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
