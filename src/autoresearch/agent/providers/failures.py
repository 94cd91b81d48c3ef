"""What went wrong with a call, in one line: to be asked again, or for a person to put right."""

import email.utils
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass

from autoresearch.agent.providers.received import dig, text
from autoresearch.agent.reply import clean
from autoresearch.errors import AgentError, ModelUnavailable

_LONGEST = 300  # characters of a server's own words
LONGEST_REST = 6 * 3600.0  # seconds that a server may ask for: asked again then, whoever it is comes to no harm
_TRANSIENT = {408, 409, 425, 429}
_STATUS = {  # of errors within a stream, which have none of their own
    "invalid_request_error": 400, "authentication_error": 401, "billing_error": 402, "permission_error": 403,
    "not_found_error": 404, "request_too_large": 413, "rate_limit_error": 429, "api_error": 500, "server_error": 500,
    "timeout_error": 504, "overloaded_error": 529,
}  # fmt: skip
_NO_CREDIT = {
    "insufficient_quota", "billing_error", "billing_hard_limit_reached", "contract_spend_limit_reached",
    "enforced_spend_limit_reached",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Server:
    """Whom a model asks, and by what names a message calls all that."""

    name: str  # Anthropic; the server at http://localhost:8000
    model: str
    key: str
    key_variable: str
    url_variable: str

    def quoted(self, words: str) -> str:
        """A server's own words, safe to show: short, one line, and without the key."""
        said = clean(words.replace(self.key, "(key)") if self.key else words, _LONGEST).rstrip(".")
        return f': "{said}"' if said else ""

    def failure(self, error: Exception) -> AgentError:
        """What an SDK raised, as ModelUnavailable if asking again may help."""
        status, words = _status(error), _words(error)
        said = (f" ({status})" if status else "") + self.quoted(words)
        if status == 402 or _kinds(error) & _NO_CREDIT or "credit balance is too low" in words:
            return AgentError(f"{self.name} wants to be paid{said}.", "Add credit, then start again.")
        if status in (401, 403):
            return AgentError(f"{self.name} refuses the key in {self.key_variable}{said}.", "Set the right one.")
        if status == 404:
            return AgentError(
                f"{self.name} does not find the model {self.model!r}{said}.",
                f"Check its name, and {self.url_variable} if you have set it.",
            )
        if status and 400 <= status < 500 and status not in _TRANSIENT:
            return AgentError(f"{self.name} does not take the request{said}.", "Choose another model, or start again.")
        after = retry_after(getattr(getattr(error, "response", None), "headers", {}))
        return ModelUnavailable(f"{self.name} {_trouble(error, status)}{said}.", retry_after=after)

    def unknown(self, error: Exception) -> bool:
        """Whether the API itself says that there is no such model: a gateway's 404 may only mean that it does not list
        its models."""
        words = text(_body(error), "message")
        return _status(error) == 404 and self.model in words and "/models" not in words


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to leave the server alone, from `retry-after-ms` or `Retry-After` (seconds or a date); six hours at
    most."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        said = headers.get(name, "").strip()
        if re.fullmatch(r"[0-9]+(\.[0-9]*)?", said):
            return min(float(said) / unit, LONGEST_REST)
    try:
        date = email.utils.parsedate_to_datetime(headers.get("retry-after", ""))
        return min(max(0.0, date.timestamp() - time.time()), LONGEST_REST)
    except (ValueError, OverflowError):
        return None


def _body(error: Exception) -> object:
    """The object that tells of the error, with or without one round it."""
    body = getattr(error, "body", None)
    return dig(body, "error") or body


def _kinds(error: Exception) -> set[str]:
    body = _body(error)
    return {text(body, "details", "error_code"), text(body, "code"), text(body, "type")}


def _trouble(error: Exception, status: int | None) -> str:
    import httpx2

    if status:
        return "limits the rate of calls" if status == 429 else "is out of order"
    causes = (error, error.__cause__)
    if any(isinstance(cause, (httpx2.ConnectError, httpx2.ConnectTimeout)) for cause in causes):
        return "cannot be reached"
    if any(isinstance(cause, httpx2.TransportError) for cause in causes):
        return "broke off the connection"
    return "sent what is no reply"


def _status(error: Exception) -> int | None:
    """The HTTP status, or what it would have been had the error come before the stream; None: there is none."""
    status = getattr(error, "status_code", None)
    if isinstance(status, int) and status >= 400:
        return status
    body = _body(error)
    code = str(dig(body, "code"))
    if re.fullmatch("[45][0-9][0-9]", code):
        return int(code)
    return _STATUS.get(text(body, "type"), 500 if isinstance(body, Mapping) else None)


def _words(error: Exception) -> str:
    """The server's own words, or else the reason why there are none."""
    body = _body(error)
    words = text(body, "message") or text(body, "detail") or (body if isinstance(body, str) else "")
    if words.lstrip().startswith("<"):  # a page for a browser
        return ""
    return words or ("" if body else str(error.__cause__ or error))
