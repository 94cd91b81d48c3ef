"""What works on a run: agent, engine, corpus and loop, brought together for one command."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from autoresearch import campaign
from autoresearch.agent.calls import Terms
from autoresearch.agent.given import GivenAgent
from autoresearch.agent.select import default_agent, keys_set, make_agent
from autoresearch.corpus import sources, store
from autoresearch.engine.begun import Begun
from autoresearch.engine.local import LocalEngine
from autoresearch.engine.sandbox import Mode
from autoresearch.errors import CorpusError
from autoresearch.lab import Lab
from autoresearch.ledger import Ledger
from autoresearch.loop import Agent, Loop
from autoresearch.records import CorpusView, Exchange, Program, Waiting
from autoresearch.repeat import Repeater
from autoresearch.replay import Replayer
from autoresearch.schema import Run
from autoresearch.settings import Device
from autoresearch.stages import Watcher


def proposer(lab: Lab, tag: str) -> tuple[str, str]:
    """The agent of a run for which none is named, and why that one: who proposed before, a person's `try` apart,
    or else whom a key that is set chooses."""
    run = lab.ledger.run(tag)
    names = [run.agent, *(e.agent for e in reversed(lab.ledger.experiments(tag)))] if run else []
    before = next((name for name in names if name not in ("", GivenAgent.name)), None)
    spec, keys = default_agent(lab.environ), keys_set(lab.environ)
    if before is None:
        return spec, f", since {keys[spec]} is set" if spec in keys else ", since no key is set"
    other = spec in keys and not before.startswith(f"{spec}:")
    return before, f", as before ({keys[spec]} is set: --agent {spec} changes over)" if other else ", as before"


def agent(lab: Lab, spec: str, tag: str, watcher: Watcher, terms: Terms | None = None) -> Agent:
    """The agent that a user names, its model calls charged to the run's open experiment. Misuse if unknown."""
    return make_agent(spec, _RunDesk(lab.ledger, tag, watcher), lab.environ, terms)


def engine(
    lab: Lab, tag: str, device: Device, sandbox: Mode = "auto", begun: Begun | None = None, replays: bool = False
) -> LocalEngine:
    """What measures for a run, or for replays of it. begun: what imports already for it. EngineError if the device
    is not there, and in mode `strict` if the sandbox is not whole."""
    # The label tells this lab's processes and folders from another's. No tag has a ~.
    place = hashlib.sha256(str(lab.ledger.folder.resolve()).encode()).hexdigest()[:12]
    label = f"{place}-{tag}{'~replay' if replays else ''}"
    return LocalEngine(lab.cache / "scratch", lab.environ, label, device, sandbox=sandbox, begun=begun)


def loop(
    lab: Lab,
    program: Program,
    text: str,
    tag: str,
    watcher: Watcher,
    agent: Agent,
    engine: LocalEngine,
    corpus_spec: str | None = None,
    strict: bool = False,
) -> Loop:
    """The loop of a run, begun or taken up. engine: of this tag. strict: it checks each keep at once."""
    named = corpus_spec or program.settings.corpus
    begun = lab.ledger.run(tag)
    compares = campaign.has_figure(lab.ledger.experiment(tag, 1))  # or else the text as it is now is wanted
    prepared = store.open(named, lab.cache, begun.fingerprint if begun and compares else None)
    spec = sources.canonical(named)
    new = campaign.plan(tag, program, text, spec, prepared.fingerprint, agent.name, engine, lab.workspace)
    run = campaign.enter(new, engine, lab.workspace, lab.ledger)
    engine.reap()
    return Loop(run, program, lab.ledger, lab.workspace, agent, engine, _views(prepared), watcher, strict)


def outdated(lab: Lab, run: Run) -> str | None:
    """A line on a run's corpus if its source holds another text by now; one that has no figure yet takes that."""
    if not campaign.has_figure(lab.ledger.experiment(run.tag, 1)):
        return None
    there = [corpus for corpus in store.prepared(run.corpus, lab.cache) if corpus.fingerprint == run.fingerprint]
    if any(store.is_as_it_was(corpus, lab.cache) for corpus in there):
        return None
    return f"{run.corpus} is not as it was when run {run.tag} began, which goes on with the text of then"


def replayer(lab: Lab, run: Run, watcher: Watcher, engine: LocalEngine) -> Replayer:
    """What measures commits of a run again. engine: for replays of its tag. CorpusError if its corpus is not here
    any more."""
    prepared = store.open(run.corpus, lab.cache, run.fingerprint)
    if prepared.fingerprint != run.fingerprint:
        raise CorpusError(
            f"the corpus {run.corpus} has changed since run {run.tag} began.", "Its figures cannot be repeated."
        )
    engine.reap()
    return Replayer(Repeater(run, lab.ledger, lab.workspace, engine, _views(prepared), watcher))


def _views(prepared: store.Corpus) -> Callable[[int], CorpusView]:
    def view(vocab_size: int) -> CorpusView:
        if vocab_size in prepared.manifest.vocabularies:
            return prepared.view(vocab_size)
        from autoresearch.corpus import prepare

        return prepare.ensure(prepared, vocab_size).view(vocab_size)

    return view


@dataclass(frozen=True, slots=True)
class _RunDesk:
    """Where the model calls of one run are noted."""

    ledger: Ledger
    tag: str
    watcher: Watcher

    def record(self, exchange: Exchange) -> None:
        self.ledger.charge(self.ledger.open_experiment(self.tag), exchange)

    def spent(self) -> float:
        return self.ledger.usage(self.tag).usd or 0.0

    def waiting(self, waiting: Waiting | None) -> None:
        self.watcher.waiting(self.ledger.open_experiment(self.tag), waiting)
