"""Seconds from weights saved to score recorded: `python benchmarks/scoring.py [--tokens 21e6] [--set DEPTH=8 ...]`.

Trains the training core for a few steps on made-up tokens and scores it, through the engine as a run would: first with
nothing compiled before, then each time with what the time before has left. Prints a Markdown table: `scored`, from the
moment the weights' file was whole to the moment the measurement was handed over, everything kept; of it `open` and
`sealed`, from the word to go to the last answer; tokens a second of the open process, its start included; warm-up of
the training; bytes that compilers have left, for training and for scoring.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import variants
from made_up import token_file

from autoresearch import arguments, knobs
from autoresearch.engine.local import LocalEngine
from autoresearch.records import CorpusView, Kept, Trial
from autoresearch.settings import Settings

SHAPE = {"DEPTH": 8, "ASPECT": 64, "CONTEXT": 2048, "VOCAB_SIZE": 8192}  # the one that figures are given for


def size(folder: str) -> float:
    """MB of the files below a folder."""
    return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file()) / 1e6


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=float, default=21e6, help="to score")
    parser.add_argument("--audit", type=int, default=1024)
    parser.add_argument("--memory", type=float, default=75e9, help="memory_limit: what is left is for those who wait")
    parser.add_argument("--sandbox", choices=("auto", "off"), default="auto")
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--steps", type=int, default=4, help="batches of training")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="constants of the file")
    parser.add_argument("--file", default="shipped", help="to train, named as in benchmarks/variants.py")
    options = parser.parse_args()
    source = knobs.assign(variants.source(options.file), {**SHAPE, **arguments.changes(options.set)})
    vocab_size, context = (int(knobs.values(source)[name]) for name in ("VOCAB_SIZE", "CONTEXT"))
    settings = Settings(
        budget=600.0,
        max_steps=options.steps,
        startup_limit=600.0,
        vocab_sizes=(vocab_size,),
        validation=10**12,
        audit=options.audit,
        memory_limit=options.memory,
    )
    print("| run | scored | open | sealed | the rest | tokens/s | warm-up | caches, MB | mean d | largest d |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        validation = token_file(home / "validation.bin", int(options.tokens), vocab_size)
        corpus = CorpusView("made up", token_file(home / "train.bin", 10_000_000, vocab_size), validation)
        engine = LocalEngine(home / "scratch", os.environ, "scoring", sandbox=options.sandbox)
        tip: Kept | None = None
        for run in range(options.repeats):
            folder = home / str(run)
            keep = Kept(*(str(folder / part) for part in ("weights", "losses", "train-cache", "open-cache")))
            measured = engine.measure(
                Trial(source, run, vocab_size, context, corpus, settings, tip=tip, keep=keep, logs=str(folder / "logs"))
            )
            ended = time.time()
            if measured.outcome != "scored" or measured.audit is None:
                print(f"{measured.outcome} in {measured.phase}: {measured.reason}\n{measured.traceback or ''}")
                return 1
            scored = ended - Path(keep.weights).stat().st_mtime  # the file itself is kept, with its time
            opened, sealed = measured.seconds["open"], measured.seconds["sealed"]
            print(
                f"| {run} | {scored:.2f} | {opened:.2f} | {sealed:.2f} | {scored - opened - sealed:.2f}"
                f" | {validation.tokens / opened:,.0f} | {measured.seconds['warmup']:.1f}"
                f" | {size(keep.train_cache):.0f} + {size(keep.open_cache):.0f} "
                f" | {measured.audit.mean:.1e} | {measured.audit.largest:.1e} |",
                flush=True,
            )
            tip = keep
    print(f"\n{validation.tokens:,} tokens, {options.audit} audited, on {engine.hardware}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
