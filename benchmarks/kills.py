"""A run that is killed at random moments: `python benchmarks/kills.py [--kills N] [--interrupts N] [--seed N]`.

A real lab in a folder for a while: a bigram model on the CPU, trained and scored in a second, and an agent with
something to propose for every verdict. SIGKILL goes to the run itself, its fork server, the training process, the
judge, the processes that serve it, and the supervisors of all these, each at a random moment of its life. Ctrl-C, too,
is pressed on the run at random moments, every other time once more. After each end of the run, by death or not, and at
the end of each round of experiments, ledger, refs, folders and processes are compared: `tests/kills/rules.py`. Prints a
Markdown table of who was killed where, and what did not hold. Exit code 1 if anything.
"""

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.kills.lab import make_lab
from tests.kills.seen import CHILDREN, CTRL_C, PARENT, rows
from tests.kills.siege import Siege, drawn


def main() -> int:
    """Kill, and tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--interrupts", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0, help="of the victims and the moments")
    options = parser.parse_args()
    began, draw = time.monotonic(), random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="autoresearch-kills-") as name:
        lab = make_lab(Path(name).resolve() / "user")
        siege = Siege(lab, draw, say=lambda line: print(line, file=sys.stderr, flush=True))
        siege.lay(drawn(draw, options.kills, options.interrupts))
        verdicts = Counter("rolled back" if row.standing == "rolled_back" else row.status for row in rows(lab))
    print("| killed | times | where it was hit |\n|---|---|---|")
    for victim in (PARENT, CTRL_C, *CHILDREN):
        places = Counter({where: count for (who, where), count in siege.hits.items() if who == victim})
        told = ", ".join(f"{where} {count}" for where, count in places.most_common())
        print(f"| {victim} | {places.total()} | {told} |")
    counted = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.most_common())
    print(f"\n{siege.hits.total()} kills, {verdicts.total()} experiments ({counted}), ", end="")
    print(f"{len(siege.broken)} violations, {time.monotonic() - began:.0f} s")
    for broken in siege.broken:
        print(f"- {broken}")
    return 1 if siege.broken else 0


if __name__ == "__main__":
    sys.exit(main())
