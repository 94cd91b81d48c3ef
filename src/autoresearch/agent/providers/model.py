"""What the providers' models share: key and base URL, bounds in time, what a call cost, how it failed."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import urlsplit

from autoresearch.agent import prices
from autoresearch.agent.models import Completion, Ended, Interrupted
from autoresearch.agent.providers import watched
from autoresearch.agent.providers.failures import Server
from autoresearch.agent.providers.received import Received, TooLong
from autoresearch.agent.providers.watched import OutOfTime
from autoresearch.agent.reply import clean, well_formed
from autoresearch.errors import AgentError, DeadlinePassed, ModelUnavailable
from autoresearch.records import Message
from autoresearch.units import format_duration

if TYPE_CHECKING:
    import httpx2

_LATE = "the run's time is up before its model had answered"
_CHECK = 30.0  # seconds of silence after which a look at a model is given up


class ProviderModel(ABC):
    """A ChatModel behind a provider's API, or behind a server that speaks the same language.

    A provider's file says what to look up at no cost (`_look`) and how to ask and read a stream (`_read`).
    """

    provider: ClassVar[str]  # as in --agent and in the table of prices
    title: ClassVar[str]
    default: ClassVar[str]  # the model, if none is named
    keys: ClassVar[tuple[str, ...]]  # variables that may hold the key; the first that does counts
    base_url: ClassVar[str]  # the variable

    def __init__(self, model: str, environ: Mapping[str, str], silence: float) -> None:
        self.model = model
        self.name = f"{self.provider}:{model}"
        self._environ = environ
        self._silence = silence  # seconds
        self._url = _url(self.base_url, environ)
        self._key_variable, self._key = self._find_key()
        name = f"The server at {_shown(self._url)}" if self._url else self.title
        self._server = Server(name, model, self._key, self._key_variable, self.base_url)
        self.price = prices.listed(self.provider, model, self._url)

    @classmethod
    def key_variable(cls, environ: Mapping[str, str]) -> str | None:
        """The first variable that holds a key; None if none does."""
        return next((name for name in cls.keys if environ.get(name, "").strip()), None)

    def describe(self) -> str:
        """Model, server and price in a few words."""
        where = _shown(self._url) if self._url else self.title
        return f"{self.model} at {where}, {prices.describe(self.price) if self.price else 'price not known'}"

    def check(self) -> None:
        """Look the model up. AgentError if the key is refused or the API has no such model; ModelUnavailable if
        there is no answer. A server that does not list its models says nothing."""
        expected = self._expected()
        try:
            watched.run(self._look, min(_CHECK, self._silence))
        except OutOfTime:
            raise ModelUnavailable(f"{self._server.name} does not answer.") from None
        except expected as error:
            failure = self._server.failure(error)
            status = getattr(error, "status_code", None)
            if status == 401 or isinstance(failure, ModelUnavailable) or self._server.unknown(error):
                raise failure from None

    def complete(self, messages: Sequence[Message], until: float | None = None, room: int | None = None) -> Completion:
        """The model's reply. As `ChatModel.complete`; what broke off after the provider began to count is a broken
        completion, or a late one at `until`."""
        received, expected, late = Received(), self._expected(), False
        try:
            watched.run(partial(self._read, messages=messages, room=room, received=received), self._silence, until)
            problem = ModelUnavailable(f"{self._server.name} ended the stream before the reply.")
        except KeyboardInterrupt:
            if not received.charged:
                raise
            raise Interrupted(self._completion(received, messages, "broken", "interrupted")) from None
        except TooLong:
            return self._completion(received, messages, "cut")
        except OutOfTime as error:
            late = error.limit == "deadline"
            problem = ModelUnavailable(self._overdue(error))
        except expected as error:
            failure = self._server.failure(error)
            if not isinstance(failure, ModelUnavailable):
                raise failure from None
            problem = failure
            received.opened &= not getattr(error, "body", None)  # a server that says so itself has done nothing yet
        if received.ended is not None:
            reason = clean(received.reason, 200) if received.reason else None
            return self._completion(received, messages, received.ended, reason)
        if late and received.charged:
            return self._completion(received, messages, "late", _LATE)
        if late:
            raise DeadlinePassed(_LATE)
        if received.charged:
            return self._completion(received, messages, "broken", str(problem), problem.retry_after)
        raise problem

    def _completion(
        self,
        received: Received,
        messages: Sequence[Message],
        ended: Ended,
        reason: str | None = None,
        retry_after: float | None = None,
    ) -> Completion:
        reply = self._reply(well_formed(received.text))
        return Completion(reply, received.usage, ended, reason, retry_after, received.estimate(messages))

    def _reply(self, text: str) -> str:
        """The reply in what a server sent as such."""
        return text

    @abstractmethod
    async def _look(self, http: "httpx2.AsyncClient") -> None:
        """Ask, at no cost, whether the key and the model are good."""

    @abstractmethod
    async def _read(
        self, http: "httpx2.AsyncClient", messages: Sequence[Message], room: int | None, received: Received
    ) -> None:
        """Ask, and put what the stream brings into `received`."""

    @abstractmethod
    def _errors(self) -> type[Exception]:
        """The SDK's own."""

    def _expected(self) -> tuple[type[Exception], ...]:
        """What a call may raise whatever the server does: its JSON may be none, or nested too deep."""
        import httpx2

        return (self._errors(), httpx2.HTTPError, ValueError, RecursionError)

    def _find_key(self) -> tuple[str, str]:
        """The variable with the key, and the key; empty for a server of one's own that needs none."""
        variable = self.key_variable(self._environ) or self.keys[0]
        key = self._environ.get(variable, "").strip()
        if not key and not self._url:
            raise AgentError(
                f"{self.name} needs a key, and {variable} is not set.",
                f"Set it, or {self.base_url} for a server of your own.",
            )
        if not (key.isascii() and key.isprintable() and " " not in key):  # no HTTP header may hold it
            raise AgentError(f"What is in {variable} is no key.", "Set it to the key alone, without quotes or spaces.")
        return variable, key

    def _overdue(self, error: OutOfTime) -> str:
        name = self._server.name
        if error.limit == "length":
            return f"{name} had not come to an end after {format_duration(watched.LONGEST_CALL)}."
        return f"{name} was silent for {format_duration(self._silence)}."


def _url(variable: str, environ: Mapping[str, str]) -> str | None:
    url = environ.get(variable, "").strip()
    if not url:
        return None
    try:
        parts = urlsplit(url)
        good = (
            parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0 and url.isprintable()
        )
    except ValueError:
        good = False
    if not good:
        raise AgentError(f"{variable} is not a base URL.", "Write, for example, http://localhost:8000.")
    return url


def _shown(url: str) -> str:
    """A URL without what is secret in it."""
    parts = urlsplit(url)
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname}{port}{parts.path.rstrip('/')}"
