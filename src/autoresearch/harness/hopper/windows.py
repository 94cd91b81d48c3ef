"""Attention in a window, in Triton, for Hopper: half the time of the FlashAttention 2 that torch brings along.

Importing this, which takes triton, makes `torch.ops.autoresearch.windowed_attention`. It is FlashAttention (Dao 2023,
arXiv:2307.08691) for short windows: a program takes 64 positions of a head, and finds the few that they see, or are
seen by, close together. Nothing is added up by several programs, so the same inputs give the same bits.
"""

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

TILE = 64  # positions that a program takes, and looks at, at once


@torch.library.custom_op("autoresearch::windowed_attention", mutates_args=(), device_types="cuda")
def windowed_attention(query: Tensor, key: Tensor, value: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """Causal attention [B, T, H, D], bfloat16 or float16, in which position t sees t - window + 1 to t; and what its
    backward pass needs, float32[B, H, T]. T must be a multiple of 64, and D a power of 2 from 16 to 128: else
    ValueError."""
    if query.size(1) % TILE or query.size(3) not in (16, 32, 64, 128):
        raise ValueError(f"windowed_attention takes a multiple of {TILE} positions and 16, 32, 64 or 128 channels")
    query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
    seen, normalizer = _results(query)
    _launch(_forward, (query, key, value, seen), (normalizer,), window, stages=1)
    return seen, normalizer


@torch.library.custom_op("autoresearch::windowed_attention_backward", mutates_args=(), device_types="cuda")
def windowed_attention_backward(
    query: Tensor, key: Tensor, value: Tensor, seen: Tensor, d_seen: Tensor, normalizer: Tensor, window: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of queries, keys and values, from that of what was seen."""
    query, key, value, d_seen = query.contiguous(), key.contiguous(), value.contiguous(), d_seen.contiguous()
    d_query, d_key, d_value = _gradients(query, key, value)
    statistics = (normalizer, torch.empty_like(normalizer))
    _launch(_backward_of_query, (query, key, value, seen, d_seen, d_query), statistics, window, stages=1)
    _launch(_backward_of_key, (query, key, value, d_seen, d_key, d_value), statistics, window, stages=2)
    return d_query, d_key, d_value


@windowed_attention.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, window: int) -> tuple[Tensor, Tensor]:
    return _results(query)


@windowed_attention_backward.register_fake
def _(
    query: Tensor, key: Tensor, value: Tensor, seen: Tensor, d_seen: Tensor, normalizer: Tensor, window: int
) -> tuple[Tensor, Tensor, Tensor]:
    return _gradients(query, key, value)


def _remember(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, int], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.window = inputs
    ctx.save_for_backward(*tensors, *output)


def _backward(ctx: Any, d_seen: Tensor, _: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
    query, key, value, seen, normalizer = ctx.saved_tensors
    return *windowed_attention_backward(query, key, value, seen, d_seen, normalizer, ctx.window), None


windowed_attention.register_autograd(_backward, setup_context=_remember)


def _results(query: Tensor) -> tuple[Tensor, Tensor]:
    """Room for what `windowed_attention` returns."""
    batch, length, heads, _ = query.shape
    normalizer = query.new_empty(batch, heads, length, dtype=torch.float32)
    return torch.empty_like(query, memory_format=torch.contiguous_format), normalizer


def _gradients(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Room for what `windowed_attention_backward` returns."""
    first, second, third = (torch.empty_like(x, memory_format=torch.contiguous_format) for x in (query, key, value))
    return first, second, third


def _launch(kernel: Any, tensors: tuple[Tensor, ...], statistics: tuple[Tensor, ...], window: int, stages: int) -> None:
    """A program for each tile and head. tensors: [B, T, H, D]; statistics: float32[B, H, T]."""
    batch, length, heads, channels = tensors[0].shape
    tiles = [TensorDescriptor.from_tensor(x.view(batch * length, -1), [TILE, channels]) for x in tensors]
    sharpness = 1 / (math.sqrt(channels) * math.log(2))  # since powers are of 2
    sizes = (length, sharpness, heads, channels, window, TILE)
    kernel[(batch * heads * length // TILE,)](*tiles, *statistics, *sizes, num_warps=4, num_stages=stages)


@triton.jit  # type: ignore[untyped-decorator]
def _place(length, heads: tl.constexpr, channels: tl.constexpr, tile: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Of a program: the position at which its tile begins; the row of tensors at which that row of tokens begins, and
    the column at which its head does; and where statistics of both begin."""
    tiles = length // tile
    head = tl.program_id(0) // tiles
    start, row, column = tl.program_id(0) % tiles * tile, head // heads * length, head % heads * channels
    return start, row, column, tl.cast(head, tl.int64) * length


@triton.jit  # type: ignore[untyped-decorator]
def _sees(query, key, window: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Whether positions of queries see those of keys: what lies ahead is, without a sign, very far behind."""
    return (query - key).to(tl.uint32, bitcast=True) < window


@triton.jit  # type: ignore[untyped-decorator]
def _forward(  # type: ignore[no-untyped-def]  # noqa: ANN202
    query, key, value, seen, normalizer, length, sharpness,  # noqa: ANN001
    heads: tl.constexpr, channels: tl.constexpr, window: tl.constexpr, tile: tl.constexpr,
):  # fmt: skip
    """What a tile of queries sees."""
    start, row, column, place = _place(length, heads, channels, tile)
    inside = tl.arange(0, tile)
    q = query.load([row + start, column])
    top = tl.full([tile], -1e30, tl.float32)  # and so is what is not seen: what a query adds up before its first key is
    total = tl.zeros([tile], tl.float32)  # multiplied by 0 then
    result = tl.zeros([tile, channels], tl.float32)
    for there in range(tl.maximum(start - window + 1, 0) // tile * tile, start + tile, tile):
        score = tl.dot(q, key.load([row + there, column]).T) * sharpness
        score = tl.where(_sees((start + inside)[:, None], (there + inside)[None, :], window), score, -1e30)
        higher = tl.maximum(top, tl.max(score, 1))
        odds = tl.exp2(score - higher[:, None])
        shrink = tl.exp2(top - higher)
        total = total * shrink + tl.sum(odds, 1)
        result = tl.dot(odds.to(value.dtype), value.load([row + there, column]), result * shrink[:, None])
        top = higher
    seen.store([row + start, column], (result / total[:, None]).to(seen.dtype))
    tl.store(normalizer + place + start + inside, top + tl.log2(total))


@triton.jit  # type: ignore[untyped-decorator]
def _backward_of_query(  # type: ignore[no-untyped-def]  # noqa: ANN202
    query, key, value, seen, d_seen, d_query, normalizer, along, length, sharpness,  # noqa: ANN001
    heads: tl.constexpr, channels: tl.constexpr, window: tl.constexpr, tile: tl.constexpr,
):  # fmt: skip
    """The gradient of a tile of queries; and for `_backward_of_key`, how far that of what they saw lies along it."""
    start, row, column, place = _place(length, heads, channels, tile)
    inside = tl.arange(0, tile)
    gradient = d_seen.load([row + start, column])
    part = tl.sum(gradient.to(tl.float32) * seen.load([row + start, column]).to(tl.float32), 1)
    tl.store(along + place + start + inside, part)
    norm = tl.load(normalizer + place + start + inside)
    q = query.load([row + start, column])
    result = tl.zeros([tile, channels], tl.float32)
    for there in range(tl.maximum(start - window + 1, 0) // tile * tile, start + tile, tile):
        k = key.load([row + there, column])
        odds = tl.exp2(tl.dot(q, k.T) * sharpness - norm[:, None])
        odds = tl.where(_sees((start + inside)[:, None], (there + inside)[None, :], window), odds, 0.0)
        d_odds = tl.dot(gradient, value.load([row + there, column]).T)
        result = tl.dot((odds * (d_odds - part[:, None])).to(key.dtype), k, result)
    d_query.store([row + start, column], (result * (sharpness * 0.6931471805599453)).to(d_query.dtype))


@triton.jit  # type: ignore[untyped-decorator]
def _backward_of_key(  # type: ignore[no-untyped-def]  # noqa: ANN202
    query, key, value, d_seen, d_key, d_value, normalizer, along, length, sharpness,  # noqa: ANN001
    heads: tl.constexpr, channels: tl.constexpr, window: tl.constexpr, tile: tl.constexpr,
):  # fmt: skip
    """The gradients of a tile of keys and values, from all queries that see them."""
    start, row, column, place = _place(length, heads, channels, tile)
    inside = tl.arange(0, tile)
    k, v = key.load([row + start, column]), value.load([row + start, column])
    of_key = tl.zeros([tile, channels], tl.float32)
    of_value = tl.zeros([tile, channels], tl.float32)
    for there in range(start, tl.minimum(start + tile + window - 1, length), tile):
        q, gradient = query.load([row + there, column]), d_seen.load([row + there, column])
        norm, part = tl.load(normalizer + place + there + inside), tl.load(along + place + there + inside)
        odds = tl.exp2(tl.dot(k, q.T) * sharpness - norm[None, :])
        odds = tl.where(_sees((there + inside)[None, :], (start + inside)[:, None], window), odds, 0.0)
        of_value = tl.dot(odds.to(d_seen.dtype), gradient, of_value)
        d_odds = tl.dot(v, gradient.T)
        of_key = tl.dot((odds * (d_odds - part[None, :])).to(query.dtype), q, of_key)
    d_key.store([row + start, column], (of_key * (sharpness * 0.6931471805599453)).to(d_key.dtype))
    d_value.store([row + start, column], of_value.to(d_value.dtype))
