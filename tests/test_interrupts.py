"""Ctrl-C in the middle of a call to a server: never lost."""

import asyncio
import contextlib
import os
import signal
import weakref

import pytest

from autoresearch import interrupts
from autoresearch.agent.providers import watched

LONG = 10  # seconds: only a Ctrl-C that was lost takes them


def press() -> None:
    os.kill(os.getpid(), signal.SIGINT)


class Thing:
    """Something that a weak reference may point to."""


@pytest.fixture(autouse=True)
def handler():
    """The one that `main` sets; afterwards it is there again, and then what was before."""
    before, alarm = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGALRM)
    interrupts.listen(signal.SIGINT)
    signal.signal(signal.SIGALRM, alarm)  # it ends a test that hangs
    ours = signal.getsignal(signal.SIGINT)
    yield
    after = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, before)
    assert after is ours is not before


def interrupted(work) -> None:
    with pytest.raises(KeyboardInterrupt):
        watched.run(work, silence=60)


def test_in_a_callback_that_drops_what_is_raised() -> None:
    async def work(http) -> None:
        thing = Thing()
        kept = weakref.ref(thing, lambda _: press())
        del thing
        assert kept() is None
        await asyncio.sleep(LONG)

    interrupted(work)


def test_while_something_else_swallows_a_cancellation() -> None:
    late = []

    async def work(http) -> None:
        press()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(LONG)
        await asyncio.sleep(LONG)
        late.append("it went on")

    interrupted(work)
    assert not late


def test_a_call_that_ends_at_the_same_time() -> None:
    async def work(http) -> int:
        press()
        return 1

    interrupted(work)


def test_without_ctrl_c_nothing_changes() -> None:
    async def work(http) -> int:
        return 1

    assert watched.run(work, silence=60) == 1
