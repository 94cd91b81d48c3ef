"""What a process does with a GPU before it can do anything: a second, spent beside other work."""

import contextlib
import threading
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from autoresearch.harness.weights import make_room


def wake(device: torch.device, trained: nn.Module | None = None) -> Callable[[], object]:
    """Have the GPU's context made and its libraries loaded, in a thread of its own; returns what waits for that.

    trained: for its training, on the meta device, with room for its weights to be saved from; None: for scoring. What
    fails there fails again where it is wanted, and is told there. No random number is drawn. Where there is no CUDA
    nothing is done.
    """
    if device.type != "cuda":
        return lambda: None
    thread = threading.Thread(target=_wake, args=(device, trained), name="wake", daemon=True)
    thread.start()
    return thread.join


def _wake(device: torch.device, trained: nn.Module | None) -> None:
    """Matrix products, a loss, and attention, for which cuDNN is a library of its own. Training compiles the rest; for
    scoring, what a transformer is made of otherwise, whose kernels are loaded one by one."""
    with contextlib.suppress(Exception):
        x = torch.zeros(64, 64, device=device, dtype=torch.bfloat16)
        F.cross_entropy((x @ x).float(), torch.zeros(64, device=device, dtype=torch.long), reduction="none")
        rows = torch.zeros(1, 2, 1024, 128, device=device, dtype=torch.bfloat16, requires_grad=trained is not None)
        seen = F.scaled_dot_product_attention(rows, rows, rows, is_causal=True)
        if trained is not None:
            seen.sum().backward()  # type: ignore[no-untyped-call]
            make_room(trained)
            return
        for y in (x, x.float()):
            for work in (torch.relu, torch.square, torch.sigmoid, torch.tanh, F.silu, F.gelu):
                work(y)
            F.pad(torch.cat((y + y, y * y)), (0, 0, 1, 0)).contiguous()
            F.layer_norm(F.rms_norm(y, (64,)), (64,))
        F.embedding(torch.zeros(64, device=device, dtype=torch.long), x)
