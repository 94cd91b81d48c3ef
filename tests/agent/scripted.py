"""A model that says what it was given to say, and a desk that remembers what it was told."""

from collections.abc import Sequence

from autoresearch.agent.models import Completion
from autoresearch.records import Exchange, Message, Usage, Waiting


class Script:
    """Answers with texts, completions or exceptions in turn, and remembers what it was asked."""

    name = "script"

    def __init__(self, *replies: str | Completion | BaseException, price=None):
        self.replies = list(replies)
        self.price = price
        self.asked: list[tuple[Message, ...]] = []
        self.bounds: list[tuple[float | None, int | None]] = []

    def describe(self):
        return self.name

    def check(self):
        pass

    def complete(self, messages: Sequence[Message], until=None, room=None) -> Completion:
        self.asked.append(tuple(messages))
        self.bounds.append((until, room))
        reply = self.replies.pop(0)
        if isinstance(reply, BaseException):
            raise reply
        return Completion(reply, Usage(input_tokens=10, output_tokens=2)) if isinstance(reply, str) else reply


class Desk:
    """What it was told; `spent` sums the dollars of the calls, from what was spent before."""

    def __init__(self, spent: float = 0.0):
        self.exchanges: list[Exchange] = []
        self.waits: list[Waiting | None] = []
        self._before = spent

    def record(self, exchange: Exchange) -> None:
        self.exchanges.append(exchange)

    def spent(self) -> float:
        return self._before + sum(exchange.usage.usd or 0.0 for exchange in self.exchanges)

    def waiting(self, waiting: Waiting | None) -> None:
        self.waits.append(waiting)
