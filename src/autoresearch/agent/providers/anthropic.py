"""Claude, through the Anthropic SDK."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

from autoresearch.agent.providers.model import ProviderModel
from autoresearch.agent.providers.received import Received, count, dig, text
from autoresearch.records import Message, Usage

if TYPE_CHECKING:
    import httpx2
    from anthropic import AsyncAnthropic
    from anthropic.types import MessageParam, TextBlockParam, ThinkingConfigParam

LONGEST_REPLY = 64_000  # tokens, thinking included
SAFE_REPLY = 16_000  # tokens: of a model of which nothing is known
THINKING = 16_000  # tokens: the budget of a model that wants one
_LEAST_THINKING = 1024  # tokens: the API takes no less
_ENDS: dict[str, Literal["cut", "refused"]] = {
    "max_tokens": "cut", "model_context_window_exceeded": "cut", "refusal": "refused",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Abilities:
    """What a model can: output tokens, and how it is asked to think."""

    longest: int = SAFE_REPLY
    thinking: Literal["adaptive", "enabled"] | None = None


class AnthropicModel(ProviderModel):
    """A model of the Messages API: streamed, thinking if it can, its stable prefix cached for an hour."""

    provider = "anthropic"
    title = "Anthropic"
    default = "claude-opus-5-5"
    keys = ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN")
    base_url = "ANTHROPIC_BASE_URL"
    _abilities: Abilities | None = None  # not looked up yet

    async def _look(self, http: "httpx2.AsyncClient") -> None:
        self._abilities = _abilities(await self._client(http).models.retrieve(self.model))

    async def _known(self, http: "httpx2.AsyncClient") -> Abilities:
        """What the model can. A gateway may not tell, and then it is asked for no more than any model can."""
        if self._abilities is None:
            try:
                await self._look(http)
            except self._expected() as error:
                status = getattr(error, "status_code", 500)
                if 400 <= status < 500 and status not in (408, 409, 429):
                    self._abilities = Abilities()
        return self._abilities or Abilities()

    async def _read(
        self, http: "httpx2.AsyncClient", messages: Sequence[Message], room: int | None, received: Received
    ) -> None:
        from anthropic import omit

        can = await self._known(http)
        longest = can.longest if room is None else min(can.longest, room)
        stream = await self._client(http).messages.create(
            model=self.model,
            max_tokens=longest,
            system=[block for message in messages if message.role == "system" for block in _blocks(message)],
            messages=[_turn(message) for message in messages if message.role != "system"],
            thinking=_thinking(can, longest) or omit,
            stream=True,
        )
        received.open(stream)
        async with stream:
            async for event in stream:
                _take(event, received)

    def _client(self, http: "httpx2.AsyncClient") -> "AsyncAnthropic":
        from anthropic import AsyncAnthropic

        token = self._key_variable == "ANTHROPIC_AUTH_TOKEN"
        return AsyncAnthropic(
            api_key=None if token else self._key or "none",
            auth_token=self._key if token else None,
            base_url=self._url or "https://api.anthropic.com",
            http_client=http,
            timeout=http.timeout,
        )

    def _errors(self) -> type[Exception]:
        from anthropic import AnthropicError

        return AnthropicError


def _abilities(told: object) -> Abilities:
    longest = min(count(told, "max_tokens") or SAFE_REPLY, LONGEST_REPLY)
    types = dig(told, "capabilities", "thinking", "types")
    if dig(types, "adaptive", "supported") is True:
        return Abilities(longest, "adaptive")
    return Abilities(longest, "enabled" if dig(types, "enabled", "supported") is True else None)


def _thinking(can: Abilities, longest: int) -> "ThinkingConfigParam | None":
    if can.thinking == "adaptive":
        return {"type": "adaptive"}
    budget = min(THINKING, longest // 2)  # the reply needs the rest
    if can.thinking == "enabled" and budget >= _LEAST_THINKING:
        return {"type": "enabled", "budget_tokens": budget}
    return None


def _turn(message: Message) -> "MessageParam":
    return cast("MessageParam", {"role": message.role, "content": list(_blocks(message))})


def _blocks(message: Message) -> "Iterator[TextBlockParam]":
    """The message, a breakpoint of the cache behind what later calls repeat."""
    stable, rest = message.content[: message.stable], message.content[message.stable :]
    if stable:  # for an hour: the next call comes after an experiment, and the cache of five minutes would be cold
        yield {"type": "text", "text": stable, "cache_control": {"type": "ephemeral", "ttl": "1h"}}
    if rest or not stable:
        yield {"type": "text", "text": rest}


def _take(event: object, received: Received) -> None:
    kind = text(event, "type")
    if kind == "message_start":
        received.usage = _usage(dig(event, "message", "usage"), received.usage)
    elif kind == "content_block_start":
        received.say(text(event, "content_block", "text"))
    elif kind == "content_block_delta":
        received.say(text(event, "delta", "text"))
        received.think(text(event, "delta", "thinking"))
    elif kind == "message_delta":
        received.usage = _usage(dig(event, "usage"), received.usage)
        if stop := text(event, "delta", "stop_reason"):
            received.ended = _ENDS.get(stop, "whole")
            details = dig(event, "delta", "stop_details")
            received.reason = text(details, "explanation") or text(details, "category") or None


def _usage(told: object, before: Usage) -> Usage:
    """The usage so far. The API counts fresh, cached and written tokens apart, and again as the stream goes on."""

    def latest(old: int | None, *path: str) -> int | None:
        new = count(told, *path)
        return old if new is None else max(new, old or 0)

    fresh = before.input_tokens
    if fresh is not None:
        fresh -= (before.cached_tokens or 0) + (before.written_tokens or 0)
    fresh = latest(fresh, "input_tokens")
    cached = latest(before.cached_tokens, "cache_read_input_tokens")
    written = latest(before.written_tokens, "cache_creation_input_tokens")
    return Usage(
        input_tokens=None if fresh is None else fresh + (cached or 0) + (written or 0),
        cached_tokens=cached,
        written_tokens=written,
        output_tokens=latest(before.output_tokens, "output_tokens"),
        written_5m_tokens=latest(before.written_5m_tokens, "cache_creation", "ephemeral_5m_input_tokens"),
    )
