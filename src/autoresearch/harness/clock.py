"""The clock of one training: starts once, ends once, and is never far behind the device."""

import time
from collections import deque

import torch

_RUN_AHEAD = 2  # batches the host may queue before the device has done them
_PACES = 8  # batches by which the time of the next ones is judged


class Clock:
    """Training time in seconds. It ends when the budget or `max_steps` is spent.

    A GPU works behind the host's back: before each batch the host waits until the device has finished the one two
    batches ago, so the device never idles. The budget is spent once the batches that are queued will have spent it:
    training ends within one batch of it.
    """

    def __init__(self, budget: float, max_steps: int | None, device: torch.device) -> None:
        self._budget, self._max_steps, self._device = budget, max_steps, device
        self._fences: deque[torch.cuda.Event] = deque()
        self._passed = 0.0  # on the clock, when the device was last seen to finish a batch
        self._paces: deque[float] = deque(maxlen=_PACES)  # seconds from one such time to the next
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
        if self.ended or (self._max_steps is not None and steps >= self._max_steps):
            return True
        # By the shortest: one that was held up must not end the training early.
        queued = self._passed + len(self._fences) * min(self._paces, default=0.0)
        return max(self.elapsed, queued) >= self._budget

    def fence(self) -> None:
        """Call after each batch: keeps the host from running ahead."""
        if self._device.type == "cuda":
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record()
            self._fences.append(event)
            if len(self._fences) > _RUN_AHEAD:
                self._fences.popleft().synchronize()
                passed = self.elapsed
                self._paces.append(passed - self._passed)
                self._passed = passed
        elif self._device.type == "mps":
            torch.mps.synchronize()

    def _synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        elif self._device.type == "mps":
            torch.mps.synchronize()
