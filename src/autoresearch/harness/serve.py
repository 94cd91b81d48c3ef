"""The candidate's side of the scorer: its code and weights, and nothing of the house but this.

An *open* process sees whole rows and claims losses; a *sealed* one sees rows cut before the target. Nothing that is
computed here is believed: the judge checks the one against the other.

The device never waits: while it works on one batch, the next one is read from the pipe and launched.
"""

import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from autoresearch.harness import candidate
from autoresearch.harness.losses import losses
from autoresearch.harness.rehearsal import logits_failure
from autoresearch.harness.wake import wake
from autoresearch.harness.weights import load
from autoresearch.harness.wire import COUNT, GO, OK, ServeTask, read_into, write_all

T = TypeVar("T")
Answer = Callable[[nn.Module, Tensor, ServeTask], Tensor]


class _Stop(Exception):
    """A failure to be told to the judge, by its number in `wire.FAILURES`."""

    def __init__(self, status: int) -> None:
        self.status = status


class _Batch:
    """What one batch needs on the host: page-locked on a GPU's, so that copies to and from it run behind the host."""

    def __init__(self, task: ServeTask) -> None:
        self._behind = task.device == "cuda"
        # int16, since torch computes little in uint16.
        self._frame = torch.empty(task.rows, task.context + 1, dtype=torch.int16, pin_memory=self._behind)
        self._reply = torch.empty(task.reply_size // 4, dtype=torch.float32, pin_memory=self._behind)
        self._done = torch.cuda.Event() if self._behind else None  # type: ignore[no-untyped-call]

    def read(self, task: ServeTask) -> bool:
        """Take in the next frame; False if the judge has closed the pipe."""
        return read_into(task.read, self._frame.numpy().data.cast("B"))

    def launch(self, answer: Answer, model: nn.Module, task: ServeTask) -> None:
        """Have it computed; on a GPU this does not wait for the result."""
        frame = self._frame.to(task.device, non_blocking=self._behind).long() & 0xFFFF
        self._reply.copy_(answer(model, frame, task).flatten(), non_blocking=self._behind)
        if self._done:
            self._done.record()

    def wait(self) -> None:
        """Until the result is here."""
        if self._done:
            self._done.synchronize()

    def write(self, task: ServeTask) -> None:
        """Send the result, once it is here."""
        write_all(task.write, bytes([OK]))
        write_all(task.write, self._reply.numpy().data.cast("B"))


def serve(task: ServeTask) -> None:
    """Get ready, wait for the word to go, then answer as many frames as the judge says will come."""
    awake = wake(torch.device(task.device), training=False)
    batches = [_Batch(task), _Batch(task)]
    go = bytearray(1)
    if not read_into(task.read, memoryview(go)) or go != GO:
        return
    if task.mode == "sealed":
        _seal(task)
    try:
        model = _model(task)
        write_all(task.write, bytes([OK]))
        _answer(model, batches, task, awake)
    except _Stop as stop:
        write_all(task.write, bytes([stop.status]))


def _seal(task: ServeTask) -> None:
    """Nothing that another process has compiled is loaded, and no time is lost on compiling for a few rows."""
    caches = Path(tempfile.mkdtemp(dir=Path.cwd()))  # empty, and of a name that nobody knew before
    os.environ |= {"TORCHINDUCTOR_CACHE_DIR": str(caches / "inductor"), "TRITON_CACHE_DIR": str(caches / "triton")}
    if task.device == "cuda":  # elsewhere it would import the compiler, for nothing
        torch.compiler.set_stance("force_eager")


def _model(task: ServeTask) -> nn.Module:
    device = torch.device(task.device)
    module = _guarded(1, lambda: candidate.load(task.source))
    model = _guarded(2, lambda: candidate.build(module, device))
    _guarded(3, lambda: load(model, task.weights, task.device))
    return model.eval()


def _answer(model: nn.Module, batches: list[_Batch], task: ServeTask, awake: Callable[[], object]) -> None:
    """All frames, each with one more behind it on the device; from the second on, with no other thread at work."""
    count = bytearray(COUNT)
    if not read_into(task.read, memoryview(count)):
        return
    answer = _losses if task.mode == "open" else _logits
    before: _Batch | None = None
    for _, batch in zip(range(int.from_bytes(count, "little")), cycle(batches), strict=False):
        if not batch.read(task):
            return
        _guarded(5, partial(batch.launch, answer, model, task))
        awake()
        if before:
            _guarded(5, before.wait)
            before.write(task)
        before = batch
    if before:
        _guarded(5, before.wait)
        before.write(task)


def _losses(model: nn.Module, frame: Tensor, task: ServeTask) -> Tensor:
    """The loss of every target, float32[rows * context]; frame: int64[rows, context + 1]."""
    targets = frame[:, 1:].contiguous()  # our own copy: the model may do to its input what it likes
    logits = _forward(model, frame[:, :-1].clone(), task)
    return losses(logits, targets)


def _logits(model: nn.Module, frame: Tensor, task: ServeTask) -> Tensor:
    """The logits at one place in each row, float32[rows, vocab_size]; frame: int64[rows, context + 1], places last."""
    places = frame[:, -1].clone()
    logits = _forward(model, frame[:, :-1].clone(), task)
    return logits[torch.arange(task.rows, device=logits.device), places].float()


@torch.inference_mode()
def _forward(model: nn.Module, tokens: Tensor, task: ServeTask) -> Tensor:
    logits: Tensor = model(tokens)
    if failure := logits_failure(logits, (task.rows, task.context, task.vocab_size)):
        raise _Stop(failure)
    return logits


def _guarded(status: int, work: Callable[[], T]) -> T:
    """Run candidate code; whatever it raises becomes a status, and its traceback goes to the log alone."""
    try:
        return work()
    except _Stop:
        raise
    except BaseException as error:
        traceback.print_exc(file=sys.stderr)
        raise _Stop(4 if isinstance(error, torch.OutOfMemoryError | MemoryError) else status) from None
