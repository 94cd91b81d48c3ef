"""A repository, its ledger, a corpus, an engine and an agent, brought together for one command."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from filelock import FileLock, Timeout

from autoresearch import campaign, workspace
from autoresearch.agent.calls import Terms
from autoresearch.agent.given import GivenAgent
from autoresearch.agent.select import default_agent, keys_set, make_agent
from autoresearch.corpus import sources, store
from autoresearch.engine.begun import Begun
from autoresearch.engine.local import LocalEngine
from autoresearch.engine.sandbox import Mode
from autoresearch.errors import CorpusError, LedgerError, Misuse
from autoresearch.ledger import Ledger
from autoresearch.loop import Agent, Loop
from autoresearch.program import shipped
from autoresearch.records import CorpusView, Exchange, Program, Waiting
from autoresearch.repeat import Repeater
from autoresearch.replay import Replayer
from autoresearch.schema import Run
from autoresearch.settings import Device
from autoresearch.stages import Watcher
from autoresearch.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Lab:
    """Where a command works: opened on a folder in a git repository."""

    workspace: Workspace
    ledger: Ledger
    cache: Path  # corpora and scratch, shared by labs
    environ: Mapping[str, str]

    # ------------------------------------------------------------------------------------------ runs

    def run(self, tag: str | None) -> Run:
        """The run of a tag, or the one worked on last. Misuse if there is none."""
        runs = self.ledger.runs()
        if tag is None and runs:
            return runs[0]
        found = self.ledger.run(tag) if tag else None
        if found is None and not runs:
            raise LedgerError("no run has been started in this repository.", "Start one with `autoresearch run`.")
        if found is None:
            raise Misuse(f"there is no run {tag}.", f"There are {', '.join(run.tag for run in runs)}.")
        return found

    @contextmanager
    def lock(self, tag: str) -> Iterator[None]:
        """Only one process works on a run. Misuse if another does."""
        with _held(
            self._lock(workspace.check_tag(tag)),
            f"run {tag} is being worked on by another process.",
            f"See `autoresearch status --tag {tag}`; or start another run with --tag.",
        ):
            yield

    @contextmanager
    def replaying(self, tag: str) -> Iterator[None]:
        """Only one process replays a run, since each replay takes the next seed; the run itself may go on meanwhile.
        Misuse if another does."""
        with _held(
            self._lock(tag, "replay.lock"),
            f"a commit of run {tag} is being replayed by another process.",
            "Wait for it to end: the next replay takes the next seed.",
        ):
            yield

    def alive(self, tag: str) -> bool:
        """Whether a process works on a run now."""
        lock = self._lock(tag)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return True
        lock.release()
        return False

    def _lock(self, tag: str, name: str = "lock") -> FileLock:
        folder = self.ledger.folder / "runs" / tag
        folder.mkdir(parents=True, exist_ok=True)
        return FileLock(folder / name)

    # ------------------------------------------------------------------------------------------ what works on them

    def proposer(self, tag: str) -> tuple[str, str]:
        """The agent of a run for which none is named, and why that one: who proposed before, a person's `try` apart,
        or else whom a key that is set chooses."""
        run = self.ledger.run(tag)
        names = [run.agent, *(e.agent for e in reversed(self.ledger.experiments(tag)))] if run else []
        before = next((name for name in names if name not in ("", GivenAgent.name)), None)
        spec, keys = default_agent(self.environ), keys_set(self.environ)
        if before is None:
            return spec, f", since {keys[spec]} is set" if spec in keys else ", since no key is set"
        other = spec in keys and not before.startswith(f"{spec}:")
        return before, f", as before ({keys[spec]} is set: --agent {spec} changes over)" if other else ", as before"

    def agent(self, spec: str, tag: str, watcher: Watcher, terms: Terms | None = None) -> Agent:
        """The agent that a user names, its model calls charged to the run's open experiment. Misuse if unknown."""
        return make_agent(spec, _RunDesk(self.ledger, tag, watcher), self.environ, terms)

    def engine(
        self, tag: str, device: Device, sandbox: Mode = "auto", begun: Begun | None = None, replays: bool = False
    ) -> LocalEngine:
        """What measures for a run, or for replays of it. begun: what imports already for it. EngineError if the device
        is not there, and in mode `strict` if the sandbox is not whole."""
        label = f"{self._id()}-{tag}{'~replay' if replays else ''}"  # no tag has a ~
        return LocalEngine(self.cache / "scratch", self.environ, label, device, sandbox=sandbox, begun=begun)

    def loop(
        self,
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
        begun = self.ledger.run(tag)
        compares = campaign.has_figure(self.ledger.experiment(tag, 1))  # or else the text as it is now is wanted
        prepared = store.open(named, self.cache, begun.fingerprint if begun and compares else None)
        spec = sources.canonical(named)
        new = campaign.plan(tag, program, text, spec, prepared.fingerprint, agent.name, engine, self.workspace)
        run = campaign.enter(new, engine, self.workspace, self.ledger)
        engine.reap()
        return Loop(run, program, self.ledger, self.workspace, agent, engine, self._views(prepared), watcher, strict)

    def outdated(self, run: Run) -> str | None:
        """A line on a run's corpus if its source holds another text by now; one that has no figure yet takes that."""
        if not campaign.has_figure(self.ledger.experiment(run.tag, 1)):
            return None
        there = [corpus for corpus in store.prepared(run.corpus, self.cache) if corpus.fingerprint == run.fingerprint]
        if any(store.is_as_it_was(corpus, self.cache) for corpus in there):
            return None
        return f"{run.corpus} is not as it was when run {run.tag} began, which goes on with the text of then"

    def replayer(self, run: Run, watcher: Watcher, engine: LocalEngine) -> Replayer:
        """What measures commits of a run again. engine: for replays of its tag. CorpusError if its corpus is not here
        any more."""
        prepared = store.open(run.corpus, self.cache, run.fingerprint)
        if prepared.fingerprint != run.fingerprint:
            raise CorpusError(
                f"the corpus {run.corpus} has changed since run {run.tag} began.", "Its figures cannot be repeated."
            )
        engine.reap()
        return Replayer(Repeater(run, self.ledger, self.workspace, engine, self._views(prepared), watcher))

    def _id(self) -> str:
        """Tells this lab's processes and folders from another's."""
        return hashlib.sha256(str(self.ledger.folder.resolve()).encode()).hexdigest()[:12]

    def _views(self, prepared: store.Corpus) -> Callable[[int], CorpusView]:
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


@contextmanager
def _held(lock: FileLock, taken: str, remedy: str) -> Iterator[None]:
    try:
        lock.acquire(timeout=1)
    except Timeout:
        raise Misuse(taken, remedy) from None
    try:
        yield
    finally:
        lock.release()


def open_lab(folder: Path, cache: Path, environ: Mapping[str, str], create: bool = True) -> Lab:
    """The lab around a folder. WorkspaceError if it is none; LedgerError if nothing was ever run and not `create`."""
    space = Workspace(folder)
    return Lab(space, Ledger(space.state, create=create), cache, environ)


def create(folder: Path) -> None:
    """A new lab: a git repository with the file to train, and programs to start from."""
    core = files("autoresearch").joinpath("train_core.py").read_text(encoding="utf-8")
    lab = {"train_core.py": core, "README.md": _README, ".gitignore": "__pycache__/\n"}
    for path in sorted(shipped().glob("*.md")):
        lab[f"programs/{path.name}"] = path.read_text(encoding="utf-8").replace(
            "edit: src/autoresearch/train_core.py", "edit: train_core.py"
        )
    workspace.create(folder, lab, "A lab for autoresearch")


_README = """# A lab

`train_core.py` is the file that experiments change; `programs/` holds what you ask of them, in Markdown.

    autoresearch prepare --program programs/tiny.md
    autoresearch run --program programs/tiny.md --experiments 7
    autoresearch status
    autoresearch log

`programs/tiny.md` needs no GPU; `programs/default.md` wants one with 80 GB, `programs/24gb.md` and `programs/8gb.md`
what their names say. What was kept is on the branch `autoresearch/tiny`.

A model proposes if ANTHROPIC_API_KEY or OPENAI_API_KEY is set, and else a search over the file's constants.
`autoresearch doctor` says whether keys, disk and GPU will do; it costs nothing.
"""
