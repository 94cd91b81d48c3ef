"""Attention in a window by cuDNN, which has windows where torch's own way to it has none.

Importing this, which takes the extra `cudnn`, makes `torch.ops.autoresearch.windowed_attention`. On Hopper it takes
three fifths of the time of the FlashAttention 2 that torch brings along.
"""

import functools
import math
import threading
from typing import Any

import cudnn
import torch
from torch import Tensor

Layout = tuple[tuple[int, ...], tuple[int, ...], torch.dtype]
Place = tuple[int, int]  # a thread (the backward pass has its own) and a device: cuDNN wants a handle for each

_TYPES = {
    torch.bfloat16: cudnn.data_type.BFLOAT16,
    torch.float16: cudnn.data_type.HALF,
    torch.float32: cudnn.data_type.FLOAT,
}


@torch.library.custom_op("autoresearch::windowed_attention", mutates_args=(), device_types="cuda")
def windowed_attention(query: Tensor, key: Tensor, value: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """Causal attention [B, T, H, D], bfloat16 or float16, in which position t sees t - window + 1 to t; and what its
    backward pass needs, float32[B, T, H, 1]."""
    seen, stats = _results(query)
    _run(False, (query, key, value), (seen, stats), window)
    return seen, stats


@torch.library.custom_op("autoresearch::windowed_attention_backward", mutates_args=(), device_types="cuda")
def windowed_attention_backward(
    query: Tensor, key: Tensor, value: Tensor, seen: Tensor, d_seen: Tensor, stats: Tensor, window: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of queries, keys and values, from that of what was seen."""
    gradients = _gradients(query, key, value)
    _run(True, (query, key, value, seen, d_seen.contiguous(), stats), gradients, window)
    return gradients


@windowed_attention.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, window: int) -> tuple[Tensor, Tensor]:
    return _results(query)


@windowed_attention_backward.register_fake
def _(
    query: Tensor, key: Tensor, value: Tensor, seen: Tensor, d_seen: Tensor, stats: Tensor, window: int
) -> tuple[Tensor, Tensor, Tensor]:
    return _gradients(query, key, value)


def _remember(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, int], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.window = inputs
    ctx.save_for_backward(*tensors, *output)


def _backward(ctx: Any, d_seen: Tensor, _: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
    query, key, value, seen, stats = ctx.saved_tensors
    return *windowed_attention_backward(query, key, value, seen, d_seen, stats, ctx.window), None


windowed_attention.register_autograd(_backward, setup_context=_remember)


def _results(query: Tensor) -> tuple[Tensor, Tensor]:
    """Room for what `windowed_attention` returns."""
    batch, length, heads, _ = query.shape
    stats = query.new_empty(batch, heads, length, 1, dtype=torch.float32).transpose(1, 2)
    return torch.empty_like(query, memory_format=torch.contiguous_format), stats


def _gradients(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Room for what `windowed_attention_backward` returns."""
    first, second, third = (torch.empty_like(x, memory_format=torch.contiguous_format) for x in (query, key, value))
    return first, second, third


def _run(backward: bool, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...], window: int) -> None:
    tensors = [tensor.transpose(1, 2) for tensor in (*inputs, *outputs)]  # [B, H, T, D], as cuDNN names them
    layouts = tuple((tuple(tensor.shape), tensor.stride(), tensor.dtype) for tensor in tensors)
    place = threading.get_ident(), tensors[0].device.index
    graph, names, size = _plan(backward, layouts, window, place)
    handle = _handle(place)
    cudnn.set_stream(handle=handle, stream=torch.cuda.current_stream(tensors[0].device).cuda_stream)
    workspace = torch.empty(max(1, size), device=tensors[0].device, dtype=torch.uint8)
    graph.execute(dict(zip(names, tensors, strict=True)), workspace, handle=handle)


@functools.cache
def _plan(backward: bool, layouts: tuple[Layout, ...], window: int, place: Place) -> tuple[Any, list[Any], int]:
    """A graph that is ready to run, its tensors, and the bytes that it works in."""
    (query, *_) = layouts
    types = {"intermediate_data_type": _TYPES[torch.float32], "compute_data_type": _TYPES[torch.float32]}
    graph = cudnn.pygraph(handle=_handle(place), io_data_type=_TYPES[query[2]], **types)
    names = ("q", "k", "v", "o", "dO", "stats") if backward else ("q", "k", "v")
    inputs = [
        graph.tensor(dim=list(shape), stride=list(stride), data_type=_TYPES[dtype], name=name)
        for name, (shape, stride, dtype) in zip(names, layouts, strict=False)
    ]
    options = dict(zip(names, inputs, strict=True)) | {
        "attn_scale": 1 / math.sqrt(query[0][-1]),
        "diagonal_alignment": cudnn.diagonal_alignment.TOP_LEFT,
        "diagonal_band_left_bound": window,
        "diagonal_band_right_bound": 0,
    }
    outputs = graph.sdpa_backward(**options) if backward else graph.sdpa(generate_stats=True, **options)
    for output, (shape, stride, dtype) in zip(outputs, layouts[len(inputs) :], strict=True):
        output.set_output(True).set_dim(list(shape)).set_stride(list(stride)).set_data_type(_TYPES[dtype])
    graph.validate()
    graph.build_operation_graph()
    graph.create_execution_plans([cudnn.heur_mode.A])
    graph.check_support()
    graph.build_plans()
    return graph, [*inputs, *outputs], graph.get_workspace_size()


@functools.cache
def _handle(place: Place) -> Any:
    return cudnn.create_handle()
