"""The training core: a small GPT, its optimizer and its training loop. This is the file that research edits.

It needs nothing but torch, with the triton that comes with it where there is CUDA, and reads from top to bottom:

    knobs       constants, one a line: `NAME = value  # [low, high] log; what it is`, the bracket being worth trying
    model       `build_model(device)`, and then `model(tokens[B, T]) -> logits[B, T, V]`
    optimizer   Muon for the matrices of the blocks, AdamW for everything else
    training    `main(run)`: warm up, start the clock, train until the budget is spent, save

The harness imports it by path, calls `main(run)`, and scores the saved weights elsewhere, in a fresh `build_model`. So
what a prediction needs lies in parameters and persistent buffers, or follows from the constants.

Shapes: B rows, T tokens in a row, V entries of the vocabulary, C channels of the residual stream (WIDTH), H heads,
D channels of a head, so that C = H * D. Layers are counted from 0.
"""

import functools
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

try:
    import triton
    import triton.language as tl
except ImportError:  # it comes with torch where there is CUDA
    triton = None

# ---------------------------------------------------------------------------------------------------- knobs

# Size. DEPTH alone scales the model: width, heads, windows and learning rates follow.
CONTEXT = 2048  # tokens in a row, in training and in scoring
VOCAB_SIZE = 8192  # entries of the vocabulary; only what the program allows
DEPTH = 9  # [2, 12]; number of blocks
ASPECT = 64  # [32, 128]; channels per block of depth, before rounding up to whole heads
HEAD_DIM = 128  # {32, 64, 128}; channels of an attention head
MLP_RATIO = 4  # [2, 6]; hidden channels of the MLP per channel of the stream

# Attention.
WINDOW_PATTERN = "SSSSL"  # {"L", "SL", "SSL", "SSSL", "SSSSL", "S"}; short or long by layer; the last is always long
WINDOW_DIVISOR = 8  # {2, 4, 8, 16}; a short window is CONTEXT divided by this
ROPE_BASE = 200000.0  # [10000.0, 1000000.0] log; of the rotary wavelengths, which grow to 2 pi times this many tokens
LATE_SHARE = 0.5  # {0.0, 0.25, 0.5}; share of a key's channels, the slowest, that are those of the token before
GATE_CHANNELS = 32  # channels of the stream that a gate is read from
NGRAM_ROWS = 0  # rows of each table of token pairs per entry of the vocabulary; 0: none. They memorize repeated text
SOFTCAP = 15.0  # [8.0, 30.0] log; logits are squashed into plus or minus this

# Initialization.
INIT_SCALE = 0.68  # [0.3, 1.2] log; of matrices: standard deviation times sqrt(inputs)
UNEMBEDDING_SCALE = 0.005  # the same of the output matrix: so small that the first loss is ln(V)
X0_LAMBDA = 0.05  # [0.0, 0.3]; how much of the embedding each block adds to the stream at first

# Batch.
BATCH_ROWS = 128  # {16, 32, 64, 128, 256}; rows in an optimizer step
MICRO_ROWS = 64  # {16, 32, 64, 128}; rows in one forward and backward pass

# Step sizes. The first three are for C = 768 and are scaled by (C / 768) ** -0.5; none is scaled with the batch.
EMBEDDING_LR = 0.9  # [0.1, 3.0] log; AdamW, token embedding
VALUE_LR = 0.9  # [0.1, 3.0] log; AdamW, value embeddings
UNEMBEDDING_LR = 0.005  # [0.001, 0.05] log; AdamW, output matrix
SCALAR_LR = 0.5  # [0.05, 2.0] log; AdamW, x0 lambdas; a hundredth of it for residual lambdas, a tenth for other scalars
GATE_LR = 0.02  # [0.002, 0.1] log; AdamW, matrices that open gates
MATRIX_LR = 0.04  # [0.01, 0.16] log; Muon, matrices of the blocks

# Optimizer.
ADAM_BETA1 = 0.8  # [0.6, 0.95]; average of the gradient
ADAM_BETA2 = 0.95  # [0.9, 0.99]; average of its square
MUON_MOMENTUM = 0.95  # [0.9, 0.98]; after a warm-up from 0.85
MOMENTUM_WARMUP = 0.15  # [0.0, 0.5]; share of the run of that warm-up
MUON_BETA2 = 0.95  # [0.9, 0.99]; average of the variance of a neuron's update
POLAR_STEPS = 5  # {3, 4, 5}; iterations of the orthogonalization
WEIGHT_DECAY = 0.2  # [0.02, 0.8] log; matrices, cautious, falling to zero over the run
EMBEDDING_DECAY = 0.001  # [0.0, 0.01]; token embedding
VALUE_DECAY = 0.003  # [0.0, 0.03]; value embeddings
UNEMBEDDING_DECAY = 0.01  # [0.0, 0.1]; output matrix

