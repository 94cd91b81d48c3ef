"""What these tests share: the file, a run that needs no harness, a model whose every weight counts."""

import argparse
import typing
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

from autoresearch import knobs

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "src" / "autoresearch" / "train_core.py").read_text()
YARDSTICK = (ROOT / "benchmarks" / "reference_core.py").read_text()
CPU = torch.device("cpu")
TINY: dict[str, knobs.Value] = {"DEPTH": 2, "HEAD_DIM": 32, "ASPECT": 32, "CONTEXT": 64, "VOCAB_SIZE": 256}


class FakeRun:
    """What the harness hands over, for a fixed number of batches of real text: the source of two big modules."""

    def __init__(self, batches: int, seed: int = 0, warmup: bool = True, repeat: bool = False) -> None:
        self.seed, self.device = seed, CPU
        self.total, self.taken = batches, 0
        self.warmup, self.repeat = warmup, repeat
        self.losses: list[Tensor] = []
        self.events: list[str] = []
        self.started: dict[str, Tensor] = {}
        self.saved: nn.Module | None = None
        text = b"".join(Path(str(module.__file__)).read_bytes() for module in (argparse, typing))
        self.text = torch.tensor(list(text))

    @property
    def progress(self) -> float:
        return self.taken / self.total

    def draw(self, rows: int, context: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        starts = torch.randint(0, len(self.text) - context, (rows,), generator=generator)
        row = torch.stack([self.text[start : start + context + 1] for start in starts]).to(self.device)
        return row[:, :-1], row[:, 1:]

    def warmup_batches(self, rows: int, context: int) -> Iterable[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(99)
        while self.warmup:
            yield self.draw(rows, context, generator)

    def start(self, model: nn.Module) -> None:
        self.events.append("start")
        self.started = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def batches(self, rows: int, context: int) -> Iterable[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(self.seed)
        for number in range(self.total):
            if self.repeat:
                generator.manual_seed(self.seed)
            self.taken = number + 1
            yield self.draw(rows, context, generator)

    def report(self, loss: Tensor) -> None:
        assert not loss.requires_grad
        self.losses.append(loss)

    def save(self, model: nn.Module) -> None:
        self.events.append("save")
        self.saved = model


def disturbed(core: ModuleType, device: torch.device = CPU) -> nn.Module:
    """A model in which every weight counts: at first the blocks add nothing and all logits are nearly zero."""
    torch.manual_seed(0)
    model = core.build_model(device)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn(weight.shape).to(weight))
    return model
