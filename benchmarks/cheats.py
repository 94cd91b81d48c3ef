"""How patches of the training core that cheat, and honest ones, come out: `python benchmarks/cheats.py`.

Prints a Markdown table. Each is trained for some steps on the CPU and scored, for real, as in `tests/cheats`. Exit
code 1 if any does not come out as it should.
"""

import re
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from autoresearch.records import Measurement
from tests.cheats.cheats import CHEATS
from tests.cheats.honest import HONEST
from tests.cheats.patches import Patch, make_corpus, make_engine, measure


def row(kind: str, name: str, measurement: Measurement, honest: float) -> str:
    """One line of the table. honest: the value of the file as shipped."""
    if measurement.value is None:
        what = (measurement.reason or "").removeprefix("the score is not believed: ").split(" (tokens")[0]
    else:
        what = f"{measurement.value - honest:+.3f}"
    claim = "–" if measurement.claim is None else f"{measurement.claim - honest:+.3g}"
    return f"| {kind} | {name} | {claim} | {measurement.outcome} | {what[:110]} |"


def is_right(patch: Patch, measurement: Measurement, most: float) -> bool:
    """Whether it is what the patch says. most: bits per byte that a cheat may not come below."""
    if not re.fullmatch(patch.outcome, measurement.outcome):
        return False
    if measurement.value is None:
        return bool(re.search(patch.reason, measurement.reason or ""))
    return measurement.value > most - patch.gain


def main() -> int:
    began, wrong = time.monotonic(), 0
    with tempfile.TemporaryDirectory() as folder:
        engine, corpus = make_engine(Path(folder) / "scratch"), make_corpus(Path(folder))
        honest = measure(Patch(()), engine, corpus, Path(folder) / "logs").value
        assert honest is not None
        print("| kind | patch | claimed, against the file as shipped | outcome | why, or value against the same |")
        print("|---|---|---|---|---|")
        for kind, patches, most in (("cheat", CHEATS, honest - 0.002), ("honest", HONEST, 0.0)):
            for name, patch in patches.items():
                measurement = measure(patch, engine, corpus, Path(folder) / "logs")
                right = is_right(patch, measurement, most)
                wrong += not right
                print(row(kind, name if right else f"{name} (!)", measurement, honest), flush=True)
        engine.close()
    print(f"\n{len(CHEATS)} cheats and {len(HONEST)} honest patches, {wrong} not as they should be; ", end="")
    print(f"the file as shipped has {honest:.3f} bits per byte; {time.monotonic() - began:.0f} s.")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
