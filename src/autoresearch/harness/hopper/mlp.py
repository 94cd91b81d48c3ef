"""An MLP with a squared ReLU: what is done between its matrix products is done by their kernels, in registers.

It makes `torch.ops.autoresearch.squared_relu_mlp`. Beside the time of passing over memory, it saves what is kept for
the backward pass: the hidden channels before the squared ReLU follow from those after it, where their gradient is not
zero.
"""

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

TILE = (128, 256, 64)  # rows, columns and inner channels that a program multiplies at once


@torch.library.custom_op("autoresearch::squared_relu_mlp", mutates_args=(), device_types="cuda")
def squared_relu_mlp(x: Tensor, up: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
    """relu(x @ up.T) ** 2 @ down.T of x[N, C], up[hidden, C] and down[C, hidden], all bfloat16 or all float16; and what
    its backward pass needs, [N, hidden]. C must be a multiple of 8, and hidden one of 256: else ValueError."""
    if x.size(1) % 8 or len(up) % TILE[1]:
        raise ValueError(f"squared_relu_mlp takes a multiple of 8 channels and of {TILE[1]} hidden ones")
    hidden = _product(x.contiguous(), up.contiguous())
    return hidden @ down.T, hidden


@torch.library.custom_op("autoresearch::squared_relu_mlp_backward", mutates_args=(), device_types="cuda")
def squared_relu_mlp_backward(
    x: Tensor, up: Tensor, down: Tensor, hidden: Tensor, gradient: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of x and of both matrices, from that of the result."""
    before = _product(gradient.contiguous(), down.T.contiguous(), hidden)
    return before @ up, before.T @ x, gradient.T @ hidden


@squared_relu_mlp.register_fake
def _(x: Tensor, up: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(len(x), len(down)), x.new_empty(len(x), len(up))


@squared_relu_mlp_backward.register_fake
def _(x: Tensor, up: Tensor, down: Tensor, hidden: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), up.new_empty(up.shape), down.new_empty(down.shape)


def _remember(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs, output[1])


def _backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    first, second, third = squared_relu_mlp_backward(*ctx.saved_tensors, gradient)
    return first, second, third


squared_relu_mlp.register_autograd(_backward, setup_context=_remember)


def _product(x: Tensor, weight: Tensor, hidden: Tensor | None = None) -> Tensor:
    """relu(x @ weight.T) ** 2 of x[N, K] and weight[M, K]; or, if that is `hidden`, x @ weight.T being its gradient,
    the gradient of what the squared ReLU is of. [N, M]."""
    result = x.new_empty(len(x), len(weight))
    rows, columns, inner = TILE
    tiles = math.ceil(len(x) / rows) * math.ceil(len(weight) / columns)
    programs = min(tiles, torch.cuda.get_device_properties(x.device).multi_processor_count)
    stages = 3 if x.size(1) > inner else 1  # or there is no loop to fetch ahead in, but that over tiles, with no room
    describe = TensorDescriptor.from_tensor
    _squared_relu[(programs,)](
        describe(x, [rows, inner]), describe(weight, [columns, inner]), describe(result, [rows, columns]),
        result if hidden is None else hidden, len(x), len(weight), x.size(1), programs,
        rows, columns, inner, hidden is not None, hidden is None, num_warps=8, num_stages=stages,
    )  # fmt: skip
    return result


@triton.jit(do_not_specialize=["rows"])  # type: ignore[untyped-decorator]
def _squared_relu(  # type: ignore[no-untyped-def]  # noqa: ANN202
    x, weight, result, hidden, rows,  # noqa: ANN001
    columns: tl.constexpr, inner: tl.constexpr, programs: tl.constexpr, tile_rows: tl.constexpr,
    tile_columns: tl.constexpr, tile_inner: tl.constexpr, backward: tl.constexpr, flatten: tl.constexpr,
):  # fmt: skip
    """A program takes every so many-th tile, of eight rows of tiles at a time, so that they share what is cached.

    Flattened, it fetches the next tile's first channels while it stores; backwards that leaves too little room.
    """
    down, across = tl.cdiv(rows, tile_rows), tl.cdiv(columns, tile_columns)
    for tile in tl.range(tl.program_id(0), down * across, programs, flatten=flatten):
        first = tile // (8 * across) * 8
        height = min(down - first, 8)
        row = (first + tile % (8 * across) % height) * tile_rows
        column = tile % (8 * across) // height * tile_columns
        if backward:  # loaded early: it arrives while the product is made
            below, beside = row + tl.arange(0, tile_rows)[:, None], column + tl.arange(0, tile_columns)[None, :]
            square = tl.load(hidden + below.to(tl.int64) * columns + beside, mask=below < rows, other=0.0)
        total = tl.zeros([tile_rows, tile_columns], tl.float32)
        for place in range(0, inner, tile_inner):
            total = tl.dot(x.load([row, place]), weight.load([column, place]).T, total)
        if backward:
            total *= 2 * tl.sqrt(square.to(tl.float32))
        else:
            total = tl.maximum(total, 0.0)
            total *= total
        result.store([row, column], total.to(result.dtype))
