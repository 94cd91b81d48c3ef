"""The parts of the core as they are written down, in float64, with no mask, no kernel and no fusion."""

import math
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def dense_attention(query: Tensor, key: Tensor, value: Tensor, window: int) -> Tensor:
    """Attention [B, T, H, D] one query at a time."""
    query, key, value = query.double(), key.double(), value.double()
    rows = []
    for t in range(query.size(1)):
        seen = slice(max(0, t - window + 1), t + 1)
        scores = (query[:, t, None] * key[:, seen]).sum(-1, keepdim=True) / math.sqrt(query.size(-1))
        rows.append((scores.softmax(1) * value[:, seen]).sum(1))
    return torch.stack(rows, dim=1)


def turned(core: ModuleType, x: Tensor) -> Tensor:
    """x[B, T, H, D] by complex numbers: channel i and channel i + D / 2 as one, times e^(i position frequency)."""
    left, right = x.double().chunk(2, dim=-1)
    half = left.size(-1)
    frequency = core.ROPE_BASE ** (-torch.arange(half, dtype=torch.float64, device=x.device) / half)
    angle = torch.arange(x.size(1), dtype=torch.float64, device=x.device)[:, None, None] * frequency
    product = torch.complex(left, right) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat((product.real, product.imag), dim=-1)


def normalized(x: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()


def rotated_norm(core: ModuleType, x: Tensor) -> tuple[Tensor, Tensor]:
    heads = x.size(2) // 2
    return normalized(turned(core, x[:, :, :heads])), late(core, normalized(turned(core, x[:, :, heads:])))


def late(core: ModuleType, key: Tensor) -> Tensor:
    """Keys [B, T, H, D] in which the slowest pairs of channels are a token late."""
    slowest = sorted(range(core.HEAD_DIM), key=lambda channel: channel % (core.HEAD_DIM // 2))
    moved = key.clone()
    for channel in slowest[len(slowest) - round(core.LATE_SHARE * core.HEAD_DIM) :]:
        moved[:, 0, :, channel] = 0
        moved[:, 1:, :, channel] = key[:, :-1, :, channel]
    return moved


def logits(core: ModuleType, model: nn.Module, tokens: Tensor) -> Tensor:
    """The whole forward pass from the weights by name."""
    weights = {name: weight.detach().double() for name, weight in model.named_parameters()}
    heads = (*tokens.shape, core.HEADS, core.HEAD_DIM)
    few = core.GATE_CHANNELS

    def times(name: str, x: Tensor) -> Tensor:
        return x @ weights[f"{name}.weight"].T

    def gate(name: str, x: Tensor) -> Tensor:
        return 2 * torch.sigmoid(times(name, x[..., :few]))[..., None]

    before = torch.cat((tokens[:, :1], tokens[:, :-1]), dim=1)
    x = normalized(weights["embedding.weight"][tokens])
    previous = normalized(weights["embedding.weight"][before])
    previous[:, 0] = 0
    x = x0 = x + weights["smear_lambda"] * torch.sigmoid(times("smear", x[..., :few])) * previous
    middle = x
    for layer in range(core.DEPTH):
        at = f"blocks.{layer}"
        x = weights[f"{at}.residual_lambda"] * x + weights[f"{at}.x0_lambda"] * x0
        h = normalized(x)
        query, key = (
            normalized(turned(core, times(f"{at}.attention.{name}", h).view(heads))) for name in ("query", "key")
        )
        value = times(f"{at}.attention.value", h).view(heads)
        for number, rows in enumerate((tokens, core.pairs_of(tokens)) if core.NGRAM_ROWS else (tokens,)):
            if (core.DEPTH - 1 - layer) % 2 == 0:
                table = weights[f"{at}.attention.tables.{number}.weight"][rows].view(heads)
                value = value + gate(f"{at}.attention.table_gates.{number}", h) * table
        seen = dense_attention(query, late(core, key), value, core.window_of(layer)) * gate(f"{at}.attention.gate", h)
        x = x + times(f"{at}.attention.out", seen.flatten(2))
        x = x + times(f"{at}.mlp.down", F.relu(times(f"{at}.mlp.up", normalized(x))).square())
        middle = x if layer == (core.DEPTH - 1) // 2 else middle
    x = normalized(x - weights["backout_lambda"] * middle)
    return core.SOFTCAP * torch.tanh(times("unembedding", x) / core.SOFTCAP)


class Muon:
    """Muon as it is written down, for one matrix, with loops instead of batches."""

    def __init__(self, core: ModuleType, weight: Tensor, lr: float, decay: float) -> None:
        self.core, self.weight, self.decay = core, weight.double(), decay
        rows, columns = weight.shape
        self.lr = lr * max(1, rows / columns) ** 0.5
        self.momentum = torch.zeros_like(self.weight)
        self.variance = torch.zeros(max(rows, columns) if rows != columns else rows, dtype=torch.float64)

    def step(self, gradient: Tensor, beta: float, lr_share: float, decay_share: float) -> None:
        core, gradient = self.core, gradient.double()
        self.momentum = beta * self.momentum + (1 - beta) * gradient
        ahead = beta * self.momentum + (1 - beta) * gradient
        left, values, right = torch.linalg.svd(ahead / (1.02 * ahead.norm() + 1e-6), full_matrices=False)
        for a, b, c in core.POLAR_EXPRESS:  # a polynomial of the matrix is one of its singular values
            values = a * values + b * values**3 + c * values**5
        update = left @ values.diag() @ right
        axis = 1 if update.size(0) >= update.size(1) else 0
        power = update.square().mean(axis)
        self.variance = core.MUON_BETA2 * self.variance + (1 - core.MUON_BETA2) * power
        equal = update / self.variance.sqrt().unsqueeze(axis)
        equal = equal * update.norm() / equal.norm()
        for i in range(update.size(0)):
            for j in range(update.size(1)):
                w, u = self.weight[i, j].item(), equal[i, j].item()
                shrink = self.decay * decay_share * w if u * w >= 0 else 0.0
                self.weight[i, j] = w - self.lr * lr_share * (u + shrink)
