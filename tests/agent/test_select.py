"""What stands behind --agent."""

import json
import os
import subprocess
import sys

import pytest

from autoresearch.agent import make_agent
from autoresearch.errors import AgentError, Misuse
from tests.agent.briefs import baseline, brief, experiment


def ignore(exchange):
    pass


@pytest.mark.parametrize("spec", ["", "tpe", "search:", "command", "command:", "replay: ", "robot"])
def test_an_unknown_agent_is_misuse_and_the_known_ones_are_named(spec):
    with pytest.raises(Misuse) as error:
        make_agent(spec, ignore, {})
    assert all(word in error.value.remedy for word in ("search", "command:CMD", "replay:FILE"))


@pytest.mark.parametrize("spec", ["anthropic:some-model", "openai:some-model"])
def test_the_providers_are_announced(spec):
    with pytest.raises(Misuse, match="next release"):
        make_agent(spec, ignore, {})


def test_a_missing_recording_is_reported_before_the_run(tmp_path):
    with pytest.raises(AgentError, match="cannot be read"):
        make_agent(f"replay:{tmp_path / 'missing'}", ignore, {})


def test_search_needs_nothing():
    assert make_agent("search", ignore, {}).propose(brief([baseline()])).patch is not None


def test_a_command_proposes(tmp_path):
    code = "print('TITLE: t\\n<<<<<<< SEARCH\\nCONTEXT = 128\\n=======\\nCONTEXT = 64\\n>>>>>>> REPLACE')"
    (tmp_path / "agent.py").write_text(code)
    exchanges = []
    agent = make_agent(f"command:{sys.executable} {tmp_path / 'agent.py'}", exchanges.append, dict(os.environ))
    proposal = agent.propose(brief())
    assert (proposal.title, proposal.failure, len(exchanges)) == ("t", None, 1)


def test_a_replay_goes_on_where_the_history_ends(tmp_path):
    def reply(depth):
        search, replace = "DEPTH = 4  # [2, 12]; blocks", f"DEPTH = {depth}  # [2, 12]; blocks"
        return f"TITLE: depth {depth}\n<<<<<<< SEARCH\n{search}\n=======\n{replace}\n>>>>>>> REPLACE\n"

    path = tmp_path / "replies.jsonl"
    path.write_text("".join(json.dumps({"reply": text}) + "\n" for text in (reply(5), "none", reply(6), reply(7))))
    history = [baseline()]
    titles = []
    for _ in range(3):
        proposal = make_agent(f"replay:{path}", ignore, {}).propose(brief(history))  # anew, as after a restart
        titles.append((proposal.title, proposal.replies))
        history.append(experiment(len(history) + 1, "discarded", 2.1, replies=proposal.replies))
    assert titles == [("depth 5", 1), ("depth 6", 2), ("depth 7", 1)]
    with pytest.raises(AgentError, match="has ended after 4"):
        make_agent(f"replay:{path}", ignore, {}).propose(brief(history))


def test_importing_the_agents_is_light():
    code = "import sys, autoresearch.agent; print({'torch', 'optuna', 'anthropic', 'openai'} & sys.modules.keys())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
