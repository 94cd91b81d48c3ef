"""A local HTTP server that speaks the Anthropic Messages API and the OpenAI Chat Completions API.

It checks what the real ones check (key, model, fields) and answers as JSON or as a stream, as the request says. What
it answers is queued by a test; how it fails, too: statuses, connections cut in mid-stream, silence, nonsense, and a
port that nobody listens on. The shapes are those of the SDKs' own types, which `test_llm_server.py` holds it to.
"""

import contextlib
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from typing import Any, Literal

from tests.llm_dialects import DIALECTS, Dialect, Model, Refused

KEY = "sk-test-0123456789abcdef"  # what it takes for the right one


# ---------------------------------------------------------------------------------------------- what it may answer


@dataclass(frozen=True)
class Say:
    """A reply and its tokens: `cached` and `written` are parts of `input`, the whole prompt. None: no usage is told."""

    text: str
    thinking: str = ""
    stop: Literal["end", "cut", "refused"] = "end"
    input: int | None = 1000
    cached: int = 0
    written: int = 0
    output: int = 100
    pace: float = 0.0  # seconds between two events of a stream


@dataclass(frozen=True)
class Fail:
    """An error in the provider's form."""

    status: int
    message: str = "it went wrong"
    headers: dict[str, str] = field(default_factory=dict)
    code: str | None = None


@dataclass(frozen=True)
class Cut:
    """A stream that begins with some text and breaks: a reset, or an error where the next piece should come."""

    text: str
    error: str | None = None
    input: int = 1000


@dataclass(frozen=True)
class Stall:
    """Silence, at once or after the beginning of a stream; at its end the connection is closed."""

    seconds: float
    text: str | None = None


@dataclass(frozen=True)
class Garbage:
    """Status 200 and what no API says."""

    body: str = "<html>Welcome to the airport Wi-Fi</html>"
    type: str = "text/html"


Turn = Say | Fail | Cut | Stall | Garbage


@dataclass(frozen=True)
class Request:
    """What the server was asked. `turn`: what it answered to a generation call that it did not refuse."""

    method: str
    path: str
    headers: dict[str, str]  # names in lower case
    body: Any
    time: float  # time.monotonic()
    turn: Turn | None = None

    @property
    def generates(self) -> bool:
        return self.method == "POST"


MODELS = (
    Model("claude-haiku-4-5", thinking="enabled"),
    Model("claude-opus-5", thinking="adaptive"),
    Model("claude-3-haiku-20240307", max_tokens=4096),
    Model("gpt-5.1", thinking="enabled", max_tokens=128_000),
    Model("gpt-4o", max_tokens=16_384),
    Model("nobody-knows-my-price"),
)


class LLMServer:
    """Listens on a port of its own from `with` on, and keeps the port through `down` and `up`."""

    def __init__(self) -> None:
        self.models = {model.id: model for model in MODELS}
        self.key = KEY
        self.requests: list[Request] = []
        self.default: Turn | Callable[[Request], Turn] | None = None  # the answer when the queue is empty
        self.trouble: Fail | Stall | None = None  # while it is set, the answer to everything
        self.closing = threading.Event()
        self._queue: list[Turn] = []
        self._lock = threading.Lock()
        self._listener: _Listener | None = None
        self._guard = socket.socket()  # bound and never listening: nobody else gets the port while the server is down
        self._guard.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._guard.bind(("127.0.0.1", 0))

    @property
    def url(self) -> str:
        """The base, without /v1."""
        return f"http://127.0.0.1:{self._guard.getsockname()[1]}"

    def environ(self) -> dict[str, str]:
        """The variables that send both providers' models here."""
        return {
            "ANTHROPIC_BASE_URL": self.url,
            "ANTHROPIC_API_KEY": self.key,
            "OPENAI_BASE_URL": f"{self.url}/v1",
            "OPENAI_API_KEY": self.key,
        }

    def say(self, *turns: Turn) -> None:
        """Queue answers to generation calls."""
        with self._lock:
            self._queue.extend(turns)

    @property
    def asked(self) -> list[Request]:
        """The generation calls, in order."""
        return [request for request in self.requests if request.generates]

    @property
    def unsaid(self) -> int:
        """Turns that nobody has asked for yet."""
        return len(self._queue)

    def down(self) -> None:
        """Connections are refused, and those there are end."""
        if self._listener:
            self._listener.stop()
            self._listener = None

    def up(self) -> None:
        """Listen (again)."""
        if self._listener is None:
            self._listener = _Listener(self, self._guard.getsockname())

    def __enter__(self) -> "LLMServer":
        self.up()
        return self

    def __exit__(self, *error: object) -> None:
        self.closing.set()
        self.down()
        self._guard.close()

    def note(self, request: Request) -> None:
        with self._lock:
            self.requests.append(request)

    def answer(self, request: Request) -> Turn:
        """The next turn."""
        with self._lock:
            if self._queue:
                return self._queue.pop(0)
        default = self.default(request) if callable(self.default) else self.default
        return default or Fail(400, "the test has nothing more to say")


