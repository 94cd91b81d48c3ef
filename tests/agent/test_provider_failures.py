"""How calls of the providers' models fail: what is asked again, what ends a run, and what either costs."""

import os
import signal
import subprocess
import sys
import time
from email.utils import formatdate

import pytest

from autoresearch.agent.calls import Caller
from autoresearch.agent.providers import watched
from autoresearch.agent.providers.failures import retry_after
from autoresearch.agent.providers.received import Received
from autoresearch.errors import AgentError, DeadlinePassed, ModelUnavailable
from tests.agent.provided import MESSAGES, MODELS, NOW, SILENT, both, model, stream
from tests.agent.scripted import Desk
from tests.llm_server import KEY, Cut, Fail, Garbage, Say, Stall


@both
class TestFailure:
    @pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 529])
    def test_what_may_pass_is_unavailable(self, llm_server, provider, status):
        llm_server.say(Fail(status, "not\x1b[31m now", NOW | {"Retry-After": "7"}))
        with pytest.raises(ModelUnavailable, match=rf'\({status}\): "not now"\.$') as error:
            model(llm_server, provider).complete(MESSAGES)
        assert error.value.retry_after == 7

    @pytest.mark.parametrize(
        ("turn", "said"),
        [
            (Fail(401, f"invalid key {KEY}"), 'refuses the key in {KEY} (401): "invalid key (key)"'),
            (Fail(403, "no permission"), "refuses the key in {KEY} (403)"),
            (Fail(404, "no such model"), "does not find the model '{MODEL}' (404): \"no such model\""),
            (Fail(400, "prompt is too long\n" * 99), 'does not take the request (400): "prompt is too long'),
            (Fail(413, "x" * 9999), "does not take the request (413)"),
            (Fail(400, "Your credit balance is too low to go on."), "wants to be paid (400)"),
            (Fail(402, "billing"), "wants to be paid (402)"),
        ],
    )
    def test_what_a_person_must_put_right_is_one_line(self, llm_server, provider, turn, said):
        llm_server.say(turn)
        with pytest.raises(AgentError) as error:
            model(llm_server, provider).complete(MESSAGES)
        assert type(error.value) is AgentError
        names = {"{KEY}": f"{provider.upper()}_API_KEY", "{MODEL}": MODELS[provider]}
        for name, value in names.items():
            said = said.replace(name, value)
        assert said in error.value.message and error.value.remedy
        assert str(error.value).isprintable() and len(str(error.value)) < 600 and KEY not in str(error.value)

    def test_an_sdk_asks_again_at_once_and_leaves_long_waits_to_the_caller(self, llm_server, provider):
        llm_server.say(
            Fail(500), Fail(429, headers={"Retry-After": "0.1"}), Say("a"), Fail(429, "slow", {"Retry-After": "3600"})
        )
        asked = model(llm_server, provider)
        assert asked.complete(MESSAGES).text == "a"
        with pytest.raises(ModelUnavailable) as error:
            asked.complete(MESSAGES)
        assert error.value.retry_after == 3600 and len(llm_server.asked) == 4

    @pytest.mark.parametrize(
        "turn", [Cut("some text", error="Overloaded"), Stall(0.1, "some text"), Stall(60, "some text")]
    )
    def test_a_stream_that_breaks_off_has_its_price(self, llm_server, provider, turn):
        llm_server.say(turn)
        completion = model(llm_server, provider, silence=SILENT).complete(MESSAGES)
        assert completion.ended == "broken" and "some text".startswith(completion.text) and completion.text
        assert completion.reason and completion.reason.isprintable()
        assert completion.estimate.input_tokens >= 9 and completion.estimate.output_tokens >= len(completion.text) / 2

    def test_a_stall_is_given_up(self, llm_server, provider):
        llm_server.say(Stall(60))
        with pytest.raises(ModelUnavailable, match=rf"was silent for {SILENT}s"):
            model(llm_server, provider, silence=SILENT).complete(MESSAGES)
        assert len(llm_server.asked) == 1

    def test_a_call_without_end_is_given_up(self, llm_server, provider, monkeypatch):
        monkeypatch.setattr(watched, "LONGEST_CALL", 4.0)
        asked = model(llm_server, provider, silence=60)
        asked.check()  # what a first call takes is not in it
        llm_server.say(Say("abcdefgh", pace=1.0))
        completion = asked.complete(MESSAGES)
        assert completion.ended == "broken" and "not come to an end" in completion.reason

    def test_the_deadline_holds(self, llm_server, provider):
        asked = model(llm_server, provider)
        asked.check()
        llm_server.default = Stall(60)
        with pytest.raises(DeadlinePassed):
            asked.complete(MESSAGES, until=time.time() + 1)
        llm_server.default = Stall(60, "some text")
        completion = asked.complete(MESSAGES, until=time.time() + 5)
        assert (completion.ended, completion.reason) == ("late", "the run's time is up before its model had answered")

    @pytest.mark.parametrize("silence", [SILENT, 60.0])
    def test_a_stream_that_was_opened_is_charged_before_its_first_word(self, llm_server, provider, silence):
        """A model may think for minutes without a sign of it."""
        asked = model(llm_server, provider, silence=silence)
        asked.check()
        llm_server.say(Say("a", pace=60))
        completion = asked.complete(MESSAGES, until=time.time() + 3 * SILENT)
        assert (completion.text, completion.ended) == ("", "broken" if silence == SILENT else "late")
        assert completion.estimate.input_tokens >= sum(len(message.content) for message in MESSAGES) // 2

    def test_what_an_interrupted_reply_took_is_noted(self, llm_server, provider, monkeypatch):
        say = Received.say

        def press(self, text):
            say(self, text)
            if text:
                os.kill(os.getpid(), signal.SIGINT)

        monkeypatch.setattr(Received, "say", press)
        llm_server.say(Stall(60, "some text"))
        desk = Desk()
        with pytest.raises(KeyboardInterrupt):
            Caller(model(llm_server, provider), desk).ask(MESSAGES)
        (exchange,) = desk.exchanges
        assert "some text".startswith(exchange.reply) and exchange.reply and exchange.error == "interrupted"
        assert exchange.usage.input_tokens >= 9 and exchange.usage.output_tokens >= 1 and exchange.usage.usd > 0

    def test_an_interrupted_call_that_was_not_taken_up_is_not(self, llm_server, provider, monkeypatch):
        asked, desk = model(llm_server, provider), Desk()
        asked.check()
        answer = llm_server.answer
        monkeypatch.setattr(
            llm_server, "answer", lambda request: (os.kill(os.getpid(), signal.SIGINT), answer(request))[1]
        )
        llm_server.say(Stall(60))
        with pytest.raises(KeyboardInterrupt):
            Caller(asked, desk).ask(MESSAGES)
        assert desk.exchanges == []

    def test_a_server_that_is_down(self, llm_server, provider):
        llm_server.down()
        with pytest.raises(ModelUnavailable, match="cannot be reached"):
            model(llm_server, provider).complete(MESSAGES)
        llm_server.up()
        llm_server.say(Say("a"))
        assert model(llm_server, provider).complete(MESSAGES).text == "a"

    @pytest.mark.parametrize(
        "turn",
        [
            Garbage(),
            Garbage(""),
            Garbage("data: {\n\n", "text/event-stream"),
            Garbage("event: message_start\ndata: {\n\n", "text/event-stream"),
            Garbage("event: message_start\ndata: " + "[" * 100_000 + "\n\n", "text/event-stream"),
            Garbage("data: [DONE]\n\n", "text/event-stream"),
            *[
                stream(event, {"type": "message_start", "message": event}, {"choices": event, "usage": event},
                       {"type": "content_block_delta", "delta": event}, {"choices": [event]},
                       {"type": "message_delta", "delta": event, "usage": event}, {"choices": [{"delta": event}]})
                for event in (None, 3, "x", [], {}, [[]], True, {"type": 3}, {"delta": {"text": 3, "content": 3}},
                              {"usage": {"input_tokens": -1, "prompt_tokens": 1e99, "output_tokens": "many"}})
            ],
        ],
    )  # fmt: skip
    def test_nonsense_is_unavailable(self, llm_server, provider, turn):
        """And charged if it came as a stream, whatever was in it."""
        llm_server.say(turn)
        desk, reasons = Desk(), []

        def give_up(seconds):
            reasons.append(desk.waits[-1].reason)
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            Caller(model(llm_server, provider), desk, sleep=give_up).ask(MESSAGES)
        assert reasons[0].isprintable() and len(reasons[0]) < 600
        assert bool(desk.spent()) == (turn.type == "text/event-stream")

    def test_ctrl_c_ends_it_at_once(self, llm_server, provider):
        llm_server.say(Stall(200, "some text"))
        code = f"""
            import os, signal
            from autoresearch.agent.providers import make_provider
            from autoresearch.interrupts import listen
            from autoresearch.records import Message
            listen(signal.SIGINT)
            make_provider({provider!r}, {MODELS[provider]!r}, os.environ, 60).complete([Message("user", "Hello?")])
        """
        process = subprocess.Popen(
            [sys.executable, "-c", "\n".join(line.strip() for line in code.splitlines())],
            env=os.environ | llm_server.environ(), stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            deadline = time.monotonic() + 60
            while not llm_server.asked and time.monotonic() < deadline:
                time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
        assert process.returncode != 0 and errors.rstrip().endswith(("KeyboardInterrupt", "Interrupted"))
        assert KEY not in errors


def test_no_credit_at_openai(llm_server):
    llm_server.say(Fail(429, "You exceeded your current quota", NOW, "insufficient_quota"))
    with pytest.raises(AgentError, match="wants to be paid") as error:
        model(llm_server, "openai").complete(MESSAGES)
    assert not isinstance(error.value, ModelUnavailable)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ({"message": "busy", "type": "overloaded_error"}, ModelUnavailable),
        ({"message": "busy", "code": 503}, ModelUnavailable),
        ({"message": "busy"}, ModelUnavailable),
        ({"message": "no", "type": "authentication_error"}, AgentError),
        ({"message": "no", "code": 400}, AgentError),
    ],
)
@both
def test_an_error_within_a_stream_counts_like_its_status(llm_server, provider, error, kind):
    llm_server.say(stream({"type": "error", "error": error}))
    with pytest.raises(AgentError) as raised:
        model(llm_server, provider).complete(MESSAGES)
    assert type(raised.value) is kind and error["message"] in str(raised.value)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "12"}, 12),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "12", "retry-after-ms": "1500"}, 1.5),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "-5"}, None),
        ({"retry-after": formatdate(0)}, 0),
        ({"retry-after": "Fri, 32 Nov 2026 99:00:00 GMT"}, None),
    ],
)
def test_how_long_a_server_wants_to_be_left_alone(headers, seconds):
    assert retry_after(headers) == seconds


def test_a_date_to_come_back_at():
    assert 3000 < retry_after({"retry-after": formatdate(time.time() + 3600)}) <= 3600
