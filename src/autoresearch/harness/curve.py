"""The live curve: losses as the candidate reports them, written without ever making the device wait."""

import math
import time
from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor

from autoresearch.harness.candidate import Failure
from autoresearch.harness.files import Events

_INTERVAL = 0.2  # seconds between points written


class Curve:
    """Losses travel to the host behind the computation and are looked at once they have arrived."""

    def __init__(self, events: Events, peak_memory: Callable[[], int]) -> None:
        self._events = events
        self._peak_memory = peak_memory  # asked only when a point is written: on a GPU it takes its time
        self._pending: deque[tuple[dict[str, float | int], Tensor | float, torch.cuda.Event | None]] = deque()
        self._written = -math.inf
        self._unwritten: dict[str, float | int] | None = None
        self.last: float | None = None

    def add(self, loss: Tensor | float, **fields: float | int) -> None:
        """A reported loss, nats per token. Failure if one that has arrived is not finite."""
        event = None
        if isinstance(loss, Tensor):
            loss = loss.detach().mean()
            if loss.is_cuda:
                loss = loss.to("cpu", non_blocking=True)
                event = torch.cuda.Event()  # type: ignore[no-untyped-call]
                event.record()
        self._pending.append((fields, loss, event))
        self.drain(wait=False)

    def drain(self, wait: bool) -> None:
        """Take in the losses that have arrived; all of them if told to wait."""
        while self._pending:
            fields, loss, event = self._pending[0]
            if event is not None and not event.query():  # type: ignore[no-untyped-call]
                if not wait:
                    return
                event.synchronize()
            self._pending.popleft()
            self._take(float(loss), fields)
        if wait and self._unwritten is not None:
            self._write(self._unwritten)

    def _take(self, loss: float, fields: dict[str, float | int]) -> None:
        if not math.isfinite(loss):
            raise Failure(f"the loss is not finite at step {fields['step']}")
        self.last = loss
        point = {**fields, "loss": loss}
        if time.monotonic() - self._written >= _INTERVAL:
            self._write(point)
        else:
            self._unwritten = point

    def _write(self, point: dict[str, float | int]) -> None:
        self._events.write("point", **point, memory=self._peak_memory())
        self._written = time.monotonic()
        self._unwritten = None
