"""What a training batch costs: `python benchmarks/data.py [--tokens 500e6] [--rows 64] [--device cuda]`.

Gathers batches as a training does, from made-up tokens, and prints how long it took to bring the tokens to the device,
and of each batch the host's milliseconds, the device's, and the tokens a second that a training could have if it did
nothing else. A training waits for data no longer than this: the device's share of a step, and the host's where that is
not ahead.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from autoresearch.harness.data import TrainingData
from autoresearch.records import TokenFile


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=float, default=500e6)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--batches", type=int, default=200)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    device, count = torch.device(options.device), int(options.tokens)
    cuda = device.type == "cuda"
    if cuda:
        torch.zeros(1, device=device)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokens.bin"
        np.random.default_rng(0).integers(8191, size=count, dtype=np.uint16).astype("<u2", copy=False).tofile(path)
        began = time.perf_counter()
        data = TrainingData(TokenFile(str(path), 8192, 8191, count, count, ""), 0, device)
        data.batch(options.rows, options.context)[0].sum().item()
        ready = time.perf_counter() - began
        host, devices = 0.0, []
        for _ in range(options.batches):
            began = time.perf_counter()
            if cuda:
                first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
                first.record()
            data.batch(options.rows, options.context)
            host += time.perf_counter() - began
            if cuda:
                last.record()
                last.synchronize()
                devices.append(first.elapsed_time(last))
    per_batch = host / options.batches * 1e3
    on_device = sum(devices) / len(devices) if devices else per_batch
    rate = options.rows * options.context / max(per_batch, on_device) * 1e3
    print(f"{count:,} tokens on {device} after {ready:.2f} s")
    print(
        f"{options.rows} x {options.context}: host {per_batch:.3f} ms, device {on_device:.3f} ms, {rate:,.0f} tokens/s"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