# Schedule. There is no warm-up of the step size: every one tried has hurt.
WARMDOWN = 0.75  # [0.3, 1.0]; share of the run over which the step size falls
FINAL_LR = 0.05  # [0.0, 0.2]; share of the step size left at the end

HEADS = math.ceil(DEPTH * ASPECT / HEAD_DIM)
WIDTH = HEADS * HEAD_DIM
LATE_PAIRS = int(LATE_SHARE * HEAD_DIM / 2)  # of channels that are rotated together
PASSES = math.ceil(BATCH_ROWS / MICRO_ROWS)  # forward and backward passes in an optimizer step


# ---------------------------------------------------------------------------------------------------- parts


@functools.cache
def fused(function: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
    """Compiled on CUDA; as it is elsewhere, where compiling costs more time than it saves."""
    return torch.compile(function, dynamic=False) if device.type == "cuda" else function


def for_hopper(name: str, x: Tensor, divides: bool) -> Callable[..., tuple[Tensor, Tensor]] | None:
    """The harness's faster operator of that name, if it has one, sizes suit it, and x is of 16 bits on a Hopper GPU."""
    suits = divides and x.is_cuda and x.element_size() == 2 and torch.cuda.get_device_capability()[0] == 9
    return getattr(torch.ops.autoresearch, name, None) if suits else None


def norm(x: Tensor) -> Tensor:
    """RMSNorm over the channels, without weights."""
    return F.rms_norm(x, (x.size(-1),), eps=1e-6)


class Linear(nn.Linear):
    """A matrix without bias: kept in float32, applied in the dtype of the activations, which the embedding begins."""

    def __init__(self, inputs: int, outputs: int, scale: float = INIT_SCALE) -> None:
        super().__init__(inputs, outputs, bias=False)
        bound = scale * math.sqrt(3 / inputs)  # of a uniform distribution with deviation scale / sqrt(inputs)
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype))


