"""From what the user wrote after --agent to an agent."""

from collections.abc import Callable, Mapping
from pathlib import Path

from autoresearch.agent.llm import LLMAgent
from autoresearch.agent.models import CommandModel, ReplayModel
from autoresearch.agent.search import SearchAgent
from autoresearch.errors import Misuse
from autoresearch.records import Brief, Exchange, Proposal

_EXISTING = "search, command:CMD (prompt on stdin, reply on stdout) or replay:FILE (recorded replies)"


class ReplayAgent:
    """Recorded replies; how many of them the run has used is read from its history."""

    def __init__(self, path: Path, record: Callable[[Exchange], None]) -> None:
        self.name = ReplayModel(path).name  # reads it, so that a bad recording is reported before the run begins
        self._path = path
        self._record = record

    def propose(self, brief: Brief) -> Proposal:
        used = sum(experiment.replies for experiment in brief.history if experiment.number > 1)  # 1 is the baseline
        return LLMAgent(ReplayModel(self._path, skip=used), self._record).propose(brief)


def make_agent(
    spec: str, record: Callable[[Exchange], None], environ: Mapping[str, str]
) -> SearchAgent | LLMAgent | ReplayAgent:
    """The agent named by `spec`: `search`, `command:CMD` or `replay:FILE`. Stateless between calls: all it knows comes
    with the brief, so a run can resume anywhere.

    `record` is called with each model call before its reply is read; `environ` is what a command's process gets.
    Misuse if there is no such agent; AgentError if its command or recording cannot be read.
    """
    kind, _, rest = spec.partition(":")
    if spec == "search":
        return SearchAgent()
    if kind == "command" and rest.strip():
        return LLMAgent(CommandModel(rest, environ), record)
    if kind == "replay" and rest.strip():
        return ReplayAgent(Path(rest), record)
    if kind in ("anthropic", "openai"):
        raise Misuse(f"The agent {kind}: comes with the next release.", f"Until then: {_EXISTING}.")
    raise Misuse(f"There is no agent {spec!r}.", f"Choose {_EXISTING}.")
