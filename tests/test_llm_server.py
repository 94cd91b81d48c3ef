"""The local LLM server speaks what the providers' SDKs understand: their types take every word of it."""

import importlib
from typing import TYPE_CHECKING

import pytest

from tests.llm_server import KEY, Cut, Fail, LLMServer, Say

if TYPE_CHECKING:  # they take seconds to import, which whoever collects tests need not wait for
    import anthropic
    import openai

HELLO = [{"role": "user", "content": "Hello?"}]
ANSWER = Say("Hello! How are you?", thinking="A greeting.", input=50, cached=20, written=10, output=7)


def claude(server: LLMServer, key: str = KEY) -> "anthropic.Anthropic":
    import anthropic

    return anthropic.Anthropic(api_key=key, base_url=server.url, max_retries=0)


def gpt(server: LLMServer, key: str = KEY) -> "openai.OpenAI":
    import openai

    return openai.OpenAI(api_key=key, base_url=f"{server.url}/v1", max_retries=0)


def test_anthropic_whole_and_streamed(llm_server: LLMServer) -> None:
    from anthropic.types import Message

    llm_server.say(ANSWER, ANSWER)
    client = claude(llm_server)
    given = {"model": "claude-haiku-4-5", "max_tokens": 1000, "messages": HELLO}
    whole = client.messages.create(**given)
    with client.messages.stream(**given) as stream:
        events = [event.type for event in stream]
        streamed = stream.get_final_message()
    for message in (whole, streamed):
        Message.model_validate(message.model_dump())
        assert [block.type for block in message.content] == ["thinking", "text"]
        assert message.content[1].text == ANSWER.text and message.content[0].thinking == ANSWER.thinking
        assert message.content[0].signature and message.stop_reason == "end_turn"
        usage = message.usage
        assert (usage.input_tokens, usage.cache_read_input_tokens, usage.cache_creation_input_tokens) == (20, 20, 10)
        assert usage.output_tokens == 7
    assert events[0] == "message_start" and events[-1] == "message_stop"


def test_openai_whole_and_streamed(llm_server: LLMServer) -> None:
    from openai.types.chat import ChatCompletion

    llm_server.say(ANSWER, ANSWER)
    client = gpt(llm_server)
    given = {"model": "gpt-5.1", "messages": HELLO, "max_completion_tokens": 1000}
    whole = client.chat.completions.create(**given)
    ChatCompletion.model_validate(whole.model_dump())
    assert whole.choices[0].message.content == ANSWER.text
    chunks = list(client.chat.completions.create(**given, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == ANSWER.text and [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    for usage in (whole.usage, chunks[-1].usage):
        assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (50, 7, 57)
        assert usage.prompt_tokens_details.cached_tokens == 20


def test_catalogues(llm_server: LLMServer) -> None:
    from anthropic.types import ModelInfo
    from openai.types import Model

    told = claude(llm_server).models.retrieve("claude-haiku-4-5")
    assert ModelInfo.model_validate(told.model_dump()).capabilities.thinking.types.enabled.supported
    assert not told.capabilities.thinking.types.adaptive.supported
    assert {model.id for model in claude(llm_server).models.list()} == set(llm_server.models)
    assert Model.model_validate(gpt(llm_server).models.retrieve("gpt-4o").model_dump()).id == "gpt-4o"
    assert {model.id for model in gpt(llm_server).models.list()} == set(llm_server.models)


@pytest.mark.parametrize("name", ["anthropic", "openai"])
def test_what_it_refuses(llm_server: LLMServer, name: str) -> None:
    """The statuses that the SDKs know; then a stream that breaks, a server that is away, and one that is back."""
    sdk = importlib.import_module(name)

    def ask(key: str = KEY, model: str = "gpt-4o", messages: object = HELLO):
        if name == "anthropic":
            create = claude(llm_server, key).messages.create
            return "".join(str(event) for event in create(model=model, max_tokens=9, messages=messages, stream=True))
        create = gpt(llm_server, key).chat.completions.create
        return "".join(str(chunk) for chunk in create(model=model, messages=messages, stream=True))

    with pytest.raises(sdk.AuthenticationError):
        ask(key="sk-wrong")
    with pytest.raises(sdk.NotFoundError):
        ask(model="gpt-2")
    with pytest.raises(sdk.BadRequestError):
        ask(messages=[])
    llm_server.say(Fail(429, headers={"Retry-After": "7"}), Cut("Half of"), Cut("Half of", error="Overloaded"))
    with pytest.raises(sdk.RateLimitError) as limited:
        ask()
    assert limited.value.response.headers["retry-after"] == "7"
    with pytest.raises(Exception, match=r"(?i)reset|closed|connection"):
        ask()
    with pytest.raises(sdk.APIError, match="Overloaded"):
        ask()
    llm_server.down()
    with pytest.raises(sdk.APIConnectionError):
        ask()
    llm_server.up()
    llm_server.say(Say("backbackbackback"))  # in four pieces
    assert "back" in ask()
    assert llm_server.unsaid == 0