def rotary_table() -> Tensor:
    """Cosines and sines [2, CONTEXT, D / 2] of position times frequency, on the CPU."""
    channels = torch.arange(0, HEAD_DIM, 2, dtype=torch.float64, device="cpu")
    positions = torch.arange(CONTEXT, dtype=torch.float64, device="cpu")
    angles = torch.outer(positions, ROPE_BASE ** (-channels / HEAD_DIM))
    return torch.stack((angles.cos(), angles.sin())).float()


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Rotary position embedding (Su et al. 2021) of x[B, T, H, D], in float32: channel i turns against i + D / 2."""
    cos, sin = table[:, : x.size(1)].unsqueeze(2)
    left, right = x.float().chunk(2, dim=-1)
    return torch.cat((left * cos - right * sin, left * sin + right * cos), dim=-1)


def rotated_norm(x: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
    """Queries and keys [B, T, H, D] out of both together, [B, T, 2H, D]: rotated by position, normalized over D.

    LATE_SHARE of a key's channels, the slowest, are those of the token before, and zero in the first: so one layer
    finds what followed the last time, where it takes two otherwise (Olsson et al. 2022, arXiv:2209.11895), which form
    late. The idea is of the modded-nanogpt speedruns.
    """
    if triton and x.is_cuda:
        pair: tuple[Tensor, Tensor] = RotatedNorm.apply(x, table)  # type: ignore[no-untyped-call]
        return pair
    query, key = norm(rotate(x, table)).to(x.dtype).chunk(2, dim=2)
    late = torch.arange(HEAD_DIM, device=x.device) % (HEAD_DIM // 2) >= HEAD_DIM // 2 - LATE_PAIRS
    return query, torch.where(late, F.pad(key[:, :-1], (0, 0, 0, 0, 1, 0)), key)


class RotatedNorm(torch.autograd.Function):
    """`rotated_norm` on CUDA: memory is passed over once each way, where compiled code takes three times as long."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
        query, key = (x.new_empty(*x.shape[:2], HEADS, HEAD_DIM) for _ in range(2))
        ctx.sizes = (x.numel() // HEAD_DIM, x.size(1), CONTEXT, HEADS, HEAD_DIM // 2, LATE_PAIRS, KERNEL_ROWS)
        ctx.grid = (math.ceil(ctx.sizes[0] / KERNEL_ROWS),)
        rotated_norm_forward[ctx.grid](x, table, query, key, *ctx.sizes)
        ctx.save_for_backward(x, table)
        return query, key

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """From the gradients of queries and keys to that of x."""
        x, table = ctx.saved_tensors
        query, key = (gradient.contiguous() for gradient in gradients)
        result = torch.empty_like(x)
        rotated_norm_backward[ctx.grid](x, table, query, key, result, *ctx.sizes)
        return result, None


class CrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of logits x @ weight.T, squashed, on CUDA; the gradient is made with it, in their place."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        """x[N, C], weight[V, C] and targets[N], contiguous and each within V: none is ignored -> float32[]."""
        weight = weight.to(x.dtype)
        logits = x @ weight.T
        losses = torch.empty(len(x), device=x.device)
        size, block = len(weight), triton.next_power_of_2(len(weight))
        cross_entropy[(len(x),)](logits, targets, losses, SOFTCAP, size, block, num_warps=8, maxnreg=80)
        ctx.save_for_backward(x, weight, logits)
        return losses.mean()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, of_logits = ctx.saved_tensors
        scale = gradients[0] / len(x)
        return of_logits @ (weight * scale), (of_logits.T @ x).float().mul_(scale), None


KERNEL_ROWS = 32  # heads of a token that one program rotates; channels lie side by side in halves

if triton:

    @triton.jit  # type: ignore[untyped-decorator]
    def places(rows, length, heads: tl.constexpr, half: tl.constexpr, late: tl.constexpr, block: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
        """Of a program's heads of tokens, query and key alike: where left channels lie in x, and in query or key, what
        is inside, a query, a key; what falls off a key's end, and is the zero at its beginning; and the angles."""
        row = tl.program_id(0) * block + tl.arange(0, block)[:, None]
        channel = tl.arange(0, half)[None, :]
        token, head = row // (2 * heads), row % (2 * heads)
        position = token % length
        inside = row < rows
        is_key = head >= heads
        moved = is_key & (channel >= half - late)
        last = position == length - 1
        token = token.to(tl.int64) + tl.where(moved, tl.where(last, 1 - length, 1), 0)
        here = row.to(tl.int64) * (2 * half) + channel
        there = (token * heads + head % heads) * (2 * half) + channel
        return here, there, inside, inside & (is_key == 0), inside & is_key, moved & last, position * half + channel

    @triton.jit  # type: ignore[untyped-decorator]
    def rotated_norm_forward(  # type: ignore[no-untyped-def]  # noqa: ANN201
        x, table, query, key, rows, length,  # noqa: ANN001
        context: tl.constexpr, heads: tl.constexpr, half: tl.constexpr, late: tl.constexpr, block: tl.constexpr,
    ):  # fmt: skip
        """A program turns and normalizes a block."""
        here, there, inside, of_query, of_key, off, angle = places(rows, length, heads, half, late, block)
        left = tl.load(x + here, mask=inside, other=0.0).to(tl.float32)
        right = tl.load(x + here + half, mask=inside, other=0.0).to(tl.float32)
        cos, sin = tl.load(table + angle), tl.load(table + angle + context * half)
        scale = tl.rsqrt((tl.sum(left * left, 1) + tl.sum(right * right, 1)) / (2 * half) + 1e-6)[:, None]
        first = tl.where(off, 0.0, (left * cos - right * sin) * scale)
        second = tl.where(off, 0.0, (left * sin + right * cos) * scale)
        tl.store(query + there, first, mask=of_query)
        tl.store(query + there + half, second, mask=of_query)
        tl.store(key + there, first, mask=of_key)
        tl.store(key + there + half, second, mask=of_key)

    @triton.jit  # type: ignore[untyped-decorator]
    def rotated_norm_backward(  # type: ignore[no-untyped-def]  # noqa: ANN201
        x, table, query, key, result, rows, length,  # noqa: ANN001
        context: tl.constexpr, heads: tl.constexpr, half: tl.constexpr, late: tl.constexpr, block: tl.constexpr,
    ):  # fmt: skip
        """The same backwards: turned back, and without the part along x, which the norm takes out."""
        here, there, inside, of_query, of_key, off, angle = places(rows, length, heads, half, late, block)
        left = tl.load(x + here, mask=inside, other=0.0).to(tl.float32)
        right = tl.load(x + here + half, mask=inside, other=0.0).to(tl.float32)
        of_key = of_key & (off == 0)
        first = tl.load(query + there, mask=of_query, other=0.0) + tl.load(key + there, mask=of_key, other=0.0)
        there += half
        second = tl.load(query + there, mask=of_query, other=0.0) + tl.load(key + there, mask=of_key, other=0.0)
        cos, sin = tl.load(table + angle), tl.load(table + angle + context * half)
        turned_left = first.to(tl.float32) * cos + second.to(tl.float32) * sin
        turned_right = second.to(tl.float32) * cos - first.to(tl.float32) * sin
        mean_square = (tl.sum(left * left, 1) + tl.sum(right * right, 1)) / (2 * half) + 1e-6
        along = (tl.sum(turned_left * left, 1) + tl.sum(turned_right * right, 1)) / (2 * half) / mean_square
        scale = tl.rsqrt(mean_square)[:, None]
        tl.store(result + here, (turned_left - left * along[:, None]) * scale, mask=inside)
        tl.store(result + here + half, (turned_right - right * along[:, None]) * scale, mask=inside)

    @triton.jit  # type: ignore[untyped-decorator]
    def cross_entropy(logits, targets, losses, cap, size: tl.constexpr, block: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
        """A program takes one token: its loss, and its logits' gradient in their place."""
        row, column = tl.program_id(0).to(tl.int64), tl.arange(0, block)
        place, inside = logits + row * size + column, column < size
        # tanh(x) - 1 is -2 / (1 + exp(2 x)): none is above 0, so that the largest need not be found before the odds are
        power = tl.exp2(tl.load(place, mask=inside, other=0.0).to(tl.float32) * (2.8853900817779268 / cap))
        root = tl.rsqrt(1 + power)
        below = -2 * root * root
        odds = tl.where(inside, tl.exp2(below * (1.4426950408889634 * cap)), 0.0)
        total = tl.sum(odds, 0)
        hit = column == tl.load(targets + row)
        tl.store(losses + row, tl.log(total) - tl.sum(tl.where(hit, below, 0.0), 0) * cap)
        gradient = (tl.where(hit, 1.0, 0.0) - odds * (1 / total)) * (below * (below + 2))
        tl.store(place, gradient.to(logits.dtype.element_ty), mask=inside)


# ---------------------------------------------------------------------------------------------------- attention


def window_of(layer: int) -> int:
    """How many tokens a layer sees back, the query's own included."""
    long = layer == DEPTH - 1 or WINDOW_PATTERN[layer % len(WINDOW_PATTERN)] == "L"
    return CONTEXT if long else max(1, CONTEXT // WINDOW_DIVISOR)


@functools.cache
def window_mask(length: int, window: int, device: torch.device) -> Tensor:
    """Which keys a query sees, bool [T, T]."""
    with torch.inference_mode(False):  # one made while scoring must do for training, too
        return torch.ones(length, length, dtype=torch.bool, device=device).tril().triu(1 - window)


def attend(query: Tensor, key: Tensor, value: Tensor, window: int) -> Tensor:
    """Causal attention [B, T, H, D] in which position t sees t - window + 1 to t. The one place that picks a kernel.

    On CUDA, cuDNN's for whole rows, which torch picks where it is best; for windows the harness's, or FlashAttention 2.
    None takes other scores than query times key / sqrt(D): what scales them can scale the query.
    """
    length, channels = query.shape[1], query.shape[3]
    if window < length and query.is_cuda:
        if operator := for_hopper("windowed_attention", query, length % 64 == 0 and channels in (16, 32, 64, 128)):
            return operator(query, key, value, window)[0]
        given = (query, key, value, None, None, length, length, 0.0, False, False)
        sides = {"window_size_left": window - 1, "window_size_right": 0}
        seen: Tensor = torch.ops.aten._flash_attention_forward(*given, **sides)[0]
        return seen
    mask = None if window >= length else window_mask(length, window, query.device)
    query, key, value = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
    return F.scaled_dot_product_attention(query, key, value, mask, is_causal=mask is None).transpose(1, 2)


def pairs_of(tokens: Tensor) -> Tensor:
    """Rows of a table of pairs, int64 [B, T]: a hash of each token and the one before it, BOS before the first."""
    before = torch.cat((tokens[:, :1], tokens[:, :-1]), dim=1)
    return ((before * VOCAB_SIZE + tokens) * 2654435761 >> 16) % (NGRAM_ROWS * VOCAB_SIZE)


class Attention(nn.Module):
    """Causal self-attention with rotary positions, normalized queries and keys, and a window by layer.

    Every other layer, the last included, adds to its values an embedding of the token at hand (Zhou et al. 2024,
    arXiv:2410.17897): a table of C more channels for each entry of the vocabulary, almost free in time; and one of the
    pair it ends, if there are tables for that. Gates for each head, read from a few channels of the stream, open
    these, and what the head has seen, from 0 to 2; they begin at 1.
    """

    def __init__(self, layer: int) -> None:
        super().__init__()
        self.window = window_of(layer)
        self.query = Linear(WIDTH, WIDTH)
        self.key = Linear(WIDTH, WIDTH)
        self.value = Linear(WIDTH, WIDTH)
        self.out = Linear(WIDTH, WIDTH, scale=0.0)
        self.gate = Linear(GATE_CHANNELS, HEADS, scale=0.0)
        self.tables = nn.ModuleList()
        if (DEPTH - 1 - layer) % 2 == 0:
            for count in [VOCAB_SIZE, NGRAM_ROWS * VOCAB_SIZE][: 2 if NGRAM_ROWS else 1]:
                table = nn.Embedding(count, WIDTH)
                nn.init.normal_(table.weight, std=INIT_SCALE / math.sqrt(WIDTH))
                self.tables.append(table)
        self.table_gates = nn.ModuleList(Linear(GATE_CHANNELS, HEADS, scale=0.0) for _ in self.tables)

    def before(self, x: Tensor, ids: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """Queries and keys together [B, T, 2H, D], values [B, T, H, D], and how far the heads are open [B, T, H, 1]."""
        both = F.linear(x, torch.cat((self.query.weight, self.key.weight)).to(x.dtype))
        value: Tensor = self.value(x).view(*x.shape[:2], HEADS, HEAD_DIM)
        for table, gate, rows in zip(self.tables, self.table_gates, ids, strict=False):
            value = value + opened(gate, x) * table(rows).to(x.dtype).view(value.shape)
        return both.view(*x.shape[:2], 2 * HEADS, HEAD_DIM), value, opened(self.gate, x)


def opened(gate: nn.Module, x: Tensor) -> Tensor:
    """How far a gate is open at each token and head of x[B, T, C]: [B, T, H, 1], 0 to 2."""
    return 2 * torch.sigmoid(gate(x[..., :GATE_CHANNELS])).unsqueeze(-1)


class MLP(nn.Module):
    """Two matrices around a squared ReLU (So et al. 2021, arXiv:2109.08668). Its operator saves 3 % of a step."""

    def __init__(self) -> None:
        super().__init__()
        self.up = Linear(WIDTH, MLP_RATIO * WIDTH)
        self.down = Linear(MLP_RATIO * WIDTH, WIDTH, scale=0.0)

    def forward(self, x: Tensor) -> Tensor:
        if operator := for_hopper("squared_relu_mlp", x, MLP_RATIO * WIDTH % 256 == 0):  # goes if what follows changes
            return operator(x.flatten(0, -2), *(m.weight.to(x.dtype) for m in (self.up, self.down)))[0].view(x.shape)
        result: Tensor = self.down(F.relu(self.up(x)).square())
        return result


class Block(nn.Module):
    """Attention, then MLP, each added to the stream and each fed from its normalized state.

    It begins by mixing the embedding x0 into the stream, and as the identity but for that. What lies before and after
    the attention kernel is compiled, once for all layers of a kind: all of the model takes several times as long.
    """

    def __init__(self, layer: int) -> None:
        super().__init__()
        self.attention = Attention(layer)
        self.mlp = MLP()
        self.residual_lambda = nn.Parameter(torch.ones(()))
        self.x0_lambda = nn.Parameter(torch.full((), X0_LAMBDA))

    def forward(self, x: Tensor, x0: Tensor, ids: tuple[Tensor, ...], rotary: Tensor) -> Tensor:
        x, both, value, gate = fused(Block.before, x.device)(self, x, x0, ids)
        seen = attend(*rotated_norm(both, rotary), value, self.attention.window)
        result: Tensor = fused(Block.after, x.device)(self, x, seen, gate)
        return result

    def before(self, x: Tensor, x0: Tensor, ids: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        x = self.residual_lambda.to(x.dtype) * x + self.x0_lambda.to(x.dtype) * x0
        return x, *self.attention.before(norm(x), ids)

    def after(self, x: Tensor, seen: Tensor, gate: Tensor) -> Tensor:
        x = x + self.attention.out((seen * gate).flatten(2))
        result: Tensor = x + self.mlp(norm(x))
        return result


# ---------------------------------------------------------------------------------------------------- model


class GPT(nn.Module):
    """A decoder-only transformer: embedding, blocks, and an output matrix that is fed from the normalized stream.

    Each token's embedding takes in a learned share of the one before it, by a gate. A learned share of the stream at
    half depth is taken out again at the end.
    """

    rotary: Tensor

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype  # of activations
        self.embedding = nn.Embedding(VOCAB_SIZE, WIDTH)
        self.smear = Linear(GATE_CHANNELS, 1, scale=0.0)
        self.smear_lambda = nn.Parameter(torch.zeros(()))
        self.blocks = nn.ModuleList(Block(layer) for layer in range(DEPTH))
        self.backout_lambda = nn.Parameter(torch.full((), 0.5))
        self.unembedding = Linear(WIDTH, VOCAB_SIZE, scale=UNEMBEDDING_SCALE)
        self.register_buffer("rotary", rotary_table().to(self.smear_lambda.device), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens[B, T] (int64, T at most CONTEXT) -> logits[B, T, V] (float32)."""
        logits: Tensor = fused(GPT.logits, tokens.device)(self, *self.stream(tokens))
        return logits

    def loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy in nats per token."""
        targets = targets.flatten().contiguous()
        if triton and tokens.is_cuda:
            x = fused(GPT.readout, tokens.device)(self, *self.stream(tokens)).flatten(0, 1)
            loss: Tensor = CrossEntropy.apply(x, self.unembedding.weight, targets)  # type: ignore[no-untyped-call]
            return loss
        return F.cross_entropy(self(tokens).flatten(0, 1), targets)

    def stream(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """The stream at the end and at half depth, [B, T, C] each."""
        x, x0 = fused(GPT.embed, tokens.device)(self, tokens)
        ids = (tokens, pairs_of(tokens)) if NGRAM_ROWS else (tokens,)
        for layer, block in enumerate(self.blocks):
            x = block(x, x0, ids, self.rotary)
            if layer == (DEPTH - 1) // 2:
                middle = x
        return x, middle

    def embed(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """[B, T, C], twice: given one tensor as the stream and as x0, the first block would be compiled apart."""
        x = norm(self.embedding(tokens)).to(self.dtype)
        share = self.smear_lambda.to(x.dtype) * torch.sigmoid(self.smear(x[..., :GATE_CHANNELS]))
        x = x + share * F.pad(x[:, :-1], (0, 0, 1, 0))
        return x, x.clone()

    def readout(self, x: Tensor, middle: Tensor) -> Tensor:
        return norm(x - self.backout_lambda.to(x.dtype) * middle)

    def logits(self, x: Tensor, middle: Tensor) -> Tensor:
        """From the stream, [B, T, V]. Training on CUDA has a way of its own, CrossEntropy: change both."""
        logits: Tensor = self.unembedding(self.readout(x, middle)).float()
        return SOFTCAP * torch.tanh(logits / SOFTCAP)

    def active_parameters(self) -> int:
        """What one token's forward pass uses: all but the rows of tables that are another token's."""
        tables = [module.weight for module in self.modules() if isinstance(module, nn.Embedding)]
        return sum(p.numel() for p in self.parameters()) - sum(t.numel() - t.size(1) for t in tables)

    def flops_per_token(self) -> int:
        """Forward and backward, at full context: 6 for each weight of a matrix, 12 for each channel and key seen.

        The convention of PaLM (arXiv:2204.02311, appendix B), with windows: no discount for the causal triangle.
        """
        matrices = sum(module.weight.numel() for module in self.modules() if isinstance(module, Linear))
        return 6 * matrices + sum(12 * WIDTH * window_of(layer) for layer in range(DEPTH))


def build_model(device: torch.device) -> GPT:
    """The model with its first weights, from the constants and torch's seed alone. Works on the meta device.

    On CUDA activations are bfloat16, elsewhere float32; weights are float32 everywhere.
    """
    with torch.device(device):
        return GPT(torch.bfloat16 if device.type == "cuda" else torch.float32)


# ---------------------------------------------------------------------------------------------------- optimizer

MOMENTUM_START = 0.85  # of Muon, before its warm-up
ADAM_EPSILON = 1e-10  # small, since the gradient of a rare token's embedding is

# Polar Express (Amsel et al. 2025, arXiv:2505.16932): odd quintics, each the best for what the one before leaves, in
# the sense of the largest deviation of a singular value from 1. These are for five steps with a margin of 2 % for
# bfloat16: after them all singular values down to 0.001 of the norm lie within [0.84, 1.15].
POLAR_EXPRESS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)


def orthogonalize(matrices: Tensor) -> Tensor:
    """U V^T of each matrix U S V^T in [K, M, N], roughly: what Muon (Jordan et al. 2024) makes of a gradient."""
    norms = matrices.norm(dim=(-2, -1), keepdim=True)
    tall = matrices.size(-2) > matrices.size(-1)
    x: Tensor = (matrices.mT if tall else matrices) / (1.02 * norms + 1e-6)
    x = x.bfloat16() if x.is_cuda else x
    for a, b, c in POLAR_EXPRESS[:POLAR_STEPS]:
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(matrices.dtype)


def equalize(update: Tensor, variance: Tensor) -> Tensor:
    """NorMuon (Li et al. 2025, arXiv:2510.05491): neurons take steps of like size, and the norm of all is kept.

    `variance` is a moving average of each neuron's mean square, [K, M, 1] or [K, 1, N], updated in place. It starts
    at zero and needs no correction for that, since a common factor drops out.
    """
    axis = -1 if variance.size(-1) == 1 else -2
    mean_square = update.square().mean(dim=axis, keepdim=True)
    variance.lerp_(mean_square, 1 - MUON_BETA2)
    scale = variance.clamp_min(1e-10).rsqrt()
    before = mean_square.sum(dim=(-2, -1), keepdim=True)
    after = (mean_square * scale.square()).sum(dim=(-2, -1), keepdim=True)
    return update * scale * (before / after.clamp_min(1e-10)).sqrt()


def muon_update(
    weight: Tensor, gradient: Tensor, momentum: Tensor, variance: Tensor, beta: float, lr: float, decay: float
) -> None:
    """One step for matrices of one shape [K, M, N], in place: momentum, orthogonalized, equalized, subtracted.

    Weight decay is cautious (Chen et al. 2025, arXiv:2510.12402): only where it agrees with the update's sign. Nothing
    here is compiled: it is mostly matrix products, and numbers that a search moves would have it compiled again.
    """
    momentum.lerp_(gradient, 1 - beta)
    update = equalize(orthogonalize(gradient.lerp(momentum, beta)), variance)  # Nesterov: one step ahead
    agrees = update * weight >= 0
    weight.sub_(update.add_(weight * agrees, alpha=decay), alpha=lr)


class Muon:
    """Muon for matrices of one shape, stacked so that a step is a handful of batched kernels.

    `lr` is for a square matrix; a tall one, whose orthogonal update has a smaller effect on each output, steps farther.
    """

    def __init__(self, weights: list[Tensor], lr: float, decay: float) -> None:
        rows, columns = weights[0].shape
        like = torch.stack([weight.detach() for weight in weights])
        self.weights = weights
        self.base_lr = lr * math.sqrt(max(1.0, rows / columns))
        self.base_decay = decay
        self.momentum = torch.zeros_like(like)
        self.variance = torch.zeros_like(like[:, :, :1] if rows >= columns else like[:, :1, :])

    def step(self, progress: float) -> None:
        """One update, with the momentum and at the shares of step size and weight decay that are due by now."""
        lr, decay = self.base_lr * lr_share(progress), self.base_decay * decay_share(progress)
        weight = torch.stack([weight.detach() for weight in self.weights])
        gradient = torch.stack([weight.grad for weight in self.weights if weight.grad is not None])
        muon_update(weight, gradient, self.momentum, self.variance, muon_momentum(progress), lr, decay)
        torch._foreach_copy_(self.weights, list(weight.unbind()))


class Optimizer:
    """Muon for the matrices of the blocks, AdamW for every other parameter, and the schedule that drives both.

    A parameter that no group here names goes by what it is: a table, a gate, another matrix, or scalars.
    """

    def __init__(self, model: GPT) -> None:
        scale = math.sqrt(768 / WIDTH)
        betas = (ADAM_BETA1, ADAM_BETA2)
        self.model = model
        blocks = [block for block in model.blocks if isinstance(block, Block)]
        tables = [m.weight for m in model.modules() if isinstance(m, nn.Embedding) and m is not model.embedding]
        groups: list[dict[str, Any]] = [
            {"params": tables, "lr": VALUE_LR * scale, "weight_decay": VALUE_DECAY},
            {"params": [model.embedding.weight], "lr": EMBEDDING_LR * scale, "weight_decay": EMBEDDING_DECAY},
            {"params": [model.unembedding.weight], "lr": UNEMBEDDING_LR * scale, "weight_decay": UNEMBEDDING_DECAY},
            {"params": [block.x0_lambda for block in blocks], "lr": SCALAR_LR, "betas": (0.96, 0.95)},
            {"params": [block.residual_lambda for block in blocks], "lr": SCALAR_LR / 100},
        ]
        owned = {id(weight) for group in groups for weight in group["params"]}
        others = [weight for weight in model.parameters() if id(weight) not in owned]
        groups.append({"params": [scalars for scalars in others if scalars.ndim < 2], "lr": SCALAR_LR / 10})
        matrices = [matrix for matrix in others if matrix.ndim >= 2]
        gates = [matrix for matrix in matrices if matrix.size(1) == GATE_CHANNELS < WIDTH]
        groups.append({"params": gates, "lr": GATE_LR})
        shapes = sorted({tuple(matrix.shape) for matrix in matrices} - {tuple(gate.shape) for gate in gates})
        self.muon = [Muon([m for m in matrices if m.shape == shape], MATRIX_LR, WEIGHT_DECAY) for shape in shapes]
        self.adam = torch.optim.AdamW(groups, betas=betas, eps=ADAM_EPSILON, weight_decay=0.0, fused=True)
        self.base_lrs = [group["lr"] for group in self.adam.param_groups]

    @torch.no_grad()
    def step(self, progress: float) -> None:
        """One step with the gradients at hand, which are then dropped. `progress` is the share of the budget spent."""
        for muon in self.muon:
            muon.step(progress)
        for group, lr in zip(self.adam.param_groups, self.base_lrs, strict=True):
            group["lr"] = lr * lr_share(progress)
        self.adam.step()
        self.model.zero_grad(set_to_none=True)


def lr_share(progress: float) -> float:
    """Of the peak: constant, then linear down to FINAL_LR over the last WARMDOWN of the budget."""
    left = min(1.0, max(0.0, 1 - progress) / max(WARMDOWN, 1e-6))
    return FINAL_LR + (1 - FINAL_LR) * left


def decay_share(progress: float) -> float:
    """Of WEIGHT_DECAY, for the matrices: linear down to nothing. AdamW's small decay stays as it is."""
    return max(0.0, 1 - progress)


def muon_momentum(progress: float) -> float:
    """Linear from MOMENTUM_START up to MUON_MOMENTUM, and then constant."""
    return MOMENTUM_START + (MUON_MOMENTUM - MOMENTUM_START) * min(1.0, progress / max(MOMENTUM_WARMUP, 1e-6))


# ---------------------------------------------------------------------------------------------------- training

Batches = Iterable[tuple[Tensor, Tensor]]  # inputs and targets, int64 [rows, T], on the device


class Run(Protocol):
    """What the harness hands to `main`. It owns the clock, the seed and the data."""

    seed: int
    device: torch.device

    @property
    def progress(self) -> float:
        """Share of the budget spent, 0 to 1."""

    def warmup_batches(self, rows: int, context: int) -> Batches:
        """Throw-away tokens for compiling, without end; off the clock, so what they teach must be undone."""

    def start(self, model: nn.Module) -> None:
        """Records the weights' hash and starts the clock."""

    def batches(self, rows: int, context: int) -> Batches:
        """Training data; ends when the budget is spent."""

    def report(self, loss: Tensor) -> None:
        """The live curve: cross-entropy of the last step, nats per token, detached and left on the device."""

    def save(self, model: nn.Module) -> None:
        """Writes the weights that are scored. Once."""


def steps(model: GPT, optimizer: Optimizer, batches: Batches, progress: Callable[[], float]) -> Iterator[Tensor]:
    """Trains, and yields the mean loss of every optimizer step. A step that the data's end cuts short is dropped.

    Nothing here waits for the device: losses stay on it, and the next batch is prepared while it works.
    """
    losses: list[Tensor] = []
    for tokens, targets in batches:
        loss = model.loss(tokens, targets)
        (loss / PASSES).backward()  # type: ignore[no-untyped-call]
        losses.append(loss.detach())
        if len(losses) == PASSES:
            optimizer.step(progress())
            yield torch.stack(losses).mean()
            losses.clear()


@contextmanager
def undone(tensors: list[Tensor]) -> Iterator[None]:
    """Whatever happens within, the tensors come out of it bit for bit as they were."""
    before = [tensor.detach().clone() for tensor in tensors]
    yield
    with torch.no_grad():
        for tensor, old in zip(tensors, before, strict=True):
            tensor.copy_(old)


def main(run: Run) -> None:
    """One experiment: build, warm up, train until the clock runs out, save."""
    torch.manual_seed(run.seed)
    model = build_model(run.device)
    rows = BATCH_ROWS // PASSES

    # Compiling happens here, off the clock: a wrong shape or too large a batch shows before the budget is touched.
    with undone(list(model.parameters())):
        for _ in steps(model, Optimizer(model), islice(run.warmup_batches(rows, CONTEXT), PASSES), lambda: 0.0):
            pass

    optimizer = Optimizer(model)
    run.start(model)
    for loss in steps(model, optimizer, run.batches(rows, CONTEXT), lambda: run.progress):
        run.report(loss)
    run.save(model)
