"""The providers' models, asked through their SDKs at a local server that speaks their languages."""

import pytest

from autoresearch.agent.providers import make_provider, received
from autoresearch.agent.providers.openai import without_thought
from autoresearch.errors import AgentError, ModelUnavailable
from autoresearch.records import Usage
from tests.agent.provided import MESSAGES, MODELS, NOW, REPAIR, SILENT, both, model, piece, stream
from tests.llm_dialects import Model
from tests.llm_server import KEY, Fail, Garbage, Say, Stall

# ------------------------------------------------------------------------------------------------ a reply


@both
class TestReply:
    def test_text_and_usage(self, llm_server, provider):
        llm_server.say(Say("Größer.\n", thinking="hm", input=10_000, cached=8_000, written=1_000, output=500))
        completion = model(llm_server, provider).complete(MESSAGES)
        usage = completion.usage
        assert (completion.text, completion.ended, completion.reason) == ("Größer.\n", "whole", None)
        assert (usage.input_tokens, usage.cached_tokens, usage.written_tokens) == (10_000, 8_000, 1_000)
        assert usage.output_tokens == 500

    def test_its_price(self, llm_server, provider):
        asked = model(llm_server, provider)
        # Per million: $1, $0.10, $2 and $5; $1.25, $0.125, $1.25 and $10.
        dollars = {"anthropic": 0.001 + 0.0008 + 0.002 + 0.0025, "openai": 0.0025 + 0.001 + 0.005}[provider]
        assert asked.price.cost(Usage(10_000, 8_000, 1_000, 500)) == pytest.approx(dollars)
        assert model(llm_server, provider, "nobody-knows-my-price").price is None

    @pytest.mark.parametrize(
        ("turn", "ended"), [(Say("half", stop="cut"), "cut"), (Say("a", stop="refused"), "refused"), (Say(""), "whole")]
    )
    def test_how_it_ended(self, llm_server, provider, turn, ended):
        llm_server.say(turn)
        completion = model(llm_server, provider).complete(MESSAGES)
        assert (completion.text, completion.ended) == (turn.text, ended)
        assert completion.usage.output_tokens == 100

    def test_what_is_counted_is_not_estimated(self, llm_server, provider):
        llm_server.say(Say("x" * 1000, input=7, output=5))
        completion = model(llm_server, provider).complete(MESSAGES)
        assert completion.estimate == completion.usage
        assert (completion.usage.input_tokens, completion.usage.output_tokens) == (7, 5)

    def test_half_a_character_is_none(self, llm_server, provider):
        """JSON may hold it, and no file; nor is it one in two pieces."""
        deltas = [{"type": "content_block_delta", "delta": {"text": text}} for text in ("a\ud83d", "\ude00b\ud800")]
        ends = [{"type": "message_delta", "delta": {"stop_reason": "end_turn"}}]
        if provider == "openai":
            deltas, ends = [piece(content="a\ud83d"), piece(content="\ude00b\ud800")], [piece("stop")]
        llm_server.say(stream(*deltas, *ends))
        assert model(llm_server, provider).complete(MESSAGES).text == "a\N{GRINNING FACE}b\ufffd"

    def test_nor_is_it_in_a_refusal(self, llm_server, provider):
        details = {"stop_reason": "refusal", "stop_details": {"explanation": "No\ud800."}}
        refusal = {"type": "message_delta", "delta": details}
        llm_server.say(stream(refusal if provider == "anthropic" else piece("stop", refusal="No\ud800.")))
        assert model(llm_server, provider).complete(MESSAGES).reason == "No."

    def test_only_local_servers_leave_thinking_in_a_reply(self, llm_server, provider):
        llm_server.say(Say("<think>hm</think>TITLE: t"))
        text = model(llm_server, provider).complete(MESSAGES).text
        assert text == {"anthropic": "<think>hm</think>TITLE: t", "openai": "TITLE: t"}[provider]

    def test_a_refusal_has_its_reason(self, llm_server, provider):
        llm_server.say(Say("", stop="refused"))
        completion = model(llm_server, provider).complete(MESSAGES)
        assert (completion.ended, completion.text) == ("refused", "")
        assert "not for me" in completion.reason or "can't help" in completion.reason

    def test_room_is_kept(self, llm_server, provider):
        llm_server.say(Say("a", output=9_000))
        completion = model(llm_server, provider).complete(MESSAGES, room=5_000)
        assert (completion.ended, completion.usage.output_tokens) == ("cut", 5_000)

    def test_one_that_comes_slowly_is_waited_for(self, llm_server, provider):
        """In all it takes longer than the silence that is borne."""
        llm_server.say(Say("abcd" * 9, pace=0.8))
        assert model(llm_server, provider, silence=5.0).complete(MESSAGES).text == "abcd" * 9

    def test_one_without_end_is_cut(self, llm_server, provider, monkeypatch):
        monkeypatch.setattr(received, "MAX_REPLY", 100)
        llm_server.say(Say("x" * 1000))
        completion = model(llm_server, provider).complete(MESSAGES)
        assert completion.ended == "cut" and 100 < len(completion.text) <= 1000
        assert completion.estimate.output_tokens >= 50

    def test_the_turns_of_a_repair(self, llm_server, provider):
        llm_server.say(Say("a"))
        model(llm_server, provider).complete(REPAIR)
        turns = llm_server.asked[0].body["messages"]
        assert [turn["role"] for turn in turns][-3:] == ["user", "assistant", "user"]


