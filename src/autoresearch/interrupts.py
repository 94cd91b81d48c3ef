"""Ctrl-C that is heard wherever it comes."""

import signal
from types import FrameType

_DEAF = {"__del__", "cb"}  # destructors, and the callback of an import's lock: what is raised there is dropped


def listen(*numbers: int) -> None:
    """Let these signals raise KeyboardInterrupt, a moment later where it would be dropped; ignored ones stay so."""
    signal.signal(signal.SIGALRM, _interrupt)
    for number in numbers:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)


def _interrupt(_: int, frame: FrameType | None) -> None:
    while frame:
        if frame.f_code.co_name in _DEAF:
            signal.setitimer(signal.ITIMER_REAL, 0.02)
            return
        frame = frame.f_back
    raise KeyboardInterrupt
