"""A reply on its way. What a server sends is untrusted: the SDKs build their types from it without checking."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from autoresearch.agent.models import BYTES_PER_TOKEN, estimate_tokens
from autoresearch.agent.reply import MAX_REPLY
from autoresearch.records import Message, Usage

_MOST_TOKENS = 10**9  # no call has more: a larger number is none


class TooLong(Exception):
    """The reply is longer than one can be."""


@dataclass
class Received:
    """What has come of a reply so far, thinking apart."""

    text: str = ""
    thought: int = 0  # bytes of thinking that were shown
    usage: Usage = field(default_factory=Usage)
    ended: Literal["whole", "cut", "refused"] | None = None  # None: there is more to come
    reason: str | None = None  # of a refusal, in the server's own words
    opened: bool = False  # the server has begun to stream: it charges the prompt, and thoughts it does not show

    def open(self, stream: object) -> None:
        """The server has accepted the call. What is no stream, such as a hotel's page of welcome, charges nothing."""
        self.opened = text(stream, "response", "headers", "content-type").startswith("text/event-stream")

    def say(self, text: str) -> None:
        """The next piece of the reply. TooLong if that is too much."""
        self.text += text
        if len(self.text) > MAX_REPLY:
            raise TooLong

    def think(self, text: str) -> None:
        """The next piece of thinking: counted, and dropped."""
        self.thought += len(text.encode(errors="replace"))

    @property
    def charged(self) -> bool:
        """Whether the provider has begun to count."""
        return bool(self.opened or self.text or self.thought or self.usage.input_tokens)

    def estimate(self, messages: Sequence[Message]) -> Usage:
        """The usage, what nobody has counted of it estimated upward. A count of output made in mid-stream is no last
        word."""
        asked, output = self.usage.input_tokens, self.usage.output_tokens
        if output is None or self.ended is None:
            said = self.thought + len(self.text.encode(errors="replace"))
            output = max(output or 0, -(-said // BYTES_PER_TOKEN))
        return replace(
            self.usage, input_tokens=estimate_tokens(messages) if asked is None else asked, output_tokens=output
        )


def dig(value: object, *path: str) -> object:
    """The value at the end of a path of attributes or keys; None where there is none."""
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)
    return value


def text(value: object, *path: str) -> str:
    """A string there, or an empty one."""
    found = dig(value, *path)
    return found if isinstance(found, str) else ""


def count(value: object, *path: str) -> int | None:
    """A number of tokens there, if it can be one."""
    found = dig(value, *path)
    return found if type(found) is int and 0 <= found <= _MOST_TOKENS else None
