"""Whose fault it was that a measurement came to nothing: the patch's, or the machine's, which does not count.

What a candidate says of its end is its own word, and a signal does not tell who sent it. So there are two kinds of
blame: certain, by what nvidia-smi says; and suspected, which is worth one more try and no more.
"""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from autoresearch import steady
from autoresearch.engine import gpus
from autoresearch.engine.site import Crash
from autoresearch.errors import DeadlinePassed, EngineError
from autoresearch.tasks import HARDWARE

_OTHERS = 2**30  # bytes in use on a GPU where nothing of ours runs, beyond which somebody else is there
_AT_WORK = 10  # percent of the time that a GPU was busy, from which on somebody is at work
_MOMENT = 1.0  # seconds over which a driver takes that average
_LOOK = 5.0  # seconds between looks at a GPU that is waited for
_RETURN = 600.0  # seconds that a driver or a GPU may be gone before a run gives up
_LEAVE = 600.0  # seconds that somebody's memory is waited for, where it was missing


@dataclass(frozen=True, slots=True)
class Blame:
    """What the machine did, in a line."""

    reason: str
    certain: bool = False
    crowded: bool = False  # memory was missing, and somebody else has some of it


def blame(crash: Crash, gpu: str | None) -> Blame | None:
    """What the machine had to do with a crash; None: nothing. gpu: the UUID of the one that was used."""
    reason = crash.fault.reason
    if gpu is not None:
        found = _look_at(gpu)
        if found.lost:
            return Blame(f"{reason}; {found.lost}", certain=True)
        if "out of GPU memory" in reason or "out of memory in scoring" in reason:
            return Blame(f"{reason}, while {found.others}", crowded=True) if found.others else None
        if HARDWARE.search(reason):
            return Blame(reason)
    return Blame(reason) if crash.suspected else None


def await_gpu(gpu: str | None, deadline: float | None, show: Callable[[str, str], None], crowded: bool = False) -> None:
    """Wait until the GPU is there and nobody else at work on it. Call when nothing of ours is.

    show: told of the phase `waiting` and of what is waited for. crowded: for a while, until nobody else has memory
    there either. DeadlinePassed at the deadline; EngineError if a driver does not come back.
    """
    began = there = time.monotonic()
    while gpu is not None:
        found, now = _look_at(gpu), time.monotonic()
        there = there if found.lost else now
        if now - there > _RETURN:
            raise EngineError(f"{found.lost}, for {_RETURN / 60:.0f} minutes.", "Mend the driver, and run again.")
        disturbs = found.others if (crowded and now - began < _LEAVE) or (found.others and _at_work(gpu)) else None
        reason = found.lost or disturbs
        if reason is None:
            return
        show("waiting", reason)
        if deadline is not None and steady.now() + _LOOK > deadline:
            raise DeadlinePassed(f"the run's time is up, and {reason}")
        time.sleep(_LOOK)


@dataclass(frozen=True, slots=True)
class _Sight:
    """A GPU where nothing of ours runs."""

    lost: str | None = None  # why it cannot be used at all
    others: str | None = None  # who else has its memory, in words


def _look_at(uuid: str) -> _Sight:
    try:
        gpu = next((gpu for gpu in gpus.all_gpus() if gpu.uuid == uuid), None)
        if gpu is None:
            return _Sight(lost=f"{uuid} is gone")
        used = 0 if gpu.memory is None or gpu.free is None else gpu.memory - gpu.free
        if used < _OTHERS:
            return _Sight()
        names = sorted({Path(process.name).name for process in gpus.gpu_processes() if process.gpu == uuid})
        return _Sight(others=f"{', '.join(names) or 'another process'} has {used / 2**30:.1f} GiB of the GPU")
    except EngineError as error:
        return _Sight(lost=error.message.rstrip("."))


def _at_work(uuid: str) -> bool:
    """Whether the GPU does something, at two looks: what has just ended is still in the first one's average. As if it
    did where there is no answer, which the next look at all tells more of."""
    with contextlib.suppress(EngineError):
        for wait in (0.0, _MOMENT):
            time.sleep(wait)
            if (gpus.utilization(uuid) or 0) < _AT_WORK:
                return False
    return True
