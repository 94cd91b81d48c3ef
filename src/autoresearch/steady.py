"""The time by which deadlines are kept: the system's clock as this process began, and steady from there on.

So a clock that is set, or that jumps, makes no night shorter or longer. Sleep counts, where the system tells of it.
"""

import time

_COUNTS_SLEEP = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
_BEGAN = time.time() - time.clock_gettime(_COUNTS_SLEEP)


def now() -> float:
    """Seconds since the epoch, for this process alone: not to be recorded, nor compared with another's."""
    return _BEGAN + time.clock_gettime(_COUNTS_SLEEP)
