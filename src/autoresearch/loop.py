"""The cycle: propose, commit, train and score, decide, keep or revert, until time or experiments are spent.

Each stage takes the experiment as it stands and returns it one stage further, written to the ledger. A process that
is killed at any point leaves an experiment in some stage, and the next start goes on from there.
"""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from autoresearch import decide, knobs, trial
from autoresearch.errors import AgentError, EngineError, LimitReached, UserError
from autoresearch.ledger import Ledger
from autoresearch.records import (
    Brief,
    CorpusView,
    Experiment,
    Measurement,
    Patch,
    Program,
    Progress,
    Proposal,
    Trial,
    Waiting,
)
from autoresearch.schema import Run
from autoresearch.units import format_duration
from autoresearch.workspace import Workspace

FAILURES = 5  # proposals in a row without a patch, after which an agent is not asked again


class Agent(Protocol):
    """Who proposes. AgentError if it cannot; what it proposes may still fail."""

    name: str

    def propose(self, brief: Brief) -> Proposal: ...


class Engine(Protocol):
    """Where experiments run."""

    hardware: str  # one line: what an experiment runs on
    fingerprint: str  # of the code that measures

    def measure(self, trial: Trial, watch: Callable[[Progress], None]) -> Measurement: ...


class Watcher(Protocol):
    """Who looks on: told of every stage, of progress within one, and of what is waited for."""

    def stage(self, experiment: Experiment) -> None: ...

    def progress(self, experiment: Experiment, progress: Progress) -> None: ...

    def waiting(self, experiment: Experiment, waiting: Waiting | None) -> None:
        """None: it is over."""


class Watchers:
    """Several who look on, as one: each is told, in the order given."""

    def __init__(self, *watchers: Watcher) -> None:
        self._watchers = watchers

    def stage(self, experiment: Experiment) -> None:
        for watcher in self._watchers:
            watcher.stage(experiment)

    def progress(self, experiment: Experiment, progress: Progress) -> None:
        for watcher in self._watchers:
            watcher.progress(experiment, progress)

    def waiting(self, experiment: Experiment, waiting: Waiting | None) -> None:
        for watcher in self._watchers:
            watcher.waiting(experiment, waiting)


@dataclass(frozen=True, slots=True)
class Limits:
    """When to stop: at a time (seconds since the epoch), and at a number of experiments in the run, the baseline's
    included. None: no such limit."""

    deadline: float | None = None
    experiments: int | None = None


