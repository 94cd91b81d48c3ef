"""A call to a server, bounded in time: wherever it hangs, in a name lookup, an SDK's sleep or between two bytes."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Literal, ParamSpec, TypeVar

from autoresearch import interrupts, steady
from autoresearch.agent.providers.failures import retry_after

if TYPE_CHECKING:
    import httpx2

T = TypeVar("T")
P = ParamSpec("P")
Limit = Literal["silence", "length", "deadline"]

LONGEST_CALL = 1800.0  # seconds
CONNECT = 10.0  # seconds
PATIENCE = 8.0  # seconds that an SDK may sleep before it asks again: longer ones are the caller's, who says so
MAX_BYTES = 2**26  # that one response may have


class OutOfTime(Exception):
    """The call was ended: at too long a silence, at its longest length, or at the deadline that was given."""

    def __init__(self, limit: Limit) -> None:
        super().__init__(limit)
        self.limit = limit


def run(work: Callable[["httpx2.AsyncClient"], Awaitable[T]], silence: float, until: float | None = None) -> T:
    """What `work` returns, given an HTTP client. OutOfTime after `silence` seconds without a byte from the server,
    after half an hour, or at `until` (steady.now()). KeyboardInterrupt ends it at once."""
    tasks: list[asyncio.Task[object]] = []
    stopped = False

    def stop() -> None:
        nonlocal stopped
        stopped = True
        for task in tasks:
            with contextlib.suppress(RuntimeError):  # its loop has just ended
                task.get_loop().call_soon_threadsafe(_insist, task)

    async def begin() -> T:
        task = asyncio.current_task()
        assert task
        tasks.append(task)
        if stopped:
            raise asyncio.CancelledError
        task.get_loop().set_default_executor(_Lookups())
        return await _bounded(work, silence, until)

    with interrupts.held(stop):
        return asyncio.run(begin())


class _Lookups(ThreadPoolExecutor):
    """Where names are looked up: a lookup that hangs is left to itself, since it cannot be ended.

    An event loop takes nothing but a pool; but the interpreter waits at its exit for the threads of a pool, and not
    for daemon threads of our own."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """In a thread of its own."""
        future: Future[T] = Future()

        def work() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(fn(*args, **kwargs))
                except BaseException as error:
                    future.set_exception(error)

        threading.Thread(target=work, daemon=True).start()
        return future


def _insist(task: "asyncio.Task[object]") -> None:
    """Cancel a task until it ends: what comes together with a library's own cancellation is lost in it."""
    if not task.done():
        task.cancel()
        task.get_loop().call_later(0.1, _insist, task)


async def _bounded(work: Callable[["httpx2.AsyncClient"], Awaitable[T]], silence: float, until: float | None) -> T:
    clock = asyncio.get_running_loop().time
    begun = clock()
    ends: dict[Limit, float] = {}

    def alive(heard: float = silence) -> None:
        """Set anew when the call ends, on the loop's clock. The deadline is on the wall's, which no sleep stops."""
        deadline = float("inf") if until is None else clock() + until - steady.now()
        ends.update({"silence": clock() + heard, "length": begun + LONGEST_CALL, "deadline": deadline})
        bound.reschedule(min(ends.values()))

    try:
        async with asyncio.timeout(None) as bound:
            alive(float("inf"))  # silence is that of a server that was asked
            async with _client(alive) as http:
                return await work(http)
    except TimeoutError:
        if not bound.expired():
            raise
        raise OutOfTime(min(ends, key=lambda limit: ends[limit])) from None


def _client(alive: Callable[[], None]) -> "httpx2.AsyncClient":
    import httpx2

    class Heard(httpx2.AsyncByteStream):
        """A response's bytes, each of them a sign of life, and not without end."""

        def __init__(self, stream: httpx2.AsyncByteStream) -> None:
            self._stream = stream

        async def __aiter__(self) -> AsyncIterator[bytes]:
            size = 0
            async for chunk in self._stream:
                alive()
                size += len(chunk)
                if size > MAX_BYTES:
                    raise httpx2.RemoteProtocolError(f"the response is longer than {MAX_BYTES:,} bytes")
                yield chunk

        async def aclose(self) -> None:
            await self._stream.aclose()

    async def asked(_: httpx2.Request) -> None:
        alive()

    async def heard(response: httpx2.Response) -> None:
        alive()
        if (retry_after(response.headers) or 0.0) > PATIENCE:
            response.headers["x-should-retry"] = "false"  # both SDKs obey it; they would sleep without a word
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        response.stream = Heard(response.stream)

    return httpx2.AsyncClient(
        timeout=httpx2.Timeout(LONGEST_CALL, connect=CONNECT),
        follow_redirects=True,
        event_hooks={"request": [asked], "response": [heard]},
    )
