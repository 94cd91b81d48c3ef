"""GPT, and any server that speaks Chat Completions, through the OpenAI SDK."""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from autoresearch.agent.providers.model import ProviderModel
from autoresearch.agent.providers.received import Received, count, dig, text
from autoresearch.records import Message, Usage

if TYPE_CHECKING:
    import httpx2
    from openai import AsyncOpenAI, AsyncStream
    from openai.types.chat import ChatCompletionChunk, ChatCompletionMessageParam

LONGEST_REPLY = 64_000  # tokens, thinking included: where a budget bounds a call, and leaves more
_THOUGHT = ("<think>", "</think>")
_TOO_LONG = re.compile(r"at most (\d{1,7}) completion tokens")
_MARKS_CACHE = (5, 6)  # the first GPT that is told where its cache ends; the ones before find out by themselves


class OpenAIModel(ProviderModel):
    """A model of the Chat Completions API, streamed. Of other servers nothing is asked that not all of them know."""

    provider = "openai"
    title = "OpenAI"
    default = "gpt-6.1-sol"
    keys = ("OPENAI_API_KEY",)
    base_url = "OPENAI_BASE_URL"

    def __init__(self, model: str, environ: Mapping[str, str], silence: float) -> None:
        super().__init__(model, environ, silence)
        self._longest = LONGEST_REPLY
        self._marks = _marks_cache(model)

    async def _look(self, http: "httpx2.AsyncClient") -> None:
        await self._client(http).models.retrieve(self.model)

    async def _read(
        self, http: "httpx2.AsyncClient", messages: Sequence[Message], room: int | None, received: Received
    ) -> None:
        from openai import BadRequestError

        try:
            stream = await self._ask(http, messages, room)
        except BadRequestError as error:
            if not self._learned(str(error), room):
                raise
            stream = await self._ask(http, messages, room)
        received.open(stream)
        async with stream:
            async for chunk in stream:
                _take(chunk, received)

    def _reply(self, text: str) -> str:
        return without_thought(text)

    def _learned(self, refusal: str, room: int | None) -> bool:
        """Whether a refusal says what to leave out: no call tells what a model, or a gateway before it, can."""
        longest, marks = self._longest, self._marks
        if room is not None and (told := _TOO_LONG.search(refusal)):
            self._longest = min(longest, int(told[1]))
        if "prompt_cache" in refusal:
            self._marks = False
        return (self._longest, self._marks) != (longest, marks)

    async def _ask(
        self, http: "httpx2.AsyncClient", messages: Sequence[Message], room: int | None
    ) -> "AsyncStream[ChatCompletionChunk]":
        from openai import omit

        return await self._client(http).chat.completions.create(
            model=self.model,
            messages=[_turn(message, self._marks) for message in messages],
            max_completion_tokens=omit if room is None else min(room, self._longest),
            prompt_cache_options={"mode": "explicit"} if self._marks else omit,
            stream=True,
            stream_options={"include_usage": True},
        )

    def _client(self, http: "httpx2.AsyncClient") -> "AsyncOpenAI":
        from openai import AsyncOpenAI

        client = AsyncOpenAI(
            api_key=self._key or "none",
            base_url=self._url or "https://api.openai.com/v1",
            http_client=http,
            timeout=http.timeout,
        )
        # What is not given, the SDK looks for in the process's own environment.
        client.organization = self._environ.get("OPENAI_ORG_ID") or None
        client.project = self._environ.get("OPENAI_PROJECT_ID") or None
        return client

    def _errors(self) -> type[Exception]:
        from openai import OpenAIError

        return OpenAIError


def _marks_cache(model: str) -> bool:
    found = re.match(r"gpt-(\d{1,4})(?:\.(\d{1,4}))?(?!\d)", model)
    return found is not None and (int(found[1]), int(found[2] or 0)) >= _MARKS_CACHE


def _turn(message: Message, marks: bool) -> "ChatCompletionMessageParam":
    """A plain message, or one with a breakpoint of the cache behind what later calls repeat."""
    content: Any = message.content
    if marks and message.stable:
        content = [{"type": "text", "text": content[: message.stable], "prompt_cache_breakpoint": {"mode": "explicit"}}]
        if rest := message.content[message.stable :]:
            content.append({"type": "text", "text": rest})
    return cast("ChatCompletionMessageParam", {"role": message.role, "content": content})


def _take(chunk: object, received: Received) -> None:
    if (usage := dig(chunk, "usage")) is not None:
        received.usage = _usage(usage)
    choices = dig(chunk, "choices")
    if not isinstance(choices, list) or not choices:
        return
    delta = dig(choices[0], "delta")
    received.say(text(delta, "content"))
    received.think(text(delta, "reasoning_content") or text(delta, "reasoning"))
    if refusal := text(delta, "refusal"):
        received.reason = (received.reason or "") + refusal
    if finish := text(choices[0], "finish_reason"):
        refused = finish == "content_filter" or bool(received.reason)
        received.ended = "refused" if refused else "cut" if finish == "length" else "whole"


def _usage(told: object) -> Usage:
    total = count(told, "prompt_tokens")
    cached = count(told, "prompt_tokens_details", "cached_tokens")
    written = count(told, "prompt_tokens_details", "cache_write_tokens")
    if total is not None and (cached or 0) + (written or 0) > total:
        cached = written = None
    return Usage(
        input_tokens=total,
        cached_tokens=cached,
        written_tokens=written,
        output_tokens=count(told, "completion_tokens"),
    )


def without_thought(reply: str) -> str:
    """A reply without the block of thinking that local servers leave at its beginning; some templates have the
    opening tag in the prompt."""
    opening, closing = _THOUGHT
    head, closed, rest = reply.partition(closing)
    opened = head.lstrip().startswith(opening)
    if closed and (opened or opening not in head):
        return rest.lstrip()
    return "" if opened else reply