@dataclass(frozen=True, slots=True)
class Loop:
    """One run at work, with all it needs at hand."""

    run: Run
    program: Program
    ledger: Ledger
    workspace: Workspace
    agent: Agent
    engine: Engine
    corpus: Callable[[int], CorpusView]  # the corpus encoded with a vocabulary of that size
    watcher: Watcher

    def until(self, limits: Limits) -> str:
        """Run experiments until a limit is reached, which it returns in words. Raises UserError if it cannot go on."""
        session = self.ledger.enter(self.run.tag, self.agent.name)
        why = "interrupted"
        try:
            why = self._until(limits)
        except UserError as error:
            why = f"failed: {error}"
            raise
        finally:
            self.ledger.leave(session, why)
        return why

    def once(self) -> Experiment:
        """Finish what is unfinished, the baseline too, and then run one proposal, which it returns."""
        waiting = self.ledger.open_experiment(self.run.tag)
        ours = waiting.number > 1 and (waiting.stage == "proposing" or self._is_the_same(waiting))
        number = waiting.number if ours else max(2, waiting.number + 1)
        self.until(Limits(experiments=number))
        tried = self.ledger.experiment(self.run.tag, number)
        assert tried
        return tried

    def _is_the_same(self, waiting: Experiment) -> bool:
        """Whether an unfinished experiment is the very proposal at hand, interrupted."""
        if waiting.agent != self.agent.name:
            return False
        proposal = self.agent.propose(self._brief(waiting))
        return proposal.patch is not None and self.ledger.patch(waiting) == dict(proposal.patch.files)

    def _until(self, limits: Limits) -> str:
        failed = 0
        while True:
            experiment = self.ledger.unfinished(self.run.tag)
            if why := self._spent(limits) or self._too_late(experiment, limits):
                return why
            experiment = experiment or self.ledger.open_experiment(self.run.tag)
            while experiment.stage != "done":
                if why := self._too_late(experiment, limits):
                    return why
                self.watcher.stage(experiment)
                try:
                    experiment = self._step(experiment, limits.deadline)
                except LimitReached as limit:
                    return limit.message
            self.watcher.stage(experiment)
            if experiment.number == 1 and experiment.status != "kept":
                raise EngineError(f"the baseline {experiment.status}: {experiment.reason}.", self._mend(experiment))
            failed = failed + 1 if experiment.status == "failed" else 0
            if failed == FAILURES:
                raise AgentError(
                    f"the last {FAILURES} proposals had no patch that applies: {experiment.reason}.",
                    f"Read its replies in {self.ledger.folder_of(self.run.tag, experiment.number)}.",
                )

    def _step(self, experiment: Experiment, deadline: float | None) -> Experiment:
        match experiment.stage:
            case "proposing":
                return self.propose(experiment, deadline)
            case "proposed":
                return self.commit(experiment)
            case "committed" | "running":
                return self.measure(experiment, deadline)
            case "measured":
                return self.decide(experiment)
            case _:
                return self.settle(experiment)

    # ------------------------------------------------------------------------------------------ the stages

    def propose(self, experiment: Experiment, deadline: float | None = None) -> Experiment:
        """Ask the agent, who sees the files at the tip and what the ledger remembers."""
        if experiment.number == 1:
            return self.ledger.propose(experiment, self._baseline())
        proposal = self.agent.propose(self._brief(experiment, deadline))
        return self.ledger.propose(experiment, proposal, self.agent.name)

    def commit(self, experiment: Experiment) -> Experiment:
        """Put the patch into git: a commit on the tip, held by the attempt's ref. Without a patch it has failed."""
        tip, number, files = self._tip(), experiment.number, self.ledger.patch(experiment)
        if files is None:
            return self.ledger.advance(experiment, "decided", status="failed")
        if files:
            commit = self.workspace.commit(self.run.tag, number, tip, files, _message(experiment, self.run.tag))
        else:
            commit = tip
            self.workspace.mark(self.run.tag, number, commit)
        texts = [self.workspace.read(commit, path) for path in self.program.settings.edit]
        return self.ledger.advance(
            experiment,
            "committed",
            commit=commit,
            parent=tip,
            lines=sum(map(trial.code_lines, texts)),
            knobs=knobs.values(texts[0]),
        )

    def measure(self, experiment: Experiment, deadline: float | None = None) -> Experiment:
        """Train and score the commit. Whatever comes of it is a measurement."""
        commit = experiment.commit
        assert commit
        seed = self._seed(experiment.number, 1)
        id = self.ledger.begin(experiment, "first", seed)
        if experiment.stage == "committed":
            experiment = self.ledger.advance(experiment, "running")
        try:
            prepared = trial.build(
                self.program,
                self.workspace.read(commit, self.program.settings.edit[0]),
                seed,
                self.corpus,
                self.ledger.folder_of(self.run.tag, experiment.number),
                tip=trial.tip(self.ledger, self.run.tag),
                keep=True,
                deadline=deadline,
            )
            measurement = self.engine.measure(prepared, partial(self.watcher.progress, experiment))
        except trial.Unfit as error:
            measurement = trial.unfit(seed, error)
        return self.ledger.measured(experiment, id, measurement)

    def decide(self, experiment: Experiment) -> Experiment:
        """Keep it or not, and why."""
        measurement = experiment.deciding
        assert measurement
        tip = self.ledger.tip(self.run.tag)
        verdict = decide.decide(self.program.settings, self.run.metric, tip, measurement, experiment.lines or 0)
        standing = "provisional" if verdict.status == "kept" and tip is not None else None
        return self.ledger.advance(
            experiment, "decided", status=verdict.status, reason=verdict.reason, standing=standing
        )

    def settle(self, experiment: Experiment) -> Experiment:
        """Make the verdict true in git, and let go of what is not needed any more."""
        if experiment.status == "kept" and experiment.commit and experiment.parent:
            self.workspace.keep(self.run.tag, experiment.commit, experiment.parent)
        kept = [e.number for e in self.ledger.experiments(self.run.tag) if e.status == "kept"]
        for number in {experiment.number, *kept} - {1, *kept[-1:]}:
            trial.let_go(self.ledger, self.run.tag, number)
        return self.ledger.advance(experiment, "done", ended=time.time())

    # ------------------------------------------------------------------------------------------ limits

    def _spent(self, limits: Limits) -> str | None:
        if limits.experiments is None:
            return None
        done = sum(e.stage == "done" for e in self.ledger.experiments(self.run.tag))
        return f"{done} experiments are done" if done >= limits.experiments else None

    def _too_late(self, experiment: Experiment | None, limits: Limits) -> str | None:
        """An experiment that cannot finish before the deadline is not started; nor is a proposal for one."""
        if limits.deadline is None or (experiment and experiment.stage in ("measured", "decided")):
            return None
        left, expected = limits.deadline - time.time(), self._expected()
        if left < expected:
            return f"{format_duration(max(left, 0))} are left, and an experiment takes {format_duration(expected)}"
        return None

    def _expected(self) -> float:
        """Seconds that one more training and scoring will take: the longest of the last five, or a guess."""
        deciding = [m for e in self.ledger.experiments(self.run.tag) if (m := e.deciding) and m.outcome == "scored"]
        totals = [m.seconds.get("total", 0.0) for m in deciding[-5:]]
        return max(totals, default=self.program.settings.budget * 1.1 + 10)

    # ------------------------------------------------------------------------------------------ helpers

    def _tip(self) -> str:
        tip = self.ledger.tip(self.run.tag)
        return tip.commit if tip and tip.commit else self.run.base

    def _brief(self, experiment: Experiment, deadline: float | None = None) -> Brief:
        files = {path: self.workspace.read(self._tip(), path) for path in self.program.settings.edit}
        return Brief(
            program=self.program,
            metric=self.run.metric,
            files=files,
            history=tuple(e for e in self.ledger.experiments(self.run.tag) if e.number < experiment.number),
            number=experiment.number,
            tag=self.run.tag,
            hardware=self.engine.hardware,
            seed=self._seed(experiment.number, 0),
            until=None if deadline is None else deadline - self._expected(),
        )

    def _baseline(self) -> Proposal:
        """The file as it is, but for the constants that the program gives."""
        path, constants = self.program.settings.edit[0], self.program.settings.constants
        source = self.workspace.read(self.run.base, path)
        text = trial.with_constants(source, self.program)
        files = {path: text} if text != source else {}
        told = ", ".join(f"{name} = {setting}" for name, setting in constants.items())
        why = f"The file with the program's constants: {told}." if files else "The file as it is."
        return Proposal(title="baseline", hypothesis=why, patch=Patch(files))

    def _seed(self, number: int, measurement: int) -> int:
        return seed_of(self.run, number, measurement)

    def _mend(self, experiment: Experiment) -> str:
        log = self.ledger.folder_of(self.run.tag, experiment.number) / "train.log"
        where = f" Its log is {log}." if log.exists() else ""
        return f"Mend {self.program.settings.edit[0]}, commit, and run again.{where}"


def seed_of(run: Run, number: int, measurement: int) -> int:
    """A seed nobody chose: a hash of the run's secret, the experiment and the measurement, 31 bits."""
    return int.from_bytes(hashlib.sha256(f"{run.seed}/{number}/{measurement}".encode()).digest()[:4]) >> 1


def _message(experiment: Experiment, tag: str) -> str:
    trailers = f"Experiment: {tag}/{experiment.number}\nFamily: {experiment.family}"
    return f"{experiment.title}\n\n{experiment.hypothesis}\n\n{trailers}\n"
