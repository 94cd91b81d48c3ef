"""The candidate's side of the scorer: its code and weights, and nothing of the house but this.

An *open* process sees whole rows and claims losses; a *sealed* one sees rows cut before the target. Nothing that is
computed here is believed: the judge checks the one against the other.

An open process rehearses before there are weights, on made-up rows: so it has compiled when its time comes, and what
goes wrong may be shown to whoever wrote it. What fails later is told in the house's own words alone.

The device never waits: while it works on one batch, the next one is read from the pipe and launched.
"""

import contextlib
import io
import os
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from autoresearch import compilers
from autoresearch.harness import candidate
from autoresearch.harness.losses import losses
from autoresearch.harness.wake import wake
from autoresearch.harness.weights import load
from autoresearch.harness.wire import (
    COUNT,
    FAILED,
    GO,
    GPU_FAILED,
    NO_ROOM,
    OK,
    ROOM,
    ServeTask,
    read_into,
    write_all,
)
from autoresearch.tasks import HARDWARE

T = TypeVar("T")
Answer = Callable[[nn.Module, Tensor, ServeTask], Tensor]

_CONTEXT = 6 * 10**8  # bytes of a GPU's memory that a process has without any tensor
_NO_MEMORY = 4  # of `wire.FAILURES`


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

    def make_up(self, task: ServeTask) -> None:
        """Fill the frame with numbers that are tokens, and begin each row as all rows do."""
        numbers = torch.arange(self._frame.numel()).remainder(task.vocab_size)
        self._frame.copy_(numbers.view(self._frame.shape))  # as of uint16: the upper ones wrap around
        self._frame[:, 0] = task.bos

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
    awake = wake(torch.device(task.device))
    model = stored = None
    try:
        batches = _guarded(task, GPU_FAILED, lambda: [_Batch(task), _Batch(task)])  # no code of the candidate
        write_all(task.write, bytes([OK]))
        if task.mode == "open":
            model = _rehearsed(task, batches[0])
            awake()
            write_all(task.write, bytes([OK]) + (NO_ROOM if model is None else ROOM))
        else:
            _seal(task)
            stored = _stored(task)
        if not _told(task):
            return
        model = _built(task) if model is None else model
        _guarded(task, 3, partial(load, model, stored or _stored(task)))
        stored = None  # or its memory would be missing
        _guarded(task, 5, model.eval)
        write_all(task.write, bytes([OK]))
        _answer(model, batches, task, awake)
    except _Stop as stop:
        write_all(task.write, bytes([stop.status]))


def _rehearsed(task: ServeTask, batch: _Batch) -> nn.Module | None:
    """Run the model as it will be run here, and on CUDA uncompiled too, as in a sealed process. A new one, which knows
    nothing of that; None if there is not room enough beside a training."""
    cuda = task.device == "cuda"
    model = None
    if cuda and task.room is not None:
        whole = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, max(0.0, task.room - _CONTEXT) / whole))
    batch.make_up(task)
    try:
        first = _built(task)
        _guarded(task, 5, first.eval)
        for stance in ("default", "force_eager") if cuda else (None,):
            with torch.compiler.set_stance(stance) if stance else contextlib.nullcontext():
                _guarded(task, 5, partial(batch.launch, _losses, first, task))
                _guarded(task, 5, batch.wait)
        del first
        model = _built(task)
    except _Stop as stop:
        if stop.status != _NO_MEMORY or task.room is None:
            raise
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(1.0)
    return model


def _told(task: ServeTask) -> bool:
    """Wait for the word to go; False if it does not come."""
    go = bytearray(1)
    return read_into(task.read, memoryview(go)) and go == GO


def _seal(task: ServeTask) -> None:
    """Nothing is loaded that was compiled by a process that had seen a target, and no time is lost on compiling for a
    few rows. The candidate's code is not there yet."""
    caches = Path(tempfile.mkdtemp(dir=Path.cwd()))  # empty, and of a name that nobody knew before
    os.environ |= compilers.variables(caches)
    size = bytearray(COUNT)
    read_into(task.read, memoryview(size))
    packed = bytearray(int.from_bytes(size, "little"))
    read_into(task.read, memoryview(packed))
    if packed:
        compilers.unpack(io.BytesIO(packed), caches)
    if task.device == "cuda":  # elsewhere it would import the compiler, for nothing
        torch.compiler.set_stance("force_eager")


def _built(task: ServeTask) -> nn.Module:
    module = _guarded(task, 1, lambda: sys.modules.get(candidate.NAME) or candidate.load(task.source))
    return _guarded(task, 2, lambda: candidate.build(module, torch.device(task.device)))


def _stored(task: ServeTask) -> dict[str, Tensor]:
    """The weights, on the device: no code of the candidate."""
    return _guarded(task, 3, lambda: load_file(task.weights, device=task.device))


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
        _guarded(task, 5, partial(batch.launch, answer, model, task))
        awake()
        if before:
            _guarded(task, 5, before.wait)
            before.write(task)
        before = batch
    if before:
        _guarded(task, 5, before.wait)
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
    if failure := _logits_failure(logits, (task.rows, task.context, task.vocab_size)):
        raise _Stop(failure)
    return logits


def _logits_failure(logits: object, shape: tuple[int, ...]) -> int | None:
    """What is wrong with logits that should have this shape [B, T, V], by its number in FAILURES; None: nothing."""
    if not isinstance(logits, Tensor) or logits.ndim != 3 or logits.shape[:2] != shape[:2]:
        return 6
    if logits.shape[2] != shape[2]:
        return 7
    return None if logits.is_floating_point() else 8


def _guarded(task: ServeTask, status: int, work: Callable[[], T]) -> T:
    """Run candidate code, or what uses the GPU; whatever it raises becomes a status, and its traceback goes to the log
    alone."""
    try:
        return work()
    except _Stop:
        raise
    except BaseException as error:
        line, lines = candidate.in_a_line(error), candidate.traceback_of(error, task.source)
        print(FAILED, line, lines, sep="\n", file=sys.stderr, flush=True)
        no_memory = isinstance(error, torch.OutOfMemoryError | MemoryError) or "CUDA error: out of memory" in line
        raise _Stop(_NO_MEMORY if no_memory else GPU_FAILED if HARDWARE.search(line) else status) from None
