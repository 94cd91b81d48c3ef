"""What stands behind --agent."""

import json
import os
import subprocess
import sys

import pytest

from autoresearch.agent import make_agent
from autoresearch.agent.calls import Terms
from autoresearch.agent.prices import GivenPrice
from autoresearch.agent.select import make_model
from autoresearch.errors import AgentError, Misuse
from tests.agent.briefs import baseline, brief, experiment
from tests.agent.scripted import Desk
from tests.llm_server import Fail, Say


@pytest.mark.parametrize(
    "spec", ["", "tpe", "search:", "command", "command:", "replay: ", "robot", "anthropic:", "openai: "]
)
def test_an_unknown_agent_is_misuse_and_the_known_ones_are_named(spec):
    for make in (lambda: make_agent(spec, Desk(), {}), lambda: make_model(spec, {})):
        with pytest.raises(Misuse) as error:
            make()
        assert all(word in error.value.remedy for word in ("search", "anthropic:MODEL", "command:CMD"))


def test_every_model_says_what_it_is(tmp_path):
    (tmp_path / "replies.jsonl").write_text("")
    for spec in ("command:cat", f"replay:{tmp_path / 'replies.jsonl'}"):
        assert make_model(spec, dict(os.environ)).describe() == spec
    assert make_model("openai:gpt-5.1", {"OPENAI_API_KEY": "sk"}).describe().startswith("gpt-5.1 at OpenAI, $1.25 in")


GOOD = "TITLE: t\n<<<<<<< SEARCH\nCONTEXT = 128\n=======\nCONTEXT = 64\n>>>>>>> REPLACE\n"


@pytest.mark.parametrize("provider", ["anthropic", "openai"])
class TestProviders:
    def test_one_proposes_and_its_dollars_are_noted(self, llm_server, provider):
        model = {"anthropic": "claude-haiku-4-5", "openai": "gpt-5.1"}[provider]
        desk = Desk()
        agent = make_agent(f"{provider}:{model}", desk, llm_server.environ())
        llm_server.say(Say("no edit"), Say(GOOD))
        assert (agent.name, agent.propose(brief()).title) == (f"{provider}:{model}", "t")
        assert [exchange.usage.input_tokens for exchange in desk.exchanges] == [1000, 1000]
        assert desk.spent() > 0

    def test_without_a_name_it_is_the_default_model(self, llm_server, provider):
        llm_server.trouble = Fail(503)  # nothing is known of the model, and the run begins all the same
        agent = make_agent(provider, Desk(), llm_server.environ())
        assert agent.name in ("anthropic:claude-opus-5-5", "openai:gpt-6.1-sol")

    def test_a_wrong_key_is_reported_before_the_run(self, llm_server, provider):
        environ = llm_server.environ() | {f"{provider.upper()}_API_KEY": "sk-wrong"}
        with pytest.raises(AgentError, match=f"refuses the key in {provider.upper()}_API_KEY"):
            make_agent(f"{provider}:gpt-4o", Desk(), environ)

    def test_a_bound_on_dollars_needs_a_price(self, llm_server, provider):
        spec = f"{provider}:nobody-knows-my-price"
        with pytest.raises(Misuse, match="is not known") as error:
            make_agent(spec, Desk(), llm_server.environ(), Terms(max_cost=1.0))
        assert "--price" in error.value.remedy
        make_agent(spec, Desk(), llm_server.environ(), Terms(max_cost=1.0, price=GivenPrice(1, 1, 1)))


@pytest.mark.parametrize("max_cost", [None, 5.0])
def test_a_price_is_no_use_to_who_counts_no_tokens(tmp_path, max_cost):
    (tmp_path / "replies.jsonl").write_text("")
    for spec in ("command:cat", "search", f"replay:{tmp_path / 'replies.jsonl'}"):
        with pytest.raises(Misuse, match="--price is of no use to") as error:
            make_agent(spec, Desk(), dict(os.environ), Terms(max_cost, GivenPrice(1, 1, 1)))
        assert error.value.remedy == "Leave it out."


def test_a_bound_on_dollars_cannot_be_kept_with_a_command(tmp_path):
    with pytest.raises(Misuse, match="--max-cost cannot be kept") as error:
        make_agent("command:cat", Desk(), dict(os.environ), Terms(max_cost=5.0))
    assert "--price" not in error.value.remedy and "counts no tokens" in error.value.remedy
    make_agent("search", Desk(), {}, Terms(max_cost=5.0))


def test_a_missing_recording_is_reported_before_the_run(tmp_path):
    with pytest.raises(AgentError, match="cannot be read"):
        make_agent(f"replay:{tmp_path / 'missing'}", Desk(), {})


def test_search_needs_nothing():
    assert make_agent("search", Desk(), {}).propose(brief([baseline()])).patch is not None


def test_a_command_proposes(tmp_path):
    code = "print('TITLE: t\\n<<<<<<< SEARCH\\nCONTEXT = 128\\n=======\\nCONTEXT = 64\\n>>>>>>> REPLACE')"
    (tmp_path / "agent.py").write_text(code)
    desk = Desk()
    agent = make_agent(f"command:{sys.executable} {tmp_path / 'agent.py'}", desk, dict(os.environ))
    proposal = agent.propose(brief())
    assert (proposal.title, proposal.failure, len(desk.exchanges)) == ("t", None, 1)


def test_a_replay_goes_on_where_the_history_ends(tmp_path):
    def reply(depth):
        search, replace = "DEPTH = 4  # [2, 12]; blocks", f"DEPTH = {depth}  # [2, 12]; blocks"
        return f"TITLE: depth {depth}\n<<<<<<< SEARCH\n{search}\n=======\n{replace}\n>>>>>>> REPLACE\n"

    path = tmp_path / "replies.jsonl"
    path.write_text("".join(json.dumps({"reply": text}) + "\n" for text in (reply(5), "none", reply(6), reply(7))))
    history = [baseline()]
    titles = []
    for _ in range(3):
        proposal = make_agent(f"replay:{path}", Desk(), {}).propose(brief(history))  # anew, as after a restart
        titles.append((proposal.title, proposal.replies))
        history.append(experiment(len(history) + 1, "discarded", 2.1, replies=proposal.replies, agent=f"replay:{path}"))
        history.append(experiment(len(history) + 1, "discarded", 2.1, replies=3, agent="search"))  # no reply of these
    assert titles == [("depth 5", 1), ("depth 6", 2), ("depth 7", 1)]
    with pytest.raises(AgentError, match="has ended after 4"):
        make_agent(f"replay:{path}", Desk(), {}).propose(brief(history))


def test_importing_the_agents_is_light():
    heavy = {"torch", "optuna", "anthropic", "openai", "httpx2", "genai_prices"}
    code = f"import sys, autoresearch.agent; print({heavy} & sys.modules.keys())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
