"""The yardstick: where 125 published experiments on the original's core had ended, as a file for this harness.

Depth 9, width 640, 2^18 tokens a step, windows SSSSL of an eighth of the context, value embeddings on alternate
layers, Muon with Polar Express, NorMuon and cautious decay, AdamW for the rest, a warmdown over three quarters of the
run. The constants are those that were published; the code is this project's own. It is measured and never edited, so
that figures of the training core keep a meaning.
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
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

# ---------------------------------------------------------------------------------------------------- knobs

# Size. DEPTH alone scales the model: width, heads, windows and learning rates follow.
CONTEXT = 2048  # tokens in a row, in training and in scoring
VOCAB_SIZE = 8192  # entries of the vocabulary; only what the program allows
DEPTH = 9  # [2, 12]; number of blocks
ASPECT = 64  # [32, 96]; channels per block of depth, before rounding up to whole heads
HEAD_DIM = 128  # {32, 64, 128}; channels of an attention head
MLP_RATIO = 4  # [2, 6]; hidden channels of the MLP per channel of the stream

# Attention.
WINDOW_PATTERN = "SSSSL"  # {"L", "SL", "SSL", "SSSL", "SSSSL", "S"}; short or long by layer; the last is always long
WINDOW_DIVISOR = 8  # {2, 4, 8, 16}; a short window is CONTEXT divided by this
ROPE_BASE = 200000.0  # [10000.0, 1000000.0] log; of the rotary wavelengths, which grow to 2 pi times this many tokens
GATE_CHANNELS = 32  # channels of the stream that gate a value embedding
SOFTCAP = 15.0  # [8.0, 30.0] log; logits are squashed into plus or minus this

# Initialization.
INIT_SCALE = 0.68  # [0.3, 1.2] log; of matrices: standard deviation times sqrt(inputs)
UNEMBEDDING_SCALE = 0.005  # the same of the output matrix: so small that the first loss is ln(V)
X0_LAMBDA = 0.05  # [0.0, 0.3]; how much of the embedding each block adds to the stream at first

# Batch.
BATCH_ROWS = 128  # {8, 16, 32, 64, 128, 256}; rows in an optimizer step
MICRO_ROWS = 64  # rows in one forward and backward pass; memory and speed, not the result

# Step sizes. The first three are for C = 768 and are scaled by (C / 768) ** -0.5; none is scaled with the batch.
EMBEDDING_LR = 0.9  # [0.1, 3.0] log; AdamW, token embedding
VALUE_LR = 0.9  # [0.1, 3.0] log; AdamW, value embeddings
UNEMBEDDING_LR = 0.005  # [0.001, 0.05] log; AdamW, output matrix
SCALAR_LR = 0.5  # [0.05, 2.0] log; AdamW, x0 lambdas, and a hundredth of it for the residual lambdas
MATRIX_LR = 0.04  # [0.01, 0.16] log; Muon, matrices of the blocks

# Optimizer.
ADAM_BETA1 = 0.8  # [0.6, 0.95]; average of the gradient
ADAM_BETA2 = 0.95  # [0.9, 0.99]; average of its square
MUON_MOMENTUM = 0.95  # [0.9, 0.98]; after a warm-up from 0.85
MOMENTUM_WARMUP = 200  # {50, 100, 200, 400}; steps of that warm-up
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
PASSES = math.ceil(BATCH_ROWS / MICRO_ROWS)  # forward and backward passes in an optimizer step


# ---------------------------------------------------------------------------------------------------- parts


@functools.cache
def fused(function: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
    """Compiled on CUDA; as it is elsewhere, where compiling costs more time than it saves."""
    return torch.compile(function, dynamic=False) if device.type == "cuda" else function


def norm(x: Tensor) -> Tensor:
    """RMSNorm over the channels, without weights."""
    return F.rms_norm(x, (x.size(-1),), eps=1e-6)


class Linear(nn.Linear):
    """A matrix without bias: kept in float32, applied in the dtype of the activations.

    So the embedding's dtype alone decides the precision of the forward pass, in training as in scoring.
    """

    def __init__(self, inputs: int, outputs: int, scale: float = INIT_SCALE) -> None:
        super().__init__(inputs, outputs, bias=False)
        bound = scale * math.sqrt(3 / inputs)  # of a uniform distribution with deviation scale / sqrt(inputs)
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype))


def rotary_table() -> Tensor:
    """Cosines and sines [2, CONTEXT, 1, D / 2] of position times frequency, on the CPU."""
    channels = torch.arange(0, HEAD_DIM, 2, dtype=torch.float64, device="cpu")
    positions = torch.arange(CONTEXT, dtype=torch.float64, device="cpu")
    angles = torch.outer(positions, ROPE_BASE ** (-channels / HEAD_DIM)).unsqueeze(1)
    return torch.stack((angles.cos(), angles.sin())).float()


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Rotary position embedding (Su et al. 2021) of x[B, T, H, D]: channel i turns against channel i + D / 2."""
    cos, sin = table[:, : x.size(1)]
    left, right = x.float().chunk(2, dim=-1)
    return torch.cat((left * cos - right * sin, left * sin + right * cos), dim=-1).to(x.dtype)


