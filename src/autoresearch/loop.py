"""The cycle: propose, commit, train and score, decide, keep or revert, until time or experiments are spent.

Each stage takes the experiment as it stands and returns it one stage further, written to the ledger. A process that
is killed at any point leaves an experiment in some stage, and the next start goes on from there. Between experiments
is measured again what `decide` says is due: what holds is confirmed, what does not is rolled back.
"""

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Protocol

from autoresearch import decide, knobs, machine, pace, steady, trial
from autoresearch.errors import AgentError, EngineError, LimitReached, UserError
from autoresearch.inert import inert
from autoresearch.ledger import Ledger
from autoresearch.limits import Limits, expected
from autoresearch.records import (
    Brief,
    CorpusView,
    Experiment,
    Measurement,
    Pace,
    Patch,
    Program,
    Proposal,
    Purpose,
    Standing,
    TokenFile,
    Verdict,
)
from autoresearch.repeat import Repeater, seed_of
from autoresearch.schema import Run
from autoresearch.settings import Settings
from autoresearch.stages import Engine, Watcher
from autoresearch.workspace import Workspace

Due = Callable[[Settings, Sequence[Experiment]], tuple[Experiment, Purpose] | None]

FAILURES = 5  # proposals in a row without a patch, after which an agent is not asked again


class Agent(Protocol):
    """Who proposes. AgentError if it cannot; what it proposes may still fail."""

    name: str

    def propose(self, brief: Brief) -> Proposal: ...


