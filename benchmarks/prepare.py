"""What preparing two shards of climbmix's size takes: `python benchmarks/prepare.py [--characters 250e6] [--keep DIR]`.

Makes two parquet files of made-up text, serves them as the hub does from this machine, and runs `autoresearch prepare`
on them in a process of its own. Prints a Markdown table: seconds by stage, the process's peak memory, and the speed of
encoding by one thread and by one a core, in turn, without the rounds in which other work took part of the machine.
"""

import argparse
import io
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
from pyarrow import parquet

sys.path.insert(0, str(Path(__file__).parents[1]))

from autoresearch.corpus import hub, store, tokenizer
from autoresearch.corpus.parallel import in_order
from autoresearch.corpus.split import read_batches
from autoresearch.machine import cores
from tests.corpus.hubserver import Hub

ROWS = 1024  # in a row group, as climbmix has them
VOCAB_SIZE = 8192
PROGRAM = f"---\nbudget: 5m\ncorpus: climbmix\nvocab_sizes: [{VOCAB_SIZE}]\ndevice: cuda\n---\n"
RUN = """
import sys, time
import autoresearch.report.bars as bars
begun = time.monotonic()
bars._lines = lambda console: lambda stage, done, total: print(f"{time.monotonic() - begun:.3f} {stage}", flush=True)
from autoresearch.__main__ import main
main()
"""


def shard(characters: int, seed: int) -> bytes:
    """Made-up words as often as Zipf has it, in documents of a web corpus's lengths; the words do not vary by seed."""
    letters = np.frombuffer(b"etaoinshrdlucmfwypvbgkjqxz", np.uint8)
    fixed, draw = np.random.default_rng(0), np.random.default_rng(seed)
    odds = 1 / np.arange(1, 27)
    sizes = np.clip(fixed.poisson(np.clip(0.75 * np.log(np.arange(2, 50_002)), 1, 9)), 1, 15)
    words = np.array([bytes(fixed.choice(letters, size, p=odds / odds.sum())).decode() for size in sizes], object)
    often = np.cumsum(1 / (np.arange(len(words)) + 2.7) ** 1.05)
    buffer, schema = io.BytesIO(), pa.schema([("text", pa.string())])
    with parquet.ParquetWriter(buffer, schema, compression="zstd", compression_level=3, use_dictionary=False) as writer:
        written = 0
        while written < characters:
            counts = draw.lognormal(6.4, 0.8, ROWS).astype(int) + 5
            picked = (np.searchsorted(often, often[-1] * draw.random(count)) for count in counts)
            texts = [" ".join(words[places]).replace(" a ", ". ").replace(" e ", ", ") for places in picked]
            written += sum(map(len, texts))
            writer.write_table(pa.table({"text": texts}, schema=schema), row_group_size=ROWS)
    return buffer.getvalue()


def prepare(folder: Path, server: Hub) -> tuple[dict[str, float], float, float]:
    """Seconds by stage, in all, and the peak of its resident memory in bytes."""
    program = folder / "program.md"
    program.write_text(PROGRAM)
    command = [sys.executable, "-c", RUN, "prepare", "--program", str(program), "--tokens", "1"]
    env = {**os.environ, "HF_ENDPOINT": server.url, "HF_HOME": str(folder / "hf"), "AUTORESEARCH_CACHE": str(folder)}
    begun = time.monotonic()
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    marks: dict[str, list[float]] = {}
    for line in process.stdout:
        if match := re.match(r"(\d+\.\d+) (\w+)", line):
            marks.setdefault(match[2], []).append(float(match[1]))
    _, status, used = os.wait4(process.pid, 0)
    assert status == 0
    starts = [times[0] for times in marks.values()] + [time.monotonic() - begun]
    stages = {stage: after - before for stage, before, after in zip(marks, starts, starts[1:], strict=False)}
    return stages, time.monotonic() - begun, used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def encoding(folder: Path, patience: float, megabytes: int = 8, rounds: int = 7) -> dict[int, list[float]]:
    """Megabytes a second by number of threads, in turn, until there are so many rounds that nothing else disturbed."""
    layout = store.open("climbmix", folder).layout
    encode = tokenizer.encoder(layout, VOCAB_SIZE)
    batches = [batch for batch, _ in zip(read_batches(layout, "train", 1 << 20), range(megabytes), strict=False)]
    size = sum(len(document) for batch in batches for document in batch)
    speeds: dict[int, list[float]] = {1: [], cores(): []}
    until = time.monotonic() + patience
    while min(map(len, speeds.values())) < rounds and time.monotonic() < until:
        others = _others()
        time.sleep(0.5)
        if _others() - others > 0.03 * cores():
            continue
        for threads, measured in speeds.items():
            others, begun = _others(), time.monotonic()
            for _ in in_order(encode, batches, threads):
                pass
            took = time.monotonic() - begun
            if _others() - others < 0.03 * cores() * took:
                measured.append(size / took / 1e6)
    return speeds


def _others() -> float:
    """Seconds of processor time that all but this process have taken."""
    machine = psutil.cpu_times()
    return sum(machine) - machine.idle - getattr(machine, "iowait", 0.0) - time.process_time()


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--characters", type=float, default=250e6, help="in a shard")
    parser.add_argument("--keep", type=Path, help="where to work, and to leave what was made")
    parser.add_argument("--patience", type=float, default=300, help="seconds to wait for undisturbed rounds")
    arguments = parser.parse_args()
    dataset = hub.DATASETS["climbmix"]
    files = {
        name: shard(int(arguments.characters), seed)
        for seed, name in enumerate(("shard_00000.parquet", str(dataset.held_out)), 1)
    }
    with tempfile.TemporaryDirectory() as temporary, Hub({dataset.repo: files}) as server:
        folder = arguments.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        stages, seconds, peak = prepare(folder, server)
        speeds = encoding(folder, arguments.patience)
        corpus = store.open("climbmix", folder)
    text = sum(split.bytes for split in corpus.manifest.splits.values())
    documents = sum(split.documents for split in corpus.manifest.splits.values())
    sizes = " and ".join(f"{len(data) / 1e6:.1f} MB" for data in files.values())
    print("| | |\n|---|---|")
    print(f"| shards | {sizes} of parquet: {text / 1e6:.1f} MB of text in {documents:,} documents |")
    print(f"| `autoresearch prepare`, in all | {seconds:.1f} s on {cores()} cores |")
    for stage, took in stages.items():
        print(f"| {stage} | {took:.1f} s |")
    print(f"| peak memory | {peak / 1e6:.0f} MB |")
    for threads, measured in speeds.items():
        listed = ", ".join(f"{speed:.1f}" for speed in measured)
        print(f"| encoding, threads: {threads} | {listed} MB/s |")
    if all(speeds.values()):
        one, every = (statistics.median(measured) for measured in speeds.values())
        print(f"| medians, all cores over one | {every / one:.2f} |")


if __name__ == "__main__":
    main()
