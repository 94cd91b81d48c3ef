"""Measure a recorded commit again: does its figure repeat, and does it transfer to other constants?"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from autoresearch import decide, knobs
from autoresearch.errors import Misuse
from autoresearch.ledger import Ledger
from autoresearch.program import program_of
from autoresearch.records import Experiment, Measurement, Program, Purpose, Replay
from autoresearch.repeat import Repeater
from autoresearch.workspace import Workspace


def find(name: str, tag: str | None, workspace: Workspace, ledger: Ledger) -> Experiment:
    """The experiment meant by its number (of run `tag`, or of the run worked on last) or by a commit."""
    number = name.removeprefix("#")
    if number.isascii() and number.isdigit() and len(number) < 10:
        runs = [run.tag for run in ledger.runs()]
        if tag is None and not runs:
            raise Misuse("no run has been started in this repository.", "Start one with `autoresearch run`.")
        chosen = tag or runs[0]
        if experiment := ledger.experiment(chosen, int(number)):
            return experiment
        if len(number) < 4 or name != number:  # too short for a commit, or said to be none
            raise Misuse(f"run {chosen} has no experiment {number}.", "`autoresearch log` lists them.")
    commit = workspace.resolve(name)
    found = ledger.find_commit(commit, tag)
    if found is None:
        raise Misuse(f"commit {commit[:10]} is no experiment of a run here.", "`autoresearch log` lists them.")
    return found


@dataclass(frozen=True, slots=True)
class Replayer:
    """What a person has measured again, and how it compares."""

    repeater: Repeater

    def replay(
        self,
        experiment: Experiment,
        seeds: int = 1,
        changes: Mapping[str, knobs.Value] | None = None,
        budget: float | None = None,
    ) -> Replay:
        """Train and score the experiment's commit again with `seeds` fresh seeds, each a measurement in the ledger.

        `changes` sets knobs and `budget` (seconds) the training time: what is measured then is another thing than
        what was recorded, so the ledger keeps it apart. Raises Misuse for a knob that the file does not have.
        """
        changes = changes or {}
        program = self._program(budget)
        source = self._source(experiment, program, changes)
        purpose: Purpose = "transfer" if changes or budget else "replay"
        noted = {**changes, **({"budget": budget} if budget else {})}
        again = [self.repeater.train(experiment, purpose, program, source, noted) for _ in range(seeds)]
        return self._compare(experiment, program, noted, tuple(again))

    def _program(self, budget: float | None) -> Program:
        program = program_of(self.repeater.run)
        if budget is None:
            return program
        return replace(program, settings=program.settings.model_copy(update={"budget": budget}))

    def _source(self, experiment: Experiment, program: Program, changes: Mapping[str, knobs.Value]) -> str:
        source = self.repeater.source(experiment, program)
        known = knobs.read(source)
        for name in changes:
            if name not in known:
                path = program.settings.edit[0]
                raise Misuse(f"{path} has no constant {name} there.", f"It has {', '.join(known)}.")
        return knobs.assign(source, changes)

    def _compare(
        self,
        experiment: Experiment,
        program: Program,
        noted: Mapping[str, knobs.Value],
        measurements: tuple[Measurement, ...],
    ) -> Replay:
        then = experiment.deciding.conditions if experiment.deciding else None
        values = [m.value for m in measurements if m.value is not None and m.conditions == then]
        history = self.repeater.ledger.experiments(self.repeater.run.tag)
        spread = decide.noise(program.settings, history, tested=experiment.number)
        agreement = None
        if experiment.value is not None and values and not noted:
            agreement = decide.agreement(experiment.value, values, spread)
        return Replay(experiment, noted, measurements, agreement, spread)
