"""The providers' models at a local server, and what the server may say to them."""

import json

import pytest

from autoresearch.agent.calls import SILENCE
from autoresearch.agent.providers import PROVIDERS, make_provider
from autoresearch.records import Message
from tests.llm_server import Garbage, LLMServer

MODELS = {"anthropic": "claude-haiku-4-5", "openai": "gpt-5.1"}
MESSAGES = (Message("system", "The rules.", 10), Message("user", "The file.\n\nWhat was tried.", 9))
REPAIR = (*MESSAGES, Message("assistant", "An edit."), Message("user", "Again."))
NOW = {"x-should-retry": "false"}  # what a server says to an SDK that would sleep and ask again
SILENT = 2.5  # seconds

both = pytest.mark.parametrize("provider", list(PROVIDERS))


def model(server: LLMServer, provider: str, name: str | None = None, silence: float = SILENCE, **environ: str):
    return make_provider(provider, name or MODELS[provider], server.environ() | environ, silence)


def stream(*events: object) -> Garbage:
    """A stream of events as they are given, the SSE form apart."""
    lines = [f"event: {event['type']}\n" if isinstance(event, dict) and "type" in event else "" for event in events]
    body = "".join(f"{line}data: {json.dumps(event)}\n\n" for line, event in zip(lines, events, strict=True))
    return Garbage(body, "text/event-stream")


def piece(finish: str | None = None, **delta: object) -> dict[str, object]:
    """A chunk of Chat Completions."""
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
