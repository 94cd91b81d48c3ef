"""One measurement at a time on a device: two that shared it would each slow the other, and neither would know."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from autoresearch import steady
from autoresearch.errors import DeadlinePassed, EngineError
from autoresearch.records import Progress

_LOOK = 0.5  # seconds between words that it is still waiting


@contextmanager
def turn(lock: Path, deadline: float | None, watch: Callable[[Progress], None]) -> Iterator[None]:
    """Hold the lock's file, which no other process then can; it is free again when this process ends, however it ends.

    deadline: steady.now() until which to wait; DeadlinePassed after it. `watch` is told twice a second of the waiting.
    EngineError if the file cannot be made.
    """
    began = time.monotonic()
    held = FileLock(lock)
    while True:
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            held.acquire(timeout=_LOOK)
            break
        except Timeout:
            if deadline is not None and steady.now() > deadline:
                raise DeadlinePassed("the run's time is up before the device was free") from None
            watch(Progress(phase="waiting", seconds=time.monotonic() - began))
        except (OSError, NotImplementedError) as error:  # the second: a filesystem without locks
            raise EngineError(
                f"{lock.parent} cannot be written: {error}.", "Set AUTORESEARCH_CACHE to a folder that can."
            ) from error
    try:
        yield
    finally:
        held.release()
