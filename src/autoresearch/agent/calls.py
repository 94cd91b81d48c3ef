"""Asking a model until it answers: each call is noted and charged, and none is made past the budget or the deadline.

A provider is out for minutes, a rate limit holds for hours, a laptop loses its network: none of it ends a night. The
wait before the next call doubles from about a second up to `longest`, unless the server names a longer one.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from autoresearch import steady
from autoresearch.agent.models import ChatModel, Completion, Interrupted, estimate_tokens
from autoresearch.agent.prices import Price
from autoresearch.errors import DeadlinePassed, LimitReached, ModelUnavailable
from autoresearch.records import Exchange, Message, Usage, Waiting

LONGEST_WAIT = 600.0  # seconds
SILENCE = 600.0  # seconds
DOUBLINGS = 9  # from the first wait to the longest
LEAST_REPLY = 4_000  # tokens: with less room than this a reply would be cut off, and its price wasted


class Desk(Protocol):
    """Where calls are noted: the run's side of the conversation."""

    def record(self, exchange: Exchange) -> None:
        """Note a call, and so charge it."""

    def spent(self) -> float:
        """US dollars that the run has spent on models so far."""

    def waiting(self, waiting: Waiting | None) -> None:
        """Tell those who look on what is waited for; None: it is over."""


@dataclass(frozen=True, slots=True)
class Terms:
    """On what terms a model may be asked."""

    max_cost: float | None = None  # US dollars for the whole run
    price: Price | None = None  # in place of the model's list price
    longest_wait: float = LONGEST_WAIT  # seconds between two calls
    silence: float = SILENCE  # seconds without a sign of life after which a call is given up


class Caller:
    """Asks one model, on the terms given. LimitReached at the deadline or when the budget is spent."""

    def __init__(
        self, model: ChatModel, desk: Desk, terms: Terms | None = None, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self.name = model.name
        self._model = model
        self._desk = desk
        self._terms = terms or Terms()
        self._price = self._terms.price or model.price
        self._sleep = sleep

    def ask(self, messages: Sequence[Message], until: float | None = None) -> Completion:
        """The model's answer: whole, cut or refused. `until`: steady.now() at which it is too late. AgentError if
        asking again cannot help."""
        wait = self._terms.longest_wait / 2**DOUBLINGS
        while True:
            completion = self._call(messages, until)
            if completion.ended == "late":
                raise DeadlinePassed(completion.reason or "the run's time is up")
            if completion.ended != "broken":
                return completion
            self._wait(completion, max(wait, completion.retry_after or 0.0), until)
            wait = min(2 * wait, self._terms.longest_wait)

    def _call(self, messages: Sequence[Message], until: float | None) -> Completion:
        room = self._room(messages)
        start = time.monotonic()
        try:
            completion = self._model.complete(messages, until, room)
        except ModelUnavailable as error:
            completion = Completion("", Usage(), "broken", str(error), error.retry_after)
        except Interrupted as interrupted:
            self._note(messages, interrupted.completion, time.monotonic() - start)
            raise
        self._note(messages, completion, time.monotonic() - start)
        return completion

    def _note(self, messages: Sequence[Message], completion: Completion, seconds: float) -> None:
        failed = completion.ended in ("broken", "late")
        error = (completion.reason or "the reply broke off") if failed else None
        usage = self._priced(completion)
        self._desk.record(Exchange(self.name, tuple(messages), completion.text, usage, seconds, error))

    def _priced(self, completion: Completion) -> Usage:
        """What is charged. Without a price an estimate would serve nobody: what is not counted stays unknown."""
        if self._price is None:
            return completion.usage
        usage = completion.estimate or completion.usage
        known = usage.input_tokens is not None or usage.output_tokens is not None
        return replace(usage, usd=self._price.cost(usage)) if known else usage

    def _wait(self, broken: Completion, seconds: float, until: float | None) -> None:
        reason = broken.reason or "The reply broke off."
        if until is not None and steady.now() + seconds >= until:
            raise DeadlinePassed(f"the model does not answer, and the time left is too short to ask again: {reason}")
        self._desk.waiting(Waiting(reason, time.time() + seconds))
        try:
            self._sleep(seconds)
        finally:
            self._desk.waiting(None)

    def _room(self, messages: Sequence[Message]) -> int | None:
        """Output tokens that the rest of the budget pays for, after the prompt; None: as many as there are."""
        if self._terms.max_cost is None or (price := self._price) is None:
            return None
        spent = self._desk.spent()
        prompt = estimate_tokens(messages)
        asked = Usage(input_tokens=prompt, cached_tokens=0, written_tokens=prompt, output_tokens=0)
        fixed = price.cost(asked)
        least = price.cost(replace(asked, output_tokens=LEAST_REPLY))
        if spent + least > self._terms.max_cost:
            raise LimitReached(
                f"${spent:.2f} of ${self._terms.max_cost:.2f} are spent, and one more call may cost ${least:.2f}"
            )
        each = (least - fixed) / LEAST_REPLY
        return int((self._terms.max_cost - spent - fixed) / each) if each > 0 else None
