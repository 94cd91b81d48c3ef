"""The loss of every target, from logits: on CUDA in one pass over them, where torch takes several."""

import torch
import torch.nn.functional as F
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:  # it comes with torch where there is CUDA
    triton = None

_PART = 2**25  # logits that torch turns into losses in one go: in float32 all of them together are large
_BLOCK = 1024  # logits that a program holds at once


def losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy in nats, float32[N]. logits: [B, T, V] with B * T = N, floating-point; targets: int64[B, T], each
    below V. Not finite where the logits are not, but for a token that is given no chance and is not the target."""
    if triton and logits.is_cuda and logits.dtype != torch.float64:
        flat = logits.reshape(-1, logits.size(-1)).contiguous()
        found = torch.empty(len(flat), device=flat.device)
        _cross_entropy[(len(flat),)](flat, targets.contiguous(), found, flat.size(1), _BLOCK, num_warps=2)
        return found
    rows = max(1, _PART // (logits.size(1) * logits.size(2)))
    parts = [
        F.cross_entropy(part.flatten(0, 1).float(), target.flatten(), reduction="none")
        for part, target in zip(torch.split(logits, rows), torch.split(targets, rows), strict=True)
    ]
    return torch.cat(parts)


if triton:

    @triton.jit  # type: ignore[untyped-decorator]
    def _cross_entropy(logits, targets, losses, size, block: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        """A program takes one place: the sum of exponentials grows along its logits, scaled by the largest so far
        (Milakov and Gimelshein 2018, arXiv:1805.02867)."""
        place = tl.program_id(0).to(tl.int64)
        row = logits + place * size
        top, total = tl.full((block,), float("-inf"), tl.float32), tl.zeros((block,), tl.float32)
        for start in range(0, size, block):
            column = start + tl.arange(0, block)
            x = tl.load(row + column, mask=column < size, other=float("-inf")).to(tl.float32)
            higher = tl.where(x > top, x, top)
            scale = tl.where(top == float("-inf"), 0.0, tl.exp(top - higher))
            total = total * scale + tl.where(x == float("-inf"), 0.0, tl.exp(x - higher))
            top = higher
        highest = tl.max(top, 0)
        total = tl.sum(tl.where(top == float("-inf"), total, total * tl.exp(top - highest)), 0)
        target = tl.load(row + tl.load(targets + place)).to(tl.float32)
        tl.store(losses + place, tl.log(total) + (highest - target))  # never below zero: one term of total is 1
