"""A lab whose run asks models of the local server: what it was told, and what its ledger says."""

import json
import sqlite3
import subprocess
from dataclasses import dataclass, replace

import pytest

from tests.conftest import Done, Lab
from tests.llm_server import LLMServer, Request

CLAUDE, GPT = "anthropic:claude-haiku-4-5", "openai:gpt-5.1"
# For what is shown of each provider elsewhere: in tests/agent, or by other tests of the same file.
ONE = pytest.mark.parametrize("asking", [GPT], indirect=True)
WAIT = 0.5  # seconds: the longest wait of these runs, where a user's is ten minutes


@dataclass(frozen=True, slots=True)
class Experiment:
    """A row of the ledger."""

    number: int
    stage: str
    status: str
    title: str
    replies: int
    reason: str | None
    commit_id: str | None
    parent: str | None


@dataclass(frozen=True, slots=True)
class Call:
    """A model call as the ledger has it."""

    number: int  # the experiment's
    model: str
    input_tokens: int | None
    cached_tokens: int | None
    written_tokens: int | None
    output_tokens: int | None
    usd: float | None
    error: str | None


@dataclass(frozen=True)
class Asking:
    """A lab, and the model it asks."""

    lab: Lab
    server: LLMServer
    spec: str

    def command(self, experiments: int, *options: object) -> tuple[object, ...]:
        return ("run", "-p", "programs/quick.md", "-n", experiments, "-a", self.spec, "--sandbox", "off", *options)

    def __call__(self, experiments: int, *options: object) -> Done:
        """Run until there are so many experiments, the baseline included."""
        return self.lab(*self.command(experiments, *options))

    def start(self, experiments: int, *options: object) -> subprocess.Popen[str]:
        return self.lab.start(*self.command(experiments, *options))

    def having(self, **environ: str) -> "Asking":
        """The same with other variables in the environment."""
        return replace(self, lab=self.lab.at(self.lab.root, **environ))

    def experiments(self) -> list[Experiment]:
        """All but the baseline."""
        rows = self._rows(f"SELECT {', '.join(Experiment.__slots__)} FROM experiments WHERE number > 1 ORDER BY number")
        return [Experiment(*row) for row in rows]

    def calls(self) -> list[Call]:
        return [Call(*row) for row in self._rows(f"SELECT {', '.join(Call.__slots__)} FROM calls ORDER BY id")]

    def _rows(self, query: str) -> list[tuple]:
        with sqlite3.connect(self.lab.ledger) as db:
            return db.execute(query).fetchall()

    def changed(self, experiment: Experiment) -> list[str]:
        """The lines that its commit took away and added."""
        diff = self.lab.git("diff", "--unified=0", experiment.parent, experiment.commit_id)
        return [line for line in diff.splitlines() if line[:1] in "+-" and line[:3] not in ("+++", "---")]

    def recorded(self, number: int) -> list[dict]:
        """The files that an experiment's calls were written into."""
        folder = self.lab.ledger.parent / "runs" / "quick" / str(number)
        paths = sorted(folder.glob("call-*.json"), key=lambda path: int(path.stem.partition("-")[2]))
        return [json.loads(path.read_text()) for path in paths]


def said(request: Request) -> list[tuple[str, str]]:
    """The conversation that a request holds, in either wire format: (role, text)."""
    body = request.body
    system = [("system", _text(body["system"]))] if "system" in body else []
    roles = {"developer": "system"}
    return system + [(roles.get(m["role"], m["role"]), _text(m["content"])) for m in body["messages"]]


def _text(content: str | list[dict]) -> str:
    return content if isinstance(content, str) else "".join(block["text"] for block in content)