@dataclass(frozen=True)
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
    strict: bool = False  # check each keep at once

    @cached_property
    def repeater(self) -> Repeater:
        """What measures again."""
        return Repeater(self.run, self.ledger, self.workspace, self.engine, self.corpus, self.watcher)

    def until(self, limits: Limits, alone: bool = False) -> str:
        """Run experiments until a limit is reached, which it returns in words. Raises UserError if it cannot go on.

        alone: measure nothing again, before, between or after them."""
        session = self.ledger.enter(self.run.tag, self.agent.name)
        why = "interrupted"
        try:
            try:
                why = self._until(limits, alone)
            except LimitReached as limit:
                why = limit.message
            if not alone:
                with contextlib.suppress(LimitReached):  # time was up in the middle of it: what is due stays due
                    self._repeat(decide.last_due, limits.deadline)
            self._catch_up()
            self._let_go()
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
        self.until(Limits(experiments=number), alone=True)
        tried = self.ledger.experiment(self.run.tag, number)
        assert tried
        return tried

    def _is_the_same(self, waiting: Experiment) -> bool:
        """Whether an unfinished experiment is the very proposal at hand, interrupted."""
        if waiting.agent != self.agent.name:
            return False
        proposal = self.agent.propose(self._brief(waiting))
        return proposal.patch is not None and self.ledger.patch(waiting) == dict(proposal.patch.files)

    def _until(self, limits: Limits, alone: bool) -> str:
        failed = reserved = 0
        asked = alone  # whether it is settled what the end is to have: by then it is known what a training takes
        self._settle_standing()
        self._catch_up()
        while True:
            experiment = self.ledger.unfinished(self.run.tag)
            if experiment is None and not alone:
                self._repeat(partial(decide.due, strict=self.strict), limits.deadline)
            history = self.ledger.experiments(self.run.tag)
            reserved = reserved if asked else limits.reserved(self.program.settings, history)
            done = sum(e.stage == "done" for e in history)
            if why := limits.spent(done) or limits.too_late(experiment, self._expected(), reserved):
                return why
            experiment = experiment or self.ledger.open_experiment(self.run.tag)
            asked = asked or experiment.number > 1
            while experiment.stage != "done":
                if why := limits.too_late(experiment, self._expected(), reserved):
                    return why
                self.watcher.stage(experiment)
                experiment = self._step(experiment, limits, reserved)
            self.watcher.stage(experiment)
            if experiment.number == 1 and experiment.status != "kept":
                raise EngineError(f"the baseline {experiment.status}: {experiment.reason}.", self._mend(experiment))
            failed = failed + 1 if experiment.status == "failed" else 0
            if failed == FAILURES:
                raise AgentError(
                    f"the last {FAILURES} proposals had no patch that applies: {experiment.reason}.",
                    f"Read its replies in {self.ledger.folder_of(self.run.tag, experiment.number)}.",
                )

    def _step(self, experiment: Experiment, limits: Limits, reserved: int) -> Experiment:
        match experiment.stage:
            case "proposing":
                return self.propose(experiment, limits.answer_by(self._expected(), reserved))
            case "proposed":
                return self.commit(experiment)
            case "committed" | "running":
                return self.measure(experiment, limits.deadline)
            case "measured":
                return self.decide(experiment)
            case _:
                return self.settle(experiment)

    # ------------------------------------------------------------------------------------------ the stages

    def propose(self, experiment: Experiment, until: float | None = None) -> Experiment:
        """Ask the agent, who sees the files at the tip and what the ledger remembers. until: when it must have
        answered (steady.now())."""
        if experiment.number == 1:
            return self.ledger.propose(experiment, self._baseline())
        proposal = self.agent.propose(self._brief(experiment, until))
        return self.ledger.propose(experiment, proposal, self.agent.name)

    def commit(self, experiment: Experiment) -> Experiment:
        """Put the patch into git: a commit on the tip, held by the attempt's ref. Without a patch it has failed."""
        tip, number, files = self._tip(), experiment.number, self.ledger.patch(experiment)
        if files is None:
            return self.ledger.advance(experiment, "decided", status="failed")
        if files and number > 1 and (idle := self._inert(tip, files)):
            return self.ledger.advance(experiment, "decided", status="failed", reason=idle)
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
        source = self.workspace.read(commit, self.program.settings.edit[0])
        try:
            prepared = trial.build(
                self.program,
                source,
                seed,
                self.corpus,
                self.ledger.folder_of(self.run.tag, experiment.number),
                tip=trial.tip(self.ledger, self.run.tag),
                keep=True,
                bar=tip.level if (tip := self.ledger.tip(self.run.tag)) else None,
                deadline=deadline,
                pace=partial(self._pace, source, seed),
            )
            measurement = self.engine.measure(prepared, partial(self.watcher.progress, experiment))
        except trial.Unfit as error:
            measurement = trial.unfit(seed, error)
        if self._verdict(experiment, measurement).status == "kept":
            machine.sync(self.ledger.folder)  # later ones start from what it has left: caches, losses
        return self.ledger.measured(experiment, id, measurement)

    def decide(self, experiment: Experiment) -> Experiment:
        """Keep it or not, and why."""
        measurement = experiment.deciding
        assert measurement
        verdict = self._verdict(experiment, measurement)
        standing = "provisional" if verdict.status == "kept" and self.ledger.tip(self.run.tag) else None
        return self.ledger.advance(
            experiment, "decided", status=verdict.status, reason=verdict.reason, standing=standing
        )

    def _verdict(self, experiment: Experiment, measurement: Measurement) -> Verdict:
        tip, lines = self.ledger.tip(self.run.tag), experiment.lines or 0
        spread = decide.noise(self.program.settings, self.ledger.experiments(self.run.tag))
        return decide.decide(self.program.settings, self.run.metric, tip, measurement, lines, spread)

    def settle(self, experiment: Experiment) -> Experiment:
        """Make the verdict true in git, and let go of what is not needed any more."""
        if experiment.status == "kept" and experiment.commit and experiment.parent:
            self.workspace.keep(self.run.tag, experiment.commit, experiment.parent)
        self._catch_up()
        self._let_go(experiment)
        return self.ledger.advance(experiment, "done", ended=time.time())

    # ------------------------------------------------------------------------------------------ measured again

    def _repeat(self, due: Due, deadline: float | None) -> None:
        """Measure again what is due, one after the other, as long as there is time for it."""
        settings = self.program.settings
        while True:
            history = self.ledger.experiments(self.run.tag)
            self._settle_check(history)
            history = self.ledger.experiments(self.run.tag)
            task = due(settings, history)
            if task is None or (deadline is not None and deadline - steady.now() < self._expected()):
                return
            experiment, purpose = task
            if (experiment.number, purpose) == (1, "final"):
                before = sum(m.purpose == "final" for m in experiment.measurements)  # also those that failed
                trained = experiment.scored("noise")[before]
                found = self.repeater.score(experiment, trained, self.program, deadline)
            else:
                source = self.repeater.source(experiment, self.program)
                found = self.repeater.train(experiment, purpose, self.program, source, deadline=deadline)
            self.watcher.repeated(experiment, found)

    def _settle_check(self, history: list[Experiment]) -> None:
        """Confirm or roll back what a check has judged, and all that was kept since the last one."""
        tip = self.ledger.tip(self.run.tag)
        if tip is None or tip.standing != "provisional" or not any(m.purpose == "check" for m in tip.measurements):
            return
        last, noise = decide.confirmed(history), decide.noise(self.program.settings, history)
        verdict = decide.check(self.program.settings, self.run.metric, last, tip, noise)
        standing: Standing = "confirmed" if verdict.status == "kept" else "rolled_back"
        word = standing.replace("_", " ")
        said = {
            e.number: f"{e.reason}; {word} with #{tip.number}" for e in history if e.holds and e.number > last.number
        }
        said[tip.number] = f"{tip.reason}; {word}: measured again, against #{last.number}, {verdict.reason}"
        self.ledger.stand(self.run.tag, standing, said)
        self._settle_standing()
        self.watcher.checked(replace(tip, standing=standing, reason=said[tip.number]))

    def _settle_standing(self) -> None:
        """Make true in git what a check has rolled back, and let go of what is not needed any more."""
        tip, branch = self.ledger.tip(self.run.tag), self.workspace.branch(self.run.tag)
        undone = {e.commit for e in self.ledger.experiments(self.run.tag) if e.standing == "rolled_back"}
        if tip and tip.commit and branch and branch in undone:
            self.workspace.keep(self.run.tag, tip.commit, branch)
        self._let_go()

    def _catch_up(self) -> None:
        """Have the branch at the tip if it could not be moved because somebody had it checked out."""
        tip = self.ledger.tip(self.run.tag)
        if tip and tip.commit:
            self.workspace.catch_up(self.run.tag, tip.commit)

    def _let_go(self, *done: Experiment) -> None:
        """Delete what was left of these and of what was kept, but for the baseline, the tip and what it may fall back
        to; and weights of the baseline's that were scored in the end."""
        history = self.ledger.experiments(self.run.tag)
        kept = [e for e in history if e.status == "kept"]
        if kept:
            needed = {1, decide.confirmed(history).number, *[e.number for e in kept if e.holds][-1:]}
            for number in {e.number for e in (*done, *kept)} - needed:
                trial.let_go(self.ledger.folder_of(self.run.tag, number))
            finals = sum(m.purpose == "final" for m in history[0].measurements)
            for trained in history[0].scored("noise")[:finals]:  # as `_repeat` has taken them
                trial.let_go(self.repeater.folder(1, trained.seed))

    # ------------------------------------------------------------------------------------------ limits

    def in_a_hurry(self, limits: Limits) -> str | None:
        """What there is no time for, in a line; None if there is for all that a run does."""
        settings, history = self.program.settings, self.ledger.experiments(self.run.tag)
        guessed = settings.max_steps is not None and not history  # which may end long before the budget
        if guessed or limits.reserved(settings, history) == decide.reserve(settings):
            return None
        return "time is too short to measure again at the end: what is kept stays provisional, and no gain is told"

    def _expected(self) -> float:
        return expected(self.program.settings, self.ledger.experiments(self.run.tag))

    # ------------------------------------------------------------------------------------------ helpers

    def _inert(self, tip: str, files: Mapping[str, str]) -> str | None:
        """Why a patch on the tip is no experiment, if none of its files is."""
        reasons = [inert(self.workspace.read(tip, path), text) for path, text in files.items()]
        return reasons[0] if all(reasons) else None

    def _pace(self, source: str, seed: int, train: TokenFile) -> Pace | None:
        """What a training of this file is to keep pace with; None if it is to be let finish."""
        settings, tip = self.program.settings, self.ledger.tip(self.run.tag)
        if not settings.early_stop or tip is None or tip.commit is None:
            return None
        if not pace.comparable(self.workspace.read(tip.commit, settings.edit[0]), source):
            return None
        return pace.of(tip, self.ledger.experiments(self.run.tag), settings.sigma, train, seed)

    def _tip(self) -> str:
        tip = self.ledger.tip(self.run.tag)
        return tip.commit if tip and tip.commit else self.run.base

    def _brief(self, experiment: Experiment, until: float | None = None) -> Brief:
        files = {path: self.workspace.read(self._tip(), path) for path in self.program.settings.edit}
        history = self.ledger.experiments(self.run.tag)
        return Brief(
            program=self.program,
            metric=self.run.metric,
            files=files,
            history=tuple(e for e in history if e.number < experiment.number),
            number=experiment.number,
            tag=self.run.tag,
            sigma=decide.noise(self.program.settings, history).sigma,
            hardware=self.engine.hardware,
            seed=self._seed(experiment.number, 0),
            until=until,
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


def _message(experiment: Experiment, tag: str) -> str:
    trailers = f"Experiment: {tag}/{experiment.number}\nFamily: {experiment.family}"
    return f"{experiment.title}\n\n{experiment.hypothesis}\n\n{trailers}\n"
