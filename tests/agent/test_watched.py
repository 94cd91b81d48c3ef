"""A call is bounded in time, whatever it hangs in."""

import asyncio
import threading
import time

import pytest

from autoresearch.agent.providers import watched


def test_a_name_lookup_that_hangs_does_not_outlast_the_deadline() -> None:
    """It runs in a thread, as the event loop's own lookups do, and no thread can be ended."""
    gate, late = threading.Event(), []

    def lookup() -> None:
        gate.wait(20)
        late.append("it was waited for")

    with pytest.raises(watched.OutOfTime) as out:
        watched.run(lambda http: asyncio.to_thread(lookup), silence=60, until=time.time() + 0.1)
    assert out.value.limit == "deadline" and not late
    gate.set()
