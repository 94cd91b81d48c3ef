"""Money: dollars in the ledger are the server's usage at the price, and a budget is not passed."""

import json
import re
from itertools import pairwise

import pytest

from tests.asking import CLAUDE, GPT, ONE, Asking, said
from tests.conftest import CHEAP, Lab
from tests.llm_server import Cut, Fail, LLMServer, Say

pytestmark = pytest.mark.usefixtures("late")  # no reply is trained

MILLION = 1_000_000

# US dollars per million tokens, from the providers' price lists: fresh, read from the cache, written to it, output.
# Claude's cache is written for an hour, at twice the price of fresh input; OpenAI charges what is written as input.
LIST = {CLAUDE: (1.00, 0.10, 2.00, 5.00), GPT: (1.25, 0.125, 1.25, 10.00)}
BRIEF = {CLAUDE: 1.25}  # what Claude's cache costs to write for five minutes

USAGES = [
    Say(CHEAP, input=20_123, output=1_234),
    Say(CHEAP, input=20_456, cached=0, written=19_000, output=4_321),
    Say(CHEAP, input=20_789, cached=19_000, written=700, output=999),
    Say(CHEAP, input=21_000, cached=20_900, output=2_500),
]


@pytest.fixture(params=[CLAUDE, GPT], ids=["anthropic", "openai"])
def asking(baseline: Lab, llm_server: LLMServer, tmp_path, request: pytest.FixtureRequest) -> Asking:
    lab = baseline.copy(tmp_path / "lab")
    environ = llm_server.environ() | {"AUTORESEARCH_LLM_WAIT": "0.1"}
    return Asking(lab.at(lab.root, **environ), llm_server, request.param)


def charged(say: Say, fresh: float, cached: float, written: float, output: float) -> float:
    """US dollars of a reply at these prices."""
    rest = (say.input or 0) - say.cached - say.written
    tokens = rest * fresh + say.cached * cached + say.written * written + say.output * output
    return tokens / MILLION


def test_dollars_at_the_list_price(asking: Asking) -> None:
    asking.server.say(*USAGES)
    done = asking(1 + len(USAGES))
    assert done.code == 0, done.err
    calls = asking.calls()
    if asking.spec == CLAUDE:  # the price of what is written is that of the lifetime that was asked for
        assert all('"ttl": "1h"' in json.dumps(request.body) for request in asking.server.asked)
    for call, say in zip(calls, USAGES, strict=True):
        assert (call.input_tokens, call.output_tokens) == (say.input, say.output)
        assert (call.cached_tokens or 0, call.written_tokens or 0) == (say.cached, say.written)
        assert call.usd == pytest.approx(charged(say, *LIST[asking.spec]), abs=1e-9)
    total = sum(charged(say, *LIST[asking.spec]) for say in USAGES)
    assert asking.lab("status", "--json").json["cost"]["llm_usd"] == pytest.approx(total, abs=1e-6)
    assert f"${total:.2f}" in asking.lab("status").out


@ONE
def test_dollars_at_a_price_given(asking: Asking) -> None:
    """Of a model that no price list has, by the two numbers or the three; what is written costs what input does."""
    unlisted = Asking(asking.lab, asking.server, f"{asking.spec.partition(':')[0]}:nobody-knows-my-price")
    asking.server.say(USAGES[2], USAGES[2])
    assert unlisted(2, "--price", "3,15,0.3").code == 0
    assert unlisted(3, "--price", "3,15").code == 0
    costs = [call.usd for call in unlisted.calls()]
    expected = [charged(USAGES[2], 3, 0.3, 3, 15), charged(USAGES[2], 3, 3, 3, 15)]
    assert costs == [pytest.approx(usd, abs=1e-9) for usd in expected]


@ONE
def test_an_unknown_price_is_shown_as_unknown_and_cannot_bound_a_run(asking: Asking) -> None:
    unlisted = Asking(asking.lab, asking.server, f"{asking.spec.partition(':')[0]}:nobody-knows-my-price")
    refused = unlisted(2, "--max-cost", 5)
    assert refused.code == 2 and refused.err.count("\n") == 1
    assert "nobody-knows-my-price" in refused.err and "--price" in refused.err
    assert not asking.server.asked and not unlisted.experiments()

    asking.server.say(Say(CHEAP))
    done = unlisted(2)
    assert done.code == 0, done.err
    (call,) = unlisted.calls()
    assert (call.input_tokens, call.output_tokens, call.usd) == (1000, 100, None)
    assert asking.lab("status", "--json").json["cost"]["llm_usd"] is None
    assert "unknown" in asking.lab("status").out


def test_a_budget_is_never_passed_whatever_a_model_writes(asking: Asking) -> None:
    """Each reply is as long as it may be; and the budget holds for all that was ever spent on the run."""
    price, budget = (3.0, 15.0), 0.5
    asking.server.default = Say(CHEAP, input=15_000, output=MILLION)  # as long as the request allows
    command = ("--price", "3,15", "--max-cost", budget)
    done = asking(30, *command)
    assert (done.code, done.err) == (0, ""), done.out
    assert re.search(r"(?m)^stopped: \$0\.\d\d of \$0\.50 are spent", done.out), done.out
    calls = asking.calls()
    spent = sum((call.input_tokens * price[0] + call.output_tokens * price[1]) / MILLION for call in calls)
    assert spent == pytest.approx(sum(call.usd for call in calls)) and 0 < spent <= budget
    room = [body.get("max_tokens") or body.get("max_completion_tokens") for body in bodies(asking)]
    assert all(earlier >= later for earlier, later in pairwise(room)) and room[-1] < 64_000

    asked = len(asking.server.asked)
    assert asking(30, *command).code == 0
    assert len(asking.server.asked) == asked, "the budget is the run's, not the command's"
    done = asking(30, "--price", "3,15", "--max-cost", 2 * budget)
    assert done.code == 0 and len(asking.server.asked) > asked
    assert spent < sum(call.usd for call in asking.calls()) <= 2 * budget


