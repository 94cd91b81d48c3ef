"""From what the user wrote after --agent to an agent."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from autoresearch.agent.calls import SILENCE, Caller, Desk, Terms
from autoresearch.agent.llm import LLMAgent
from autoresearch.agent.models import ChatModel, CommandModel, ReplayModel
from autoresearch.agent.providers import PROVIDERS, make_provider
from autoresearch.agent.search import SearchAgent
from autoresearch.errors import Misuse, ModelUnavailable
from autoresearch.records import Brief, Proposal

AGENTS = (
    "search (no model), anthropic:MODEL, openai:MODEL (or any server that speaks its language), command:CMD (prompt on"
    " stdin, reply on stdout) or replay:FILE (recorded replies); without :MODEL, the provider's default one"
)


class ReplayAgent:
    """Recorded replies; how many of them the run has used is read from its history."""

    def __init__(self, model: ReplayModel, desk: Desk) -> None:
        self.name = model.name
        self._model = model
        self._agent = LLMAgent(Caller(model, desk))

    def propose(self, brief: Brief) -> Proposal:
        self._model.used = sum(experiment.replies for experiment in brief.history if experiment.agent == self.name)
        return self._agent.propose(brief)


def make_agent(
    spec: str, desk: Desk, environ: Mapping[str, str], terms: Terms | None = None
) -> SearchAgent | LLMAgent | ReplayAgent:
    """The agent named by `spec`. Stateless between calls: all it knows comes with the brief, so a run can resume
    anywhere. `environ` is what a command's process gets, and where keys and base URLs are looked for.

    Misuse if there is no such agent, or `terms` cannot be kept with it; AgentError if its command, its
    recording, its key or its model will not do.
    """
    terms = terms or Terms()
    model = None if spec == "search" else make_model(spec, environ, terms.silence)
    _check(terms, spec, model)
    if model is None:
        return SearchAgent()
    if isinstance(model, ReplayModel):
        return ReplayAgent(model, desk)
    with suppress(ModelUnavailable):  # it will be asked again when it is needed
        model.check()
    return LLMAgent(Caller(model, desk, terms))


def _check(terms: Terms, spec: str, model: ChatModel | None) -> None:
    """Misuse if a price is given and no use, or not known and needed."""
    counted = spec.partition(":")[0] in PROVIDERS
    if terms.price is not None and not counted:
        raise Misuse(f"--price is of no use to {spec}, which counts no tokens.", "Leave it out.")
    if terms.max_cost is not None and model is not None and (terms.price or model.price) is None:
        raise Misuse(
            f"--max-cost cannot be kept: what {model.name} costs is not known.",
            "Say it with --price IN,OUT in dollars per million tokens, or leave --max-cost out."
            if counted
            else "Leave it out: a command counts no tokens.",
        )


def make_model(spec: str, environ: Mapping[str, str], silence: float = SILENCE) -> ChatModel:
    """The chat model that `spec` names. Misuse if it names none; AgentError if it cannot be one on this machine.

    `silence`: seconds without a sign of life after which a call to a server is given up.
    """
    kind, _, rest = spec.partition(":")
    if kind == "command" and rest.strip():
        return CommandModel(rest, environ)
    if kind in PROVIDERS and (rest.strip() or spec == kind):
        return make_provider(kind, rest.strip() or None, environ, silence)
    if kind == "replay" and rest.strip():
        return ReplayModel(Path(rest))
    raise Misuse(f"There is no agent {spec!r}.", f"Choose {AGENTS}.")


def keys_set(environ: Mapping[str, str]) -> dict[str, str]:
    """The providers whose key is set, preferred first, and the variable that holds it."""
    found = {provider: model.key_variable(environ) for provider, model in PROVIDERS.items()}
    return {provider: variable for provider, variable in found.items() if variable}


def default_agent(environ: Mapping[str, str]) -> str:
    """Who proposes if nobody is named: the first provider whose key is set, or else the search."""
    return next(iter(keys_set(environ)), "search")