# ------------------------------------------------------------------------------------------------ what is asked


class TestAnthropicRequest:
    def asked(self, server, name=None, room=None, **environ):
        server.say(Say("a"))
        model(server, "anthropic", name, **environ).complete(MESSAGES, room=room)
        return server.asked[-1].body

    def test_what_is_stable_is_cached_for_an_hour(self, llm_server):
        body = self.asked(llm_server)
        hour = {"type": "ephemeral", "ttl": "1h"}
        assert body["system"] == [{"type": "text", "text": "The rules.", "cache_control": hour}]
        assert body["messages"][0]["content"] == [
            {"type": "text", "text": "The file.", "cache_control": hour},
            {"type": "text", "text": "\n\nWhat was tried."},
        ]
        assert body["stream"] is True

    @pytest.mark.parametrize(
        ("name", "thinking", "longest"),
        [
            ("claude-opus-5", {"type": "adaptive"}, 64_000),
            ("claude-haiku-4-5", {"type": "enabled", "budget_tokens": 16_000}, 64_000),
            ("claude-3-haiku-20240307", None, 4_096),
        ],
    )
    def test_it_thinks_as_it_can(self, llm_server, name, thinking, longest):
        body = self.asked(llm_server, name)
        assert (body.get("thinking"), body["max_tokens"]) == (thinking, longest)

    @pytest.mark.parametrize(("room", "budget"), [(4_000, 2_000), (2_000, None)])
    def test_thinking_leaves_room_for_the_reply(self, llm_server, room, budget):
        body = self.asked(llm_server, room=room)
        assert body["max_tokens"] == room and body.get("thinking", {}).get("budget_tokens") == budget

    def test_a_gateway_that_tells_of_no_model_is_asked_for_little(self, llm_server):
        with pytest.raises(AgentError, match="does not find the model 'private'"):
            model(llm_server, "anthropic", "private").complete(MESSAGES)
        looked, *_, asked = llm_server.requests
        assert (looked.method, looked.path) == ("GET", "/v1/models/private")
        assert "thinking" not in asked.body and asked.body["max_tokens"] == 16_000

    def test_it_is_looked_up_once(self, llm_server):
        asked = model(llm_server, "anthropic")
        llm_server.say(Say("a"), Say("b"))
        asked.check()
        for _ in range(2):
            asked.complete(MESSAGES)
        assert [request.method for request in llm_server.requests] == ["GET", "POST", "POST"]

    def test_writes_for_five_minutes_cost_less(self, llm_server):
        usage = {"input_tokens": 0, "cache_creation_input_tokens": 1_000_000, "output_tokens": 0}
        brief = {"ephemeral_5m_input_tokens": 1_000_000, "ephemeral_1h_input_tokens": 0}
        end = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 0}}
        usages = []
        for told in (usage, usage | {"cache_creation": brief}):
            llm_server.say(stream({"type": "message_start", "message": {"usage": told}}, end))
            usages.append(model(llm_server, "anthropic").complete(MESSAGES).usage)
        assert [usage.written_5m_tokens for usage in usages] == [None, 1_000_000]
        price = model(llm_server, "anthropic").price
        assert [price.cost(usage) for usage in usages] == [pytest.approx(2.0), pytest.approx(1.25)]


