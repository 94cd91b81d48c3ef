"""A reply on its way. What a server sends is untrusted: the SDKs build their types from it without checking."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from autoresearch.agent.reply import MAX_REPLY
from autoresearch.records import Message, Usage

BYTES_PER_TOKEN = 2  # fewer than any text has: what nobody has counted is not underestimated
_MOST_TOKENS = 10**9  # no call has more: a larger number is none
_THOUGHT = ("<think>", "</think>")


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
        return bool(self.text or self.thought or self.usage.input_tokens)

    def estimate(self, messages: Sequence[Message]) -> Usage:
        """The usage of a reply that broke off, what is not known of it estimated upward."""
        asked = sum(len(message.content.encode(errors="replace")) for message in messages)
        said = self.thought + len(self.text.encode(errors="replace"))
        known = self.usage
        return replace(
            known,
            input_tokens=asked // BYTES_PER_TOKEN if known.input_tokens is None else known.input_tokens,
            output_tokens=max(known.output_tokens or 0, -(-said // BYTES_PER_TOKEN)),
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


def without_thought(reply: str) -> str:
    """A reply without the block of thinking that local servers leave at its beginning; some templates have the
    opening tag in the prompt."""
    opening, closing = _THOUGHT
    head, closed, rest = reply.partition(closing)
    opened = head.lstrip().startswith(opening)
    if closed and (opened or opening not in head):
        return rest.lstrip()
    return "" if opened else reply
