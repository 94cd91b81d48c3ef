"""Whether a program fits a smaller card: `python benchmarks/memory.py programs/24gb.md 24 [--cap 21] [--tokens 500e6]`.

Trains a program's baseline for three steps on made-up tokens and scores it as on a card of 24 GB, through the engine as
a run would, with every process held to `--cap` GB of the GPU at hand; without it, to the program's memory_limit. Prints
the peak memory of training and of scoring. Exit code 1 if it does not fit. On a processor nothing is held.
"""

import argparse
import os
import re
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import variants
from made_up import TOKEN, token_file

from autoresearch import knobs, program, trial
from autoresearch.engine.local import LocalEngine
from autoresearch.records import CorpusView, Program
from autoresearch.units import format_size

STEPS = 3
SCORED = 300_000  # tokens: several batches, since a batch's peak is told when the next one begins

# Behind the baseline's file: the cap, from the first weights on, and in scoring the peak so far, on the scorer's log.
HELD = """

_build, _main, _trains = build_model, main, False


def build_model(device):
    if device.type == "cuda":
        torch.cuda.set_per_process_memory_fraction({cap} / torch.cuda.get_device_properties(device).total_memory)
    model = _build(device)
    if not _trains and device.type == "cuda":
        model.register_forward_pre_hook(lambda *_: print("peak", torch.cuda.max_memory_allocated(), flush=True))
    return model


def main(run):
    global _trains
    _trains = True
    _main(run)
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=Path)
    parser.add_argument("card", type=float, help="GB that the card has, by which scoring chooses its batches")
    parser.add_argument("--cap", type=float, help="GB (10^9 bytes) that a process may take of the GPU")
    parser.add_argument("--tokens", type=float, default=500e6, help="to train on: they may lie on the GPU, too")
    parser.add_argument("--file", default="shipped", help="to train, named as in benchmarks/variants.py")
    options = parser.parse_args()
    chosen = program.load(options.program)
    cap = int(options.cap * 1e9) if options.cap else chosen.settings.memory_limit
    if cap is None:
        parser.error(f"{options.program} has no memory_limit: give --cap")
    source = trial.with_constants(variants.source(options.file), chosen)
    settings = chosen.settings.model_copy(
        update={"budget": 600.0, "max_steps": STEPS * _passes(source), "validation": TOKEN * SCORED, "audit": 256}
    )
    capped = Program(chosen.name, settings, chosen.prose, chosen.digest)
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)

        def corpus(size: int) -> CorpusView:
            train, validation = (home / f"{split}.bin" for split in ("train", "validation"))
            return CorpusView(
                "made up", token_file(train, int(options.tokens), size), token_file(validation, SCORED, size)
            )

        engine = LocalEngine(home / "scratch", os.environ, "memory", settings.device)
        engine._bench = replace(engine._bench, memory=int(options.card * 1e9))
        held = trial.build(capped, source + HELD.format(cap=cap), 0, corpus, home / "logs")
        measured = engine.measure(held)
        log = home / "logs" / "score.log"
        told = log.read_text() if log.exists() else ""
        peaks = [int(peak) for peak in re.findall(r"^peak (\d+)$", told, re.MULTILINE)]
    model = f"{measured.parameters or 0:,} parameters on {engine.hardware}"
    print(f"{options.program}, {model}, each process held to {format_size(cap)}:")
    print(f"training {format_size(measured.peak_memory)}, scoring {format_size(max(peaks, default=None))}")
    fits = measured.outcome == "scored"
    print("it fits" if fits else f"it does not: {measured.outcome} in {measured.phase}: {measured.reason}")
    return 0 if fits else 1


def _passes(source: str) -> int:
    """Batches in an optimizer step."""
    values = knobs.values(source)
    return -(-int(values["BATCH_ROWS"]) // int(values["MICRO_ROWS"]))


if __name__ == "__main__":
    sys.exit(main())