class TestOpenAIRequest:
    def test_a_plain_one_that_any_server_knows(self, llm_server):
        llm_server.say(Say("a"))
        model(llm_server, "openai").complete(MESSAGES)
        assert llm_server.asked[0].body == {
            "model": "gpt-5.1",
            "messages": [{"role": message.role, "content": message.content} for message in MESSAGES],
            "stream": True,
            "stream_options": {"include_usage": True},
        }

    @pytest.mark.parametrize("name", ["gpt-5.6-terra", "gpt-6-sol", "gpt-6.1-sol", "gpt-10"])
    def test_newer_ones_are_told_where_the_cache_ends(self, llm_server, name):
        llm_server.models[name] = Model(name)
        llm_server.say(Say("a"))
        model(llm_server, "openai", name).complete(MESSAGES)
        body = llm_server.asked[0].body
        marked = [part for turn in body["messages"] for part in turn["content"]]
        mark = {"prompt_cache_breakpoint": {"mode": "explicit"}}
        assert [(part["text"], "prompt_cache_breakpoint" in part) for part in marked] == [
            ("The rules.", True), ("The file.", True), ("\n\nWhat was tried.", False),
        ]  # fmt: skip
        assert mark.items() <= marked[0].items() and body["prompt_cache_options"] == {"mode": "explicit"}

    def test_a_gateway_that_knows_no_such_marks_is_asked_without_them_from_then_on(self, llm_server):
        llm_server.models["gpt-6-sol"] = Model("gpt-6-sol")
        llm_server.say(Fail(400, "Unrecognized request argument supplied: prompt_cache_options"), Say("a"), Say("b"))
        asked = model(llm_server, "openai", "gpt-6-sol")
        assert [asked.complete(MESSAGES).text for _ in range(2)] == ["a", "b"]
        assert ["prompt_cache" in str(request.body) for request in llm_server.asked] == [True, False, False]

    def test_any_other_refusal_is_final(self, llm_server):
        llm_server.models["gpt-6-sol"] = Model("gpt-6-sol")
        llm_server.say(Fail(400, "No."), Say("a"))
        with pytest.raises(AgentError, match="No"):
            model(llm_server, "openai", "gpt-6-sol").complete(MESSAGES)

    def test_a_server_that_counts_nothing(self, llm_server):
        llm_server.say(Say("a", input=None))
        completion = model(llm_server, "openai").complete(MESSAGES)
        asked = sum(len(message.content) for message in MESSAGES) // 2  # half a token a character: upward
        assert (completion.usage, completion.estimate) == (Usage(), Usage(input_tokens=asked, output_tokens=1))

    @pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
    def test_reasoning_is_not_the_reply(self, llm_server, field):
        llm_server.say(stream(piece(**{field: "Let me see."}), piece(content="TITLE: t"), piece("stop")))
        assert model(llm_server, "openai").complete(MESSAGES).text == "TITLE: t"

    def test_organization_and_project(self, llm_server, monkeypatch):
        monkeypatch.setenv("OPENAI_ORG_ID", "not-this-one")
        llm_server.say(Say("a"), Say("b"))
        model(llm_server, "openai").complete(MESSAGES)
        model(llm_server, "openai", OPENAI_ORG_ID="org-1", OPENAI_PROJECT_ID="proj-1").complete(MESSAGES)
        names = ("openai-organization", "openai-project")
        assert [[request.headers.get(name) for name in names] for request in llm_server.asked] == [
            [None, None], ["org-1", "proj-1"],
        ]  # fmt: skip


@pytest.mark.parametrize(
    ("reply", "rest"),
    [
        ("TITLE: t", "TITLE: t"),
        ("<think>\nhm\n</think>\n\nTITLE: t", "TITLE: t"),
        (" <think></think>TITLE: t", "TITLE: t"),
        ("hm, as the template began it\n</think>\nTITLE: t", "TITLE: t"),
        ("<think>cut off", ""),
        ("TITLE: about <think> and </think>", "TITLE: about <think> and </think>"),
        ("", ""),
    ],
)
def test_a_block_of_thinking_at_the_beginning_is_not_the_reply(reply, rest):
    assert without_thought(reply) == rest


# ------------------------------------------------------------------------------------------------ before the run


