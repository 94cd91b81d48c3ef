"""Tokens a second of the training core: `python benchmarks/throughput.py [VARIANT ...] [--seconds 20]`.

Variants are named as in benchmarks/variants.py. The `main` of each trains on made-up tokens, in a process of its own,
with the harness's data and clock. Prints a Markdown table: tokens a second over the whole time, MFU, the median of a
step in milliseconds, the 99th percentile and the longest over it, the share of the time in which the device gathers
its batches, peak memory, seconds from the start of `main` to that of the clock, and with `--profile` a token's
nanoseconds by kind of kernel, and those in which none was at work.
"""

import argparse
import contextlib
import importlib
import multiprocessing
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import variants
from made_up import token_file
from torch import Tensor, nn

from autoresearch.engine.device import peak_flops
from autoresearch.harness import candidate
from autoresearch.harness.clock import Clock
from autoresearch.harness.data import Batch, TrainingData
from autoresearch.records import TokenFile

TOKENS = 50_000_000  # made up
KINDS = {  # of kernels, by what their names contain; the first that fits
    "rotating queries and keys": ("rotated_norm",),
    "MLP": ("_squared_relu",),
    "loss": ("cross_entropy",),
    "attention, whole rows": ("cudnn", "fmha"),
    "attention, windows": ("flash", "flex", "_backward_of_query", "_backward_of_key", "_forward"),
    "matrix products": ("nvjet", "gemm", "cutlass", "cublas", "splitK"),
    "elementwise": ("triton", "elementwise"),
}


class Marks:
    """Moments of the device, in its order: events on CUDA, else the host's time."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._marks: list[Any] = []

    def add(self) -> None:
        if self._cuda:
            event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            event.record()
            self._marks.append(event)
        else:
            self._marks.append(time.perf_counter())

    def milliseconds(self) -> list[float]:
        """Between each and the next."""
        pairs = zip(self._marks, self._marks[1:], strict=False)
        return [a.elapsed_time(b) if self._cuda else 1e3 * (b - a) for a, b in pairs]


class Run:
    """What `main` is handed: the harness's data and clock, and marks around them."""

    def __init__(self, tokens: TokenFile, seconds: float, profile: bool) -> None:
        self.seed = 1
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.progress = 0.5  # of a budget, whatever the schedule makes of it
        self.model: nn.Module | None = None
        self.tokens = 0
        self.steps, self.gathers = Marks(self.device), Marks(self.device)
        self.clock = Clock(seconds, None, self.device)
        self.began = time.perf_counter()
        self.start_up = 0.0
        self._data = TrainingData(tokens, self.seed, self.device)
        self._profile = torch.profiler.profile() if profile else None

    def warmup_batches(self, rows: int, context: int) -> Any:
        return self._data.warmup(rows, context)

    def start(self, model: nn.Module) -> None:
        self.model = model
        self.start_up = time.perf_counter() - self.began
        if self._profile:
            self._profile.start()
        self.clock.start()
        self.steps.add()

    def batches(self, rows: int, context: int) -> Any:
        count = 0
        while not self.clock.spent(count):
            self.gathers.add()
            batch: Batch = self._data.batch(rows, context)
            self.gathers.add()
            count, self.tokens = count + 1, self.tokens + rows * context
            yield batch
            self.clock.fence()
        self.clock.end()
        if self._profile:
            self._profile.stop()

    def report(self, loss: Tensor) -> None:
        self.steps.add()

    def save(self, model: nn.Module) -> None:
        """Nothing is scored."""

    def kinds(self) -> str:
        """Nanoseconds of a token by kind of kernel."""
        if self._profile is None:
            return ""
        times = dict.fromkeys([*KINDS, "other"], 0.0)
        events: Any = self._profile.events()  # type: ignore[no-untyped-call]
        for event in events:  # operators, annotations and the profiler's own pauses would count kernels again
            if event.device_type.name == "CUDA" and not event.is_user_annotation and "Buffer" not in event.key:
                fits = (kind for kind, names in KINDS.items() if any(name in event.key for name in names))
                times[next(fits, "other")] += event.self_device_time_total * 1e3 / self.tokens
        times["none at work"] = self.clock.elapsed * 1e9 / self.tokens - sum(times.values())
        return ", ".join(f"{kind} {spent:.1f}" for kind, spent in times.items())


def measure(variant: str, folder: str, tokens: TokenFile, seconds: float, profile: bool) -> str:
    """One row of the table."""
    with contextlib.suppress(ImportError):  # as the harness does
        importlib.import_module("autoresearch.harness.hopper")
    path = Path(folder) / f"core_{os.getpid()}.py"
    path.write_text(variants.source(variant))
    module = candidate.load(str(path))
    run = Run(tokens, seconds, profile)
    module.main(run)
    steps, gathers = np.array(run.steps.milliseconds()), np.array(run.gathers.milliseconds()[::2])
    cuda = run.device.type == "cuda"
    speed = run.tokens / run.clock.elapsed
    peak = peak_flops(torch.cuda.get_device_name()) if cuda else None
    mfu = f"{100 * module.GPT.flops_per_token(run.model) * speed / peak:.1f}" if peak else "–"
    memory = f"{torch.cuda.max_memory_allocated() / 1e9:.1f}" if cuda else "–"
    median, p99 = np.quantile(steps, [0.5, 0.99])
    return (
        f"| `{variant}` | {speed:,.0f} | {mfu} | {median:.1f} | {p99 / median:.3f} | {steps.max() / median:.3f}"
        f" | {0.1 * gathers.sum() / run.clock.elapsed:.2f} | {memory} | {run.start_up:.1f} | {run.kinds()} |"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", nargs="*", metavar="VARIANT", default=["shipped", "reference"])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--vocabulary", type=int, default=8192)
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    print("| variant | tokens/s | MFU % | step, ms | p99 / p50 | longest / p50 | gathering % | GB | start-up, s | ns |")
    print("|---|---|---|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        tokens = token_file(Path(folder) / "tokens.bin", TOKENS, options.vocabulary)
        for variant in options.variants:  # one after the other, each in a process of its own
            with multiprocessing.get_context("spawn").Pool(1) as process:
                given = (variant, folder, tokens, options.seconds, options.profile)
                print(process.apply(measure, given), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
