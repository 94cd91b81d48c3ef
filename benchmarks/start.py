"""How soon a command can measure: `python benchmarks/start.py [--against REVISION] [--device cuda] [--repeats N]`.

Runs `autoresearch run` on a run that has all its experiments, with the sources here and with those of another revision
in turn. Prints a Markdown table, in seconds from the first line of Python: when its fork server is started, when the
command itself is ready to measure, when the first process can be forked, and what of that a measurement would wait.
"""

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.conftest import Lab
from tests.kills.lab import make_lab

ROOT = Path(__file__).parents[1]
RUN = ("run", "--program", "programs/quick.md", "--experiments", "1", "--agent", "search")
# As the console script, with an eye on the line to the fork server, which is not let go before that is ready.
TIMED = """
import time; began = time.perf_counter()
import json, sys
from autoresearch import forks
seen, start, close = {}, forks.Forks.__init__, forks.Forks.close
def starts(self, line):
    start(self, line)
    seen["started"] = time.perf_counter() - began
def closes(self):
    seen["through"] = time.perf_counter() - began
    while self.alive() and not self.ready:
        self.wait(1.0)
    seen["ready"] = time.perf_counter() - began
    close(self)
    print(json.dumps(seen), file=sys.stderr)
forks.Forks.__init__, forks.Forks.close = starts, closes
from autoresearch.__main__ import main
main()
"""


def timed(lab: Lab, source: Path, tag: str) -> dict[str, float]:
    """Of one command, with the package in this folder. SystemExit if it fails."""
    paths = (str(source), *filter(None, [os.environ.get("PYTHONPATH")]))
    environ = {**lab.environ(), "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-c", TIMED, *RUN, "--tag", tag]
    done = subprocess.run(command, cwd=lab.root, env=environ, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"autoresearch with {source} failed:\n{done.stderr}")
    return dict(json.loads(done.stderr.splitlines()[-1]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", metavar="REVISION", help="another revision of this repository")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--repeats", type=int, default=6)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="autoresearch-start-") as temporary:
        folder = Path(temporary).resolve()
        sources = {"here": ROOT / "src"}  # each with a run of its own, since their figures would not compare
        if options.against:
            command = ["git", "-C", str(ROOT), "archive", options.against, "src"]
            packed = subprocess.run(command, check=True, capture_output=True).stdout
            with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
                archive.extractall(folder / "other", filter="data")
            sources = {"other": folder / "other" / "src", **sources}
        lab = make_lab(folder / "user")
        lab.program.write_text(lab.program.read_text().replace("device: cpu", f"device: {options.device}"))
        print(f"On {os.cpu_count()} cores, {options.device}, medians of {options.repeats}:\n", flush=True)
        for name, source in sources.items():
            timed(lab, source, name)  # the baseline's training, and bytecode
        taken: dict[str, list[dict[str, float]]] = {name: [] for name in sources}
        for _ in range(options.repeats):
            for name, source in sources.items():
                taken[name].append(timed(lab, source, name))
    print("| | started | command ready | a process can be forked | to wait |\n|---|---|---|---|---|")
    for name, each in taken.items():
        medians = {what: statistics.median(one[what] for one in each) for what in each[0]}
        wait = statistics.median(one["ready"] - one["through"] for one in each)
        print(f"| {name} | {' | '.join(f'{median:.2f}' for median in (*medians.values(), wait))} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