# ---------------------------------------------------------------------------------------------------- attention


def window_of(layer: int) -> int:
    """How many tokens a layer sees back, the query's own included."""
    long = layer == DEPTH - 1 or WINDOW_PATTERN[layer % len(WINDOW_PATTERN)] == "L"
    return CONTEXT if long else max(1, CONTEXT // WINDOW_DIVISOR)


_masks: dict[tuple[int, int, torch.device], BlockMask | Tensor] = {}


def window_mask(length: int, window: int, device: torch.device) -> BlockMask | Tensor:
    """Which keys a query sees: a BlockMask on CUDA, a boolean [T, T] elsewhere. Built once for each shape."""

    def visible(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query >= key) & (query - key < window)

    where = (length, window, device)
    if where not in _masks:
        with torch.inference_mode(False):  # one made while scoring must do for training, too
            if device.type == "cuda":
                _masks[where] = create_block_mask(visible, None, None, length, length, device=device)
            else:
                position, none = torch.arange(length, device=device), torch.zeros((), device=device)
                _masks[where] = visible(none, none, position[:, None], position[None, :])
    return _masks[where]


def attend(query: Tensor, key: Tensor, value: Tensor, window: int) -> Tensor:
    """Causal attention [B, H, T, D] in which position t sees t - window + 1 to t. The one place that picks a kernel."""
    length = query.size(-2)
    if window >= length:
        return F.scaled_dot_product_attention(query, key, value, is_causal=True)
    mask = window_mask(length, window, query.device)
    if isinstance(mask, Tensor):
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    flex: Callable[..., Any] = flex_attention
    if not torch.compiler.is_compiling():  # as in scoring: without its own kernel it would write out all T x T scores
        flex = fused(flex_attention, query.device)
    result: Tensor = flex(query, key, value, block_mask=mask)
    return result


class Attention(nn.Module):
    """Causal self-attention with rotary positions, normalized queries and keys, and a window by layer.

    Every other layer, the last included, adds to its values an embedding of the token at hand (Zhou et al. 2024,
    arXiv:2410.17897): a table of C more channels for each entry of the vocabulary, almost free in time. A gate for
    each head, read from a few channels of the stream, opens it from 0 to 2; it begins at 1.
    """

    def __init__(self, layer: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.window = window_of(layer)
        self.query = Linear(WIDTH, WIDTH)
        self.key = Linear(WIDTH, WIDTH)
        self.value = Linear(WIDTH, WIDTH)
        self.out = Linear(WIDTH, WIDTH, scale=0.0)
        self.table: nn.Embedding | None = None
        if (DEPTH - 1 - layer) % 2 == 0:
            self.table = nn.Embedding(VOCAB_SIZE, WIDTH, dtype=dtype)
            nn.init.normal_(self.table.weight, std=INIT_SCALE / math.sqrt(WIDTH))
            self.gate = Linear(GATE_CHANNELS, HEADS, scale=0.0)

    def forward(self, x: Tensor, tokens: Tensor, rotary: Tensor) -> Tensor:
        heads = (*tokens.shape, HEADS, HEAD_DIM)
        query: Tensor = norm(rotate(self.query(x).view(heads), rotary))
        key: Tensor = norm(rotate(self.key(x).view(heads), rotary))
        value: Tensor = self.value(x).view(heads)
        if self.table is not None:
            gate = 2 * torch.sigmoid(self.gate(x[..., :GATE_CHANNELS]))
            value = value + gate.unsqueeze(-1) * self.table(tokens).view(heads)
        seen = attend(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), self.window)
        result: Tensor = self.out(seen.transpose(1, 2).reshape(x.shape))
        return result


class MLP(nn.Module):
    """Two matrices around a squared ReLU (So et al. 2021, arXiv:2109.08668)."""

    def __init__(self) -> None:
        super().__init__()
        self.up = Linear(WIDTH, MLP_RATIO * WIDTH)
        self.down = Linear(MLP_RATIO * WIDTH, WIDTH, scale=0.0)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.down(F.relu(self.up(x)).square())
        return result


class Block(nn.Module):
    """Attention, then MLP, each added to the stream and each fed from its normalized state."""

    def __init__(self, layer: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.attention = Attention(layer, dtype)
        self.mlp = MLP()

    def forward(self, x: Tensor, tokens: Tensor, rotary: Tensor) -> Tensor:
        x = x + self.attention(norm(x), tokens, rotary)
        result: Tensor = x + self.mlp(norm(x))
        return result


# ---------------------------------------------------------------------------------------------------- model


class GPT(nn.Module):
    """A decoder-only transformer. Each block sees a weighted sum of the stream and of the embedding x0.

    Blocks begin as the identity: what they add to the stream goes through a matrix of zeros.
    """

    rotary: Tensor

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCAB_SIZE, WIDTH, dtype=dtype)
        self.blocks = nn.ModuleList(Block(layer, dtype) for layer in range(DEPTH))
        self.unembedding = Linear(WIDTH, VOCAB_SIZE, scale=UNEMBEDDING_SCALE)
        self.residual_lambdas = nn.Parameter(torch.ones(DEPTH))
        self.x0_lambdas = nn.Parameter(torch.full((DEPTH,), X0_LAMBDA))
        self.register_buffer("rotary", rotary_table().to(self.x0_lambdas.device), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens[B, T] (int64, T at most CONTEXT) -> logits[B, T, V] (float32)."""
        x = x0 = norm(self.embedding(tokens))
        for layer, block in enumerate(self.blocks):
            x = self.residual_lambdas[layer] * x + self.x0_lambdas[layer] * x0
            x = block(x, tokens, self.rotary)
        logits: Tensor = self.unembedding(norm(x)).float()
        return SOFTCAP * torch.tanh(logits / SOFTCAP)

    def flops_per_token(self) -> int:
        """Forward and backward, at full context: 6 for each weight of a matrix, 12 for each channel and key seen.

        The convention of PaLM (arXiv:2204.02311, appendix B), with windows: no discount for the causal triangle.
        """
        matrices = sum(module.weight.numel() for module in self.modules() if isinstance(module, Linear))
        return 6 * matrices + sum(12 * WIDTH * window_of(layer) for layer in range(DEPTH))


def build_model(device: torch.device) -> GPT:
    """The model with its first weights, from the constants and torch's seed alone. Works on the meta device.

    On CUDA the embeddings are bfloat16, and with them all activations; elsewhere everything is float32.
    """
    with torch.device(device):
        model = GPT(torch.bfloat16 if device.type == "cuda" else torch.float32)
    for window in {window_of(layer) for layer in range(DEPTH)}:
        if window < CONTEXT:
            window_mask(CONTEXT, window, model.rotary.device)  # now: while compiling, it can only be looked up
    return model


# ---------------------------------------------------------------------------------------------------- optimizer

# The numbers that change during a run, step count and step size, are 0-d tensors on the device: compiled code reads
# them and is not compiled again. All state exists from the start, so that a warm-up can be undone by copying it back.

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
    if x.is_cuda:
        x = x.bfloat16()
    for a, b, c in POLAR_EXPRESS[:POLAR_STEPS]:
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
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
    weight: Tensor, gradient: Tensor, momentum: Tensor, variance: Tensor, count: Tensor, lr: Tensor, decay: Tensor
) -> None:
    """One step for matrices of one shape [K, M, N], in place: momentum, orthogonalized, equalized, subtracted.

    Weight decay is cautious (Chen et al. 2025, arXiv:2510.12402): only where it agrees with the update's sign.
    """
    warmth = (count / max(1, MOMENTUM_WARMUP)).clamp(max=1.0)
    beta = MOMENTUM_START + (MUON_MOMENTUM - MOMENTUM_START) * warmth
    momentum.lerp_(gradient, 1 - beta)
    update = equalize(orthogonalize(gradient.lerp(momentum, beta)), variance)  # Nesterov: one step ahead
    agrees = update * weight >= 0
    weight.sub_(lr * (update + decay * weight * agrees))
    count.add_(1)


def adamw_update(
    weight: Tensor,
    gradient: Tensor,
    mean: Tensor,
    square: Tensor,
    count: Tensor,
    lr: Tensor,
    decay: Tensor,
    betas: tuple[float, float],
) -> None:
    """One step for a tensor of any shape, in place and in float32, whatever the dtype of the weight."""
    count.add_(1)
    gradient = gradient.float()
    mean.lerp_(gradient, 1 - betas[0])
    square.lerp_(gradient.square(), 1 - betas[1])
    scale = (square / (1 - betas[1] ** count)).sqrt() + ADAM_EPSILON
    update = mean / (1 - betas[0] ** count) / scale
    weight.copy_(weight * (1 - lr * decay) - lr * update)


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
        self.count, self.lr, self.decay = (torch.zeros((), device=like.device) for _ in range(3))
        self.update = fused(muon_update, like.device)

    def step(self, lr_share: float, decay_share: float) -> None:
        """One update, at these shares of the full step size and weight decay."""
        self.lr.fill_(self.base_lr * lr_share)
        self.decay.fill_(self.base_decay * decay_share)
        weight = torch.stack([weight.detach() for weight in self.weights])
        gradient = torch.stack([weight.grad for weight in self.weights if weight.grad is not None])
        self.update(weight, gradient, self.momentum, self.variance, self.count, self.lr, self.decay)
        torch._foreach_copy_(self.weights, list(weight.unbind()))

    def state(self) -> list[Tensor]:
        return [self.momentum, self.variance, self.count]


class AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019) for one tensor, its averages in float32."""

    def __init__(
        self,
        weight: Tensor,
        lr: float,
        decay: float = 0.0,
        betas: tuple[float, float] = (ADAM_BETA1, ADAM_BETA2),
    ) -> None:
        self.weights = [weight]
        self.base_lr, self.betas = lr, betas
        self.mean = torch.zeros_like(weight, dtype=torch.float32, requires_grad=False)
        self.square = torch.zeros_like(self.mean)
        self.count, self.lr, self.decay = (torch.tensor(x, device=weight.device) for x in (0.0, lr, decay))
        self.update = fused(adamw_update, weight.device)

    def step(self, lr_share: float, decay_share: float) -> None:
        """Its small decay stays as it is: `decay_share` is for the matrices."""
        (weight,) = self.weights
        if weight.grad is None:
            return
        self.lr.fill_(self.base_lr * lr_share)
        self.update(weight.detach(), weight.grad, self.mean, self.square, self.count, self.lr, self.decay, self.betas)

    def state(self) -> list[Tensor]:
        return [self.mean, self.square, self.count]


class Optimizer:
    """Every parameter of the model in one group, and the schedule that drives all groups."""

    def __init__(self, model: GPT) -> None:
        matrices = [module.weight for module in model.blocks.modules() if isinstance(module, Linear)]
        tables = [module.weight for module in model.blocks.modules() if isinstance(module, nn.Embedding)]
        shapes = sorted({tuple(matrix.shape) for matrix in matrices})
        scale = math.sqrt(768 / WIDTH)
        self.model = model
        self.groups: list[Muon | AdamW] = [
            *(Muon([m for m in matrices if m.shape == shape], MATRIX_LR, WEIGHT_DECAY) for shape in shapes),
            *(AdamW(table, VALUE_LR * scale, VALUE_DECAY) for table in tables),
            AdamW(model.embedding.weight, EMBEDDING_LR * scale, EMBEDDING_DECAY),
            AdamW(model.unembedding.weight, UNEMBEDDING_LR * scale, UNEMBEDDING_DECAY),
            AdamW(model.residual_lambdas, SCALAR_LR / 100),
            AdamW(model.x0_lambdas, SCALAR_LR, betas=(0.96, 0.95)),
        ]
        owned = {id(weight) for group in self.groups for weight in group.weights}
        orphans = [name for name, weight in model.named_parameters() if id(weight) not in owned]
        assert not orphans, f"no group of the optimizer owns {orphans}"

    @torch.no_grad()
    def step(self, progress: float) -> None:
        """One step with the gradients at hand, which are then dropped. `progress` is the share of the budget spent."""
        for group in self.groups:
            group.step(lr_share(progress), decay_share(progress))
        self.model.zero_grad(set_to_none=True)

    def state(self) -> list[Tensor]:
        """Every tensor that a step changes, beside the weights."""
        return [tensor for group in self.groups for tensor in group.state()]


# ---------------------------------------------------------------------------------------------------- schedule


def lr_share(progress: float) -> float:
    """Of the peak: constant, then linear down to FINAL_LR over the last WARMDOWN of the budget."""
    left = min(1.0, max(0.0, 1 - progress) / max(WARMDOWN, 1e-6))
    return FINAL_LR + (1 - FINAL_LR) * left


def decay_share(progress: float) -> float:
    """Of WEIGHT_DECAY: linear down to nothing."""
    return max(0.0, 1 - progress)


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


def next_token_loss(model: nn.Module, tokens: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy in nats per token."""
    logits: Tensor = model(tokens)
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def steps(model: GPT, optimizer: Optimizer, batches: Batches, progress: Callable[[], float]) -> Iterator[Tensor]:
    """Trains, and yields the mean loss of every optimizer step. A step that the data's end cuts short is dropped.

    Nothing here waits for the device: losses stay on it, and the next batch is prepared while it works.
    """
    loss_of = fused(next_token_loss, model.rotary.device)
    losses: list[Tensor] = []
    for tokens, targets in batches:
        loss = loss_of(model, tokens, targets)
        (loss / PASSES).backward()
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
    optimizer = Optimizer(model)
    rows = BATCH_ROWS // PASSES

    # Compiling happens here, off the clock: a wrong shape or too large a batch shows before the budget is touched.
    passes = PASSES * (3 if run.device.type == "cuda" else 1)
    with undone([*model.parameters(), *model.buffers(), *optimizer.state()]):
        for _ in steps(model, optimizer, islice(run.warmup_batches(rows, CONTEXT), passes), lambda: 0.0):
            pass

    run.start(model)
    for loss in steps(model, optimizer, run.batches(rows, CONTEXT), lambda: run.progress):
        run.report(loss)
    run.save(model)
