"""Attention kernels side by side: `python benchmarks/attention.py [--rows 32] [--heads 6] [--window 256]`. Needs CUDA.

Times each kernel, forward and with its backward pass, in bfloat16 and at the layout the training core uses, and prints
a Markdown table: seconds of the first call (compilation included), nanoseconds a token of the median of ten calls, and
the relative error against the same in float32.
"""

import argparse
import contextlib
import importlib
import statistics
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

Kernel = Callable[[Tensor, Tensor, Tensor], Tensor]


def whole(backend: SDPBackend) -> Kernel:
    """The whole row, by one of torch's own."""

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        with sdpa_kernel([backend]):
            query, key, value = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
            return F.scaled_dot_product_attention(query, key, value, is_causal=True).transpose(1, 2)

    return attend


def flash(window: int) -> Kernel:
    """FlashAttention 2 as torch has it, with a window."""

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        length = query.size(1)
        result: Tensor = torch.ops.aten._flash_attention_forward(
            query, key, value, None, None, length, length, 0.0, False, False,
            window_size_left=window - 1, window_size_right=0,
        )[0]  # fmt: skip
        return result

    return attend


def windowed(window: int) -> Kernel:
    """The harness's, in Triton, for Hopper."""
    importlib.import_module("autoresearch.harness.hopper")

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        result: Tensor = torch.ops.autoresearch.windowed_attention(query, key, value, window)[0]
        return result

    return attend


def flex(window: int, length: int) -> Kernel:
    """FlexAttention, compiled, with a window."""

    def visible(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query >= key) & (query - key < window)

    mask = create_block_mask(visible, None, None, length, length, device="cuda")
    compiled = torch.compile(flex_attention, dynamic=False)

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        query, key, value = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
        result: Tensor = compiled(query, key, value, block_mask=mask)
        return result.transpose(1, 2)

    return attend


def exact(query: Tensor, key: Tensor, value: Tensor, window: int) -> Tensor:
    """In float32, with all scores written out."""
    position = torch.arange(query.size(1), device=query.device)
    distance = position[:, None] - position[None, :]
    mask = (distance >= 0) & (distance < window)
    query, key, value = (x.float().transpose(1, 2) for x in (query, key, value))
    return F.scaled_dot_product_attention(query, key, value, mask).transpose(1, 2)


def median(call: Callable[[], object]) -> float:
    """Milliseconds, of ten calls."""
    for _ in range(3):
        call()
    times = []
    for _ in range(10):
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        first.record()
        call()
        last.record()
        last.synchronize()
        times.append(first.elapsed_time(last))
    middle: float = statistics.median(times)
    return middle


def row(name: str, kernel: Kernel, window: int, shape: tuple[int, int, int, int]) -> str:
    """One line of the table. shape: [B, T, H, D]."""
    inputs = [torch.randn(shape, device="cuda", dtype=torch.bfloat16, requires_grad=True) for _ in range(3)]
    gradient = torch.randn_like(inputs[0])

    def both() -> None:
        for x in inputs:
            x.grad = None
        kernel(*inputs).backward(gradient)  # type: ignore[no-untyped-call]

    began = time.perf_counter()
    both()
    torch.cuda.synchronize()
    first = time.perf_counter() - began
    per_token = 1e6 / (shape[0] * shape[1])
    forward, backward = per_token * median(lambda: kernel(*inputs)), per_token * median(both)
    with torch.no_grad():
        few = [x[:2] for x in inputs]
        expected = exact(few[0], few[1], few[2], window)
        error = ((kernel(*few).float() - expected).norm() / expected.norm()).item() if "flex" not in name else None
    shown = "–" if error is None else f"{error:.1e}"
    return f"| {name} | {window} | {first:.1f} | {forward:.2f} | {backward:.2f} | {shown} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--heads", type=int, default=6)
    parser.add_argument("--channels", type=int, default=128, help="of a head")
    parser.add_argument("--window", type=int, default=256)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("There is no CUDA device here.", file=sys.stderr)
        return 1
    shape, window = (options.rows, options.context, options.heads, options.channels), options.window
    print("| kernel | window | first call, s | forward, ns/token | forward and backward | error |")
    print("|---|---|---|---|---|---|", flush=True)
    print(row("cuDNN", whole(SDPBackend.CUDNN_ATTENTION), shape[1], shape), flush=True)
    print(row("FlashAttention 2", whole(SDPBackend.FLASH_ATTENTION), shape[1], shape), flush=True)
    print(row("FlashAttention 2", flash(window), window, shape), flush=True)
    with contextlib.suppress(ImportError):
        print(row("harness", windowed(window), window, shape), flush=True)
    print(row("flex", flex(shape[1], shape[1]), shape[1], shape), flush=True)
    print(row("flex", flex(window, shape[1]), window, shape), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
