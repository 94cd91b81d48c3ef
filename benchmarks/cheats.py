"""How patches of the training core that cheat, and honest ones, come out: `python benchmarks/cheats.py [WORD ...]`.

Prints a Markdown table. Each is trained for some steps and scored, for real, as in `tests/cheats`: all of them, or
those with one of the words in their names; on the CPU, or with `--device cuda` on a GPU. `--part 0/4` does every fourth
of them, so that several processes share the work. Exit code 1 if any does not come out as it should.
"""

import argparse
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from autoresearch.records import Measurement
from tests.cheats.cheats import CHEATS
from tests.cheats.honest import HONEST
from tests.cheats.patches import Patch, make_corpus, make_engine, measure, measure_shipped, said
from tests.cheats.world import make_world


def row(kind: str, name: str, measurement: Measurement, honest: float) -> str:
    """One line of the table. honest: the value of the file as shipped."""
    if measurement.value is None:
        what = (measurement.reason or "").removeprefix("the score is not believed: ").split(" (tokens")[0]
    else:
        what = f"{measurement.value - honest:+.3f}"
    claim = "–" if measurement.claim is None else f"{measurement.claim - honest:+.3g}"
    return f"| {kind} | {name} | {claim} | {measurement.outcome} | {what[:110]} |"


def is_right(patch: Patch, measurement: Measurement, most: float, log: str) -> bool:
    """Whether it is what the patch says. most: bits per byte that a cheat may not come below. log: what was printed."""
    if not re.fullmatch(patch.outcome, measurement.outcome) or not re.search(patch.log, log, re.MULTILINE):
        return False
    if patch.never and re.search(patch.never, log, re.MULTILINE):
        return False
    if measurement.value is None:
        return bool(re.search(patch.reason, measurement.reason or ""))
    return measurement.value > most - patch.gain


def chosen(patches: dict[str, Patch], words: Sequence[str]) -> dict[str, Patch]:
    """Those with one of the words in their names; all if there are none."""
    return {name: patch for name, patch in patches.items() if not words or any(word in name for word in words)}


def part_of(patches: dict[str, Patch], part: str) -> dict[str, Patch]:
    """Every so many-th of them, by `0/4` and the like."""
    share, shares = map(int, part.split("/"))
    return dict(list(patches.items())[share::shares])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="WORD")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--part", default="0/1")
    options = parser.parse_args()
    began, wrong = time.monotonic(), 0
    cheats, earnest = (part_of(chosen(patches, options.words), options.part) for patches in (CHEATS, HONEST))
    with tempfile.TemporaryDirectory() as folder, make_world(Path(folder)) as world:
        engine, corpus = make_engine(Path(folder) / "scratch", options.device), make_corpus(Path(folder))
        shipped = measure_shipped(engine, corpus, Path(tempfile.mkdtemp(dir=folder)))
        print("| kind | patch | claimed, against the file as shipped | outcome | why, or value against the same |")
        print("|---|---|---|---|---|")
        for kind, patches, most in (("cheat", cheats, shipped.value - 0.002), ("honest", earnest, 0.0)):
            for name, patch in patches.items():
                if missing := set(patch.needs) & set(engine.sandbox.missing):
                    print(f"| {kind} | {name} | – | – | not tried: no protection of {', '.join(missing)} here |")
                    continue
                logs = Path(tempfile.mkdtemp(dir=folder))
                measurement = measure(patch, engine, corpus, logs, shipped=shipped, names=world.names())
                right = is_right(patch, measurement, most, said(logs)) and not (world.visited() or world.sleepers())
                wrong += not right
                print(row(kind, name if right else f"{name} (!)", measurement, shipped.value), flush=True)
        engine.close()
    seconds = time.monotonic() - began
    print(f"\n{len(cheats)} cheats and {len(earnest)} honest patches, {wrong} not as they should be; ", end="")
    print(f"the file as shipped has {shipped.value:.3f} bits per byte; {seconds:.0f} s on {engine.hardware}.")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