class _Listener(ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 32

    def __init__(self, owner: LLMServer, address: tuple[str, int]) -> None:
        self.owner = owner
        self.stopping = threading.Event()
        self.reset: set[socket.socket] = set()
        self._open: set[socket.socket] = set()
        super().__init__(address, _Handler)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self.stopping.set()
        self.shutdown()
        self._thread.join()
        self.server_close()
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        if request in self.reset:
            self.reset.discard(request)
            self.close_request(request)  # with nothing to linger for: a reset
        else:
            super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone away is not worth a traceback."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Listener

    def do_GET(self) -> None:
        self._handle()

    def do_POST(self) -> None:
        self._handle()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is printed."""

    def _handle(self) -> None:
        owner = self.server.owner
        headers = {name.lower(): value for name, value in self.headers.items()}
        path = self.path.partition("?")[0]
        dialect = DIALECTS["anthropic" if path == "/v1/messages" or "anthropic-version" in headers else "openai"]
        raw = self.rfile.read(int(headers.get("content-length", 0)))
        body: Any = None
        with contextlib.suppress(ValueError):
            body = json.loads(raw)
        request = Request(self.command, path, headers, body, time.monotonic())
        if owner.trouble:
            owner.note(request)
            self._give(dialect, request, owner.trouble)
            return
        try:
            dialect.check_key(headers, owner.key)
            if self.command == "GET":
                owner.note(request)
                self._json(200, dialect.catalogue(path, owner.models))
                return
            dialect.check(path, body, owner.models)
        except Refused as refused:
            owner.note(request)
            self._json(refused.status, dialect.error(refused.status, refused.message, refused.code))
            return
        turn = owner.answer(request)
        owner.note(Request(**{**vars(request), "turn": turn}))
        self._give(dialect, request, turn)

    def _give(self, dialect: Dialect, request: Request, turn: Turn) -> None:
        match turn:
            case Say():
                reply = dialect.reply(turn, request.body)
                if request.body.get("stream"):
                    self._stream(dialect.events(reply, request.body), turn.pace)
                else:
                    self._json(200, reply)
            case Fail(status, message, headers, code):
                self._json(status, dialect.error(status, message, code), headers)
            case Cut(text, error, input):
                reply = dialect.reply(Say(text, input=input), request.body)
                events = dialect.beginning(dialect.events(reply, request.body))
                if error:
                    self._stream([*events, dialect.stream_error(error)])
                else:
                    self._stream(events, ended=False)
                    self._reset()
            case Stall(seconds, text):
                if text is not None:
                    reply = dialect.reply(Say(text), request.body)
                    self._stream(dialect.beginning(dialect.events(reply, request.body)), ended=False)
                self._silence(seconds)
                self.close_connection = True
            case Garbage(body, type):
                self._send(200, body.encode(), type)

    def _silence(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until and not (self.server.stopping.is_set() or self.server.owner.closing.is_set()):
            time.sleep(0.01)

    def _json(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        self._send(status, json.dumps(body).encode(), "application/json", headers)

    def _send(self, status: int, body: bytes, type: str, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": type, "Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _stream(self, events: Iterator[str] | list[str], pace: float = 0.0, ended: bool = True) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for event in events:
            data = event.encode()
            self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
            self.wfile.flush()
            if pace:
                self._silence(pace)
        if ended:
            self.wfile.write(b"0\r\n\r\n")

    def _reset(self) -> None:
        """End the connection with a reset instead of an orderly close."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.server.reset.add(self.connection)
        self.close_connection = True
