"""A call is bounded in time, whatever it hangs in."""

import asyncio
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from autoresearch.agent.providers import watched
from autoresearch.agent.providers.failures import LONGEST_REST, retry_after
from autoresearch.errors import AgentError
from tests.agent.provided import MESSAGES, model
from tests.llm_server import KEY, LLMServer


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


def test_a_name_lookup_that_hangs_does_not_keep_the_process_from_its_end() -> None:
    """Nor one that has a thread of the event loop's pool: the interpreter joins those before it exits."""
    program = """\
        import socket, threading, time
        from autoresearch.agent.providers import watched

        socket.getaddrinfo = lambda *_, **__: threading.Event().wait()
        try:
            watched.run(lambda http: http.get("http://nowhere.invalid/"), silence=60, until=time.time() + 0.5)
        except watched.OutOfTime as error:
            print(error.limit)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "deadline\n", "")


def test_what_a_lookup_raises_comes_through() -> None:
    def lookup() -> None:
        raise LookupError("no such name")

    with pytest.raises(LookupError, match="no such name"):
        watched.run(lambda http: asyncio.to_thread(lookup), silence=60)


@contextmanager
def redirecting(to: str) -> Iterator[str]:
    """The address of a server that sends everybody on, method and body and all."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(307)
            self.send_header("Location", to + self.path)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("provider", ["anthropic", "openai"])
def test_a_redirect_to_another_server_does_not_take_the_key_along(provider: str) -> None:
    """The SDKs send it as `Authorization`, which httpx2 drops; any other header would go along."""
    with ExitStack() as stack:
        other = stack.enter_context(LLMServer())
        first = stack.enter_context(redirecting(other.url))
        here = {name: url.replace(other.url, first) for name, url in other.environ().items() if "URL" in name}
        with pytest.raises(AgentError, match="401"):
            model(other, provider, **here).complete(MESSAGES)
        assert other.requests and not any(KEY in str(request.headers) for request in other.requests)


@pytest.mark.parametrize("said", [
    {"retry-after": "Fri, 31 Dec 9999 23:59:59 GMT"}, {"retry-after": "999999999"}, {"retry-after": "9" * 400},
    {"retry-after-ms": "999999999"},
])  # fmt: skip
def test_no_server_is_left_alone_for_ever(said: dict[str, str]) -> None:
    assert retry_after(said) == LONGEST_REST