@both
class TestCheck:
    def test_a_key_and_a_model_that_are_good(self, llm_server, provider):
        model(llm_server, provider).check()
        assert [request.method for request in llm_server.requests] == ["GET"]

    def test_an_unknown_model(self, llm_server, provider):
        with pytest.raises(AgentError, match="does not find the model 'gpt-7' "):
            model(llm_server, provider, "gpt-7").check()

    def test_a_wrong_key(self, llm_server, provider):
        variable = f"{provider.upper()}_API_KEY"
        with pytest.raises(AgentError, match=f"refuses the key in {variable}"):
            model(llm_server, provider, **{variable: "sk-wrong-0123456789"}).check()

    @pytest.mark.parametrize("trouble", [Fail(503, headers=NOW), Fail(429, headers=NOW), Stall(60)])
    def test_no_answer(self, llm_server, provider, trouble):
        llm_server.trouble = trouble
        with pytest.raises(ModelUnavailable):
            model(llm_server, provider, silence=SILENT).check()

    @pytest.mark.parametrize("trouble", [Fail(403), Fail(404, "Not Found"), Fail(405), Garbage("[]")])
    def test_a_server_that_lists_nothing_is_taken_at_its_word(self, llm_server, provider, trouble):
        llm_server.trouble = trouble
        model(llm_server, provider).check()

    def test_a_path_that_is_not_there_says_nothing_of_the_model(self, llm_server, provider):
        model(llm_server, provider, **{f"{provider.upper()}_BASE_URL": f"{llm_server.url}/elsewhere"}).check()
        assert "elsewhere" in llm_server.requests[0].path


@both
class TestKey:
    def test_none_has_a_remedy(self, provider):
        with pytest.raises(AgentError) as error:
            make_provider(provider, None, {f"{provider.upper()}_API_KEY": " "}, SILENT)
        assert "needs a key" in error.value.message and f"{provider.upper()}_BASE_URL" in error.value.remedy

    def test_it_is_looked_for_in_the_environment_given_and_nowhere_else(self, llm_server, provider, monkeypatch):
        for name, value in llm_server.environ().items():
            monkeypatch.setenv(name, value)
        with pytest.raises(AgentError, match="needs a key"):
            make_provider(provider, None, {}, SILENT)

    def test_a_server_of_ones_own_needs_none(self, llm_server, provider):
        llm_server.key = "none"
        llm_server.say(Say("a"))
        assert model(llm_server, provider, **{f"{provider.upper()}_API_KEY": ""}).complete(MESSAGES).text == "a"

    @pytest.mark.parametrize("key", ["two words", "sk-ключ", "sk-\x00", "export KEY=x\nexport"])
    def test_what_is_none_is_not_shown(self, llm_server, provider, key):
        with pytest.raises(AgentError, match="is no key") as error:
            model(llm_server, provider, **{f"{provider.upper()}_API_KEY": key})
        assert key not in str(error.value)

    @pytest.mark.parametrize("url", ["localhost:8000", "ftp://host", "http://", "http://host:port", "http://[::1"])
    def test_a_base_url_that_is_none_has_a_remedy(self, llm_server, provider, url):
        with pytest.raises(AgentError, match=f"{provider.upper()}_BASE_URL is not a base URL") as error:
            model(llm_server, provider, **{f"{provider.upper()}_BASE_URL": url})
        assert "http://localhost" in error.value.remedy

    def test_a_description_has_no_secrets(self, llm_server, provider):
        url = llm_server.url.replace("//", "//ada:lovelace@") + "/v1?token=s3cret"
        said = model(llm_server, provider, **{f"{provider.upper()}_BASE_URL": url}).describe()
        assert said.startswith(f"{MODELS[provider]} at {llm_server.url}/v1, $1")
        assert not any(secret in said for secret in ("lovelace", "s3cret", KEY))


def test_a_token_in_place_of_a_key(llm_server):
    llm_server.say(Say("a"))
    asked = model(llm_server, "anthropic", ANTHROPIC_API_KEY="", ANTHROPIC_AUTH_TOKEN=KEY)
    assert asked.complete(MESSAGES).text == "a"
    llm_server.key = "another"
    with pytest.raises(AgentError, match="refuses the key in ANTHROPIC_AUTH_TOKEN"):
        asked.complete(MESSAGES)
