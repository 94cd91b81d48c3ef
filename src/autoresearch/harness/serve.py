"""The candidate's side of the scorer: its code and weights, and nothing of the house but this.

An *open* process sees whole rows and claims losses; a *sealed* one sees rows cut before the target. Nothing that is
computed here is believed: the judge checks the one against the other.
"""

import sys
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_model
from torch import Tensor, nn

from autoresearch.harness import candidate
from autoresearch.harness.wire import GO, OK, ServeTask, read_exactly, write_all

T = TypeVar("T")


class _Stop(Exception):
    """A failure to be told to the judge, by its number in `wire.FAILURES`."""

    def __init__(self, status: int) -> None:
        self.status = status


def serve(task: ServeTask) -> None:
    """Wait for the word to go, then answer frames until the judge closes the pipe."""
    if read_exactly(task.read, 1) != GO:
        return
    try:
        model = _model(task)
        write_all(task.write, bytes([OK]))
        answer = _losses if task.mode == "open" else _logits
        for frame in _frames(task):
            reply = _guarded(5, partial(answer, model, frame, task))
            write_all(task.write, bytes([OK]) + reply)
    except _Stop as stop:
        write_all(task.write, bytes([stop.status]))


def _model(task: ServeTask) -> nn.Module:
    device = torch.device(task.device)
    module = _guarded(1, lambda: candidate.load(task.source))
    model = _guarded(2, lambda: candidate.build(module, device))
    _guarded(3, lambda: load_model(model, task.weights, strict=True, device=task.device))
    return model.eval()


def _frames(task: ServeTask) -> Iterator[np.ndarray]:
    """uint16[rows, context + 1] each."""
    while (data := read_exactly(task.read, task.frame_size)) is not None:
        yield np.frombuffer(data, dtype="<u2").reshape(task.rows, task.context + 1)


def _losses(model: nn.Module, frame: np.ndarray, task: ServeTask) -> bytes:
    """The loss of every target, float32[rows, context]: computed row by row, since in float32 all logits are large."""
    tokens = torch.from_numpy(frame.astype(np.int64)).to(task.device)
    targets = tokens[:, 1:].contiguous()  # our own copy: the model may do to its input what it likes
    logits = _forward(model, tokens[:, :-1].clone(), task)
    losses = [
        F.cross_entropy(row.float(), target, reduction="none") for row, target in zip(logits, targets, strict=True)
    ]
    return _bytes(torch.stack(losses))


def _logits(model: nn.Module, frame: np.ndarray, task: ServeTask) -> bytes:
    """The logits at one place in each row, float32[rows, vocab_size]."""
    tokens = torch.from_numpy(frame[:, :-1].astype(np.int64)).to(task.device)
    places = torch.from_numpy(frame[:, -1].astype(np.int64)).to(task.device)
    logits = _forward(model, tokens, task)
    return _bytes(logits[torch.arange(task.rows, device=task.device), places].float())


@torch.inference_mode()
def _forward(model: nn.Module, tokens: Tensor, task: ServeTask) -> Tensor:
    logits = model(tokens)
    shape = (task.rows, task.context, task.vocab_size)
    if not isinstance(logits, Tensor) or logits.ndim != 3 or logits.shape[:2] != shape[:2]:
        raise _Stop(6)
    if logits.shape[2] != task.vocab_size:
        raise _Stop(7)
    if not logits.is_floating_point():
        raise _Stop(8)
    return logits


def _bytes(values: Tensor) -> bytes:
    return np.ascontiguousarray(values.cpu().numpy(), dtype="<f4").tobytes()


def _guarded(status: int, work: Callable[[], T]) -> T:
    """Run candidate code; whatever it raises becomes a status, and its traceback goes to the log alone."""
    try:
        return work()
    except _Stop:
        raise
    except BaseException as error:
        traceback.print_exc(file=sys.stderr)
        raise _Stop(4 if isinstance(error, torch.OutOfMemoryError | MemoryError) else status) from None
