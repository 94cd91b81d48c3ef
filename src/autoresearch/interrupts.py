"""Ctrl-C that is heard wherever it comes."""

import signal
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_DEAF = {"__del__", "cb"}  # destructors, and the callback of an import's lock: what is raised there is dropped
_FINALIZER = weakref.finalize.__call__.__code__  # and there


def listen(*numbers: int) -> None:
    """Let these signals raise KeyboardInterrupt, a moment later where it would be dropped; ignored ones stay so."""
    signal.signal(signal.SIGALRM, _interrupt)
    for number in numbers:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)


def ignore() -> None:
    """Hear none of them any more."""
    signal.setitimer(signal.ITIMER_REAL, 0)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, signal.SIG_IGN)


def _interrupt(_: int, frame: FrameType | None) -> None:
    while frame:
        if frame.f_code.co_name in _DEAF or frame.f_code is _FINALIZER:
            signal.setitimer(signal.ITIMER_REAL, 0.02)
            return
        frame = frame.f_back
    raise KeyboardInterrupt


@contextmanager
def held(act: Callable[[], object]) -> Iterator[None]:
    """Let the signals that interrupt call `act`, and raise KeyboardInterrupt only at the end: for an event loop, where
    an exception out of nowhere is dropped by a callback or wrapped by a library. `act` may be called at any point."""
    heard = False

    def hear(_: int, frame: FrameType | None) -> None:
        nonlocal heard
        heard = True
        act()

    ours = (_interrupt, signal.default_int_handler)
    main = threading.current_thread() is threading.main_thread()  # no other may set what a signal does
    numbers = [number for number in signal.valid_signals() if main and signal.getsignal(number) in ours]
    before: dict[int, signal.Handlers | Callable[[int, FrameType | None], object] | int | None] = {}
    try:
        for number in numbers:
            before[number] = signal.getsignal(number)
            signal.signal(number, hear)
        yield
    finally:
        for changed, handler in before.items():
            signal.signal(changed, handler)
        if heard:
            raise KeyboardInterrupt