def bodies(asking: Asking) -> list[dict]:
    return [request.body for request in asking.server.asked]


def test_a_budget_stops_before_the_call_that_would_pass_it(asking: Asking) -> None:
    """Replies that fail after they began are spent as well."""
    estimate = 0.06  # US dollars: a prompt of some 40 kB at $1 a million, and a reply of 4,000 tokens
    asking.server.default = Cut("TITLE: half", input=50_000)
    asking.server.say(Say(CHEAP, input=50_000, output=10_000), Fail(529, "Overloaded"))
    done = asking(30, "--price", "1,1", "--max-cost", 0.2)
    assert (done.code, done.err) == (0, ""), done.out
    assert re.search(r"(?m)^stopped: \$0\.\d\d of \$0\.20 are spent", done.out), done.out
    spent = sum(call.usd or 0 for call in asking.calls())
    assert 0.2 - estimate < spent < 0.2 + estimate
    assert [(e.number, e.stage) for e in asking.experiments()] == [(2, "done"), (3, "proposing")]
    assert asking.lab("status", "--json").json["state"] == "finished"


def test_a_budget_holds_where_the_server_counts_nothing(baseline: Lab, llm_server: LLMServer, tmp_path) -> None:
    """As some do that speak Chat Completions; the Messages API always counts."""
    lab = baseline.copy(tmp_path / "lab")
    asking = Asking(lab.at(lab.root, **llm_server.environ()), llm_server, GPT)
    asking.server.default = Say(CHEAP, input=None)
    done = asking(30, "--price", "10,10", "--max-cost", 0.6)
    assert (done.code, done.err) == (0, ""), done.out
    assert re.search(r"(?m)^stopped: \$0\.\d\d of \$0\.60 are spent", done.out), done.out
    calls = asking.calls()
    assert 0 < sum(call.usd for call in calls) <= 0.6
    assert all(call.input_tokens > 9_000 and call.output_tokens > 0 for call in calls)


def test_a_budget_for_more_than_the_model_can_write(baseline: Lab, llm_server: LLMServer, tmp_path) -> None:
    """OpenAI tells what a model can write only in the error, and refuses to be asked for more."""
    lab = baseline.copy(tmp_path / "lab")
    asking = Asking(lab.at(lab.root, **llm_server.environ()), llm_server, "openai:gpt-4o")
    llm_server.say(Say(CHEAP), Say(CHEAP))
    done = asking(3, "--max-cost", 50)
    assert (done.code, done.err) == (0, ""), done.out
    *_, second, third = bodies(asking)
    assert second["max_completion_tokens"] == third["max_completion_tokens"] == llm_server.models["gpt-4o"].max_tokens
    assert [call.error for call in asking.calls()] == [None, None]


@ONE
def test_no_budget_no_call(asking: Asking) -> None:
    done = asking(5, "--max-cost", 0)
    assert done.code == 0 and "stopped: $0.00 of $0.00 are spent" in done.out, done.out + done.err
    assert not asking.server.asked


# ---------------------------------------------------------------------------------------------- what is asked


def test_what_may_be_cached_is_marked(asking: Asking) -> None:
    """The rules, and the file: the same bytes in every call until a keep, a breakpoint behind each of them."""
    asking.server.say(Say("no idea"), Say(CHEAP), Say(CHEAP))
    assert asking(3).code == 0
    first, repair, second = bodies(asking)
    if asking.spec == GPT:  # it finds the longest common beginning by itself
        assert len({said(request)[0] for request in asking.server.asked}) == 1
        assert first["messages"][0]["content"] == second["messages"][0]["content"]
        return
    assert first["thinking"]["type"] == "enabled" and first["thinking"]["budget_tokens"] < first["max_tokens"]
    (system,) = first["system"]
    assert system["cache_control"]["type"] == "ephemeral" and len(system["text"]) > 4096
    file, rest = first["messages"][0]["content"]
    assert file["text"].endswith("</file>") and file["cache_control"]["type"] == "ephemeral"
    assert "cache_control" not in rest and "Propose experiment 2" in rest["text"]
    assert repair["messages"][0] == first["messages"][0] and repair["system"] == second["system"] == first["system"]
    assert second["messages"][0]["content"][0] == file and "Propose experiment 3" in json.dumps(second)


def test_thinking_is_asked_for_where_the_model_has_it(baseline: Lab, llm_server: LLMServer, tmp_path) -> None:
    """The server refuses any other way of asking, as the real one does."""
    lab = baseline.copy(tmp_path / "lab")
    lab = lab.at(lab.root, **llm_server.environ())
    wanted = {"claude-opus-5": "adaptive", "claude-3-haiku-20240307": None}
    for number, (model, kind) in enumerate(wanted.items(), 2):
        llm_server.say(Say(CHEAP, thinking="Hm." if kind else ""))
        done = Asking(lab, llm_server, f"anthropic:{model}")(number)
        assert done.code == 0, done.err
        body = llm_server.asked[-1].body
        assert body["model"] == model and body["stream"] is True
        assert (body.get("thinking") or {}).get("type") == kind
        assert 0 < body["max_tokens"] <= llm_server.models[model].max_tokens
    assert "Hm." not in (lab.ledger.parent / "runs" / "quick" / "2" / "call-1.json").read_text()
