"""What the sandbox costs an experiment: `python benchmarks/sandbox.py [--pairs N]`, on the CPU.

Trains a bigram model for a step on made-up tokens and scores it, confined and not, in turn, by two engines: nearly all
of what it takes is processes that begin and end. Prints the median seconds of a measurement for each, with the ratio,
the median of the pairs' differences, and the least of each kind; and what the probe at the start of a run takes.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from made_up import token_file

from autoresearch.engine import sandbox
from autoresearch.engine.local import LocalEngine
from autoresearch.records import CorpusView, Trial
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=30)
    options = parser.parse_args()
    began = time.monotonic()
    confined = sandbox.examine(os.environ)
    probed = time.monotonic() - began
    settings = Settings(budget=60.0, max_steps=1, startup_limit=120.0, vocab_sizes=(VOCAB,), audit=32)
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        train, validation = (token_file(home / f"{split}.bin", 50_000, VOCAB) for split in ("train", "validation"))
        trial = Trial(SOURCE, 0, VOCAB, CONTEXT, CorpusView("made up", train, validation), settings)
        engines = {
            kind: LocalEngine(home / kind, os.environ, kind, "cpu", sandbox=found)
            for kind, found in (("off", sandbox.OFF), ("on", confined))
        }
        seconds: dict[str, list[float]] = {kind: [] for kind in engines}
        for pair in range(options.pairs + 1):
            for kind, engine in engines.items():
                measured = engine.measure(trial)
                if measured.outcome != "scored":
                    print(f"{kind}: {measured.outcome} in {measured.phase}: {measured.reason}\n{measured.traceback}")
                    return 1
                if pair:  # the first one waits for imports
                    seconds[kind].append(measured.seconds["total"])
    off, on = (statistics.median(seconds[kind]) for kind in ("off", "on"))
    differences = [b - a for a, b in zip(seconds["off"], seconds["on"], strict=True)]
    print(f"sandbox {confined.describe()}, of {', '.join(confined.mechanisms)}; {options.pairs} pairs")
    print(f"a measurement without: {off:.2f} s, with: {on:.2f} s, ratio {on / off:.2f}")
    print(f"median difference of a pair: {statistics.median(differences):+.3f} s")
    print(f"least without: {min(seconds['off']):.2f} s, with: {min(seconds['on']):.2f} s")
    print(f"the probe, once a run: {probed:.2f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
