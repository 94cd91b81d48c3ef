"""Measure again what was measured: with a fresh seed, or the same weights on the split that is laid aside."""

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from autoresearch import machine, trial
from autoresearch.errors import Misuse
from autoresearch.ledger import Ledger
from autoresearch.records import CorpusView, Experiment, Measurement, Program, Purpose
from autoresearch.schema import Run
from autoresearch.stages import Engine, Watcher
from autoresearch.workspace import Workspace

_SCORED = ("outcome", "value", "phase", "reason", "seconds", "claim", "targets", "bytes", "audit")


@dataclass(frozen=True, slots=True)
class Repeater:
    """All that it takes."""

    run: Run
    ledger: Ledger
    workspace: Workspace
    engine: Engine
    corpus: Callable[[int], CorpusView]
    watcher: Watcher

    def source(self, experiment: Experiment, program: Program) -> str:
        """The file as it was tried. Misuse if there is no commit of it."""
        if experiment.commit is None:
            raise Misuse(
                f"experiment {experiment.number} has no commit: {experiment.reason or 'no patch applied'}.",
                "Replay one that has: `autoresearch log` lists them.",
            )
        return self.workspace.read(experiment.commit, program.settings.edit[0])

    def train(
        self,
        experiment: Experiment,
        purpose: Purpose,
        program: Program,
        source: str,
        noted: Mapping[str, object] | None = None,
        deadline: float | None = None,
    ) -> Measurement:
        """Train and score once more, with the next fresh seed. What is `noted` of it goes to the ledger."""
        number = experiment.number
        id, seed = self.ledger.begin_afresh(experiment, purpose, partial(seed_of, self.run, number), noted)
        try:
            prepared = trial.build(
                program,
                source,
                seed,
                self.corpus,
                self.folder(number, seed),
                tip=trial.tip(self.ledger, self.run.tag),
                keep=purpose == "noise",
                test=purpose == "final",
                bar=math.inf,  # something rests on it, whatever it is
                deadline=deadline,
            )
            measurement = self.engine.measure(prepared, partial(self.watcher.progress, experiment))
        except trial.Unfit as error:
            measurement = trial.unfit(seed, error)
        if purpose == "noise":
            machine.sync(self.ledger.folder)  # its weights are scored when the run ends
        return self._recorded(id, measurement, purpose)

    def score(
        self, experiment: Experiment, trained: Measurement, program: Program, deadline: float | None = None
    ) -> Measurement:
        """Score the weights that an earlier measurement has left on the test split. Nothing is trained."""
        number, seed = experiment.number, trained.seed
        id = self.ledger.begin(experiment, "final", seed)
        folder = self.folder(number, seed)
        prepared = trial.build(
            program,
            self.source(experiment, program),
            seed,
            self.corpus,
            folder,
            tip=trial.tip(self.ledger, self.run.tag),
            test=True,
            bar=math.inf,
            deadline=deadline,
        )
        prepared = replace(prepared, weights=trial.kept(folder).weights, logs=str(folder / "final"))
        found = self.engine.measure(prepared, partial(self.watcher.progress, experiment))
        scored = {name: getattr(found, name) for name in _SCORED}
        return self._recorded(id, replace(trained, **scored), "final")

    def _recorded(self, id: int, measurement: Measurement, purpose: Purpose) -> Measurement:
        self.ledger.finish(id, measurement)
        return replace(measurement, purpose=purpose)

    def folder(self, number: int, seed: int) -> Path:
        """Where a repeat of an experiment leaves its files; made if missing."""
        folder = self.ledger.folder_of(self.run.tag, number) / f"seed-{seed}"
        folder.mkdir(exist_ok=True)
        return folder


def seed_of(run: Run, number: int, measurement: int) -> int:
    """A seed nobody chose: a hash of the run's secret, the experiment and the measurement, 31 bits."""
    return int.from_bytes(hashlib.sha256(f"{run.seed}/{number}/{measurement}".encode()).digest()[:4]) >> 1
