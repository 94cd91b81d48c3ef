"""The clock of one training: starts once, ends once, and is never far behind the device."""

import time
from collections import deque

import torch

_RUN_AHEAD = 2  # batches the host may queue before the device has done them


class Clock:
    """Training time in seconds. It ends when the budget or `max_steps` is spent.

    A GPU works behind the host's back: before each batch the host waits until the device has finished the one two
    batches ago, so the time read is never more than two steps early, and the device never idles.
    """

    def __init__(self, budget: float, max_steps: int | None, device: torch.device) -> None:
        self._budget, self._max_steps, self._device = budget, max_steps, device
        self._fences: deque[torch.cuda.Event] = deque()
        self._start: float | None = None
        self._end: float | None = None

    @property
    def started(self) -> bool:
        return self._start is not None

    @property
    def ended(self) -> bool:
        return self._end is not None

    @property
    def elapsed(self) -> float:
        """Seconds on the clock by now, or in all once it has ended."""
        if self._start is None:
            return 0.0
        return (time.perf_counter() if self._end is None else self._end) - self._start

    def start(self) -> None:
        self._synchronize()
        self._start = time.perf_counter()

    def end(self) -> None:
        self._synchronize()
        if self._start is not None and self._end is None:
            self._end = time.perf_counter()

    def late(self) -> float:
        """Seconds since the end, once the device has done all that was asked of it."""
        self._synchronize()
        return 0.0 if self._end is None else time.perf_counter() - self._end

    def progress(self, steps: int) -> float:
        """0 to 1: the share of the budget spent, in time or in steps, whichever is more."""
        if self.ended:
            return 1.0
        share = steps / self._max_steps if self._max_steps else 0.0
        return min(1.0, max(self.elapsed / self._budget, share))

    def spent(self, steps: int) -> bool:
        return self.ended or self.elapsed >= self._budget or (self._max_steps is not None and steps >= self._max_steps)

    def fence(self) -> None:
        """Call after each batch: keeps the host from running ahead."""
        if self._device.type == "cuda":
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record()
            self._fences.append(event)
            if len(self._fences) > _RUN_AHEAD:
                self._fences.popleft().synchronize()
        elif self._device.type == "mps":
            torch.mps.synchronize()

    def _synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        elif self._device.type == "mps":
            torch.mps.synchronize()
