"""One measurement: train in a child process, score in another, take nothing on trust."""

import csv
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, TypeVar

from autoresearch.engine import faults, outcome
from autoresearch.engine.files import open_plain, written
from autoresearch.engine.scoring import Scoring
from autoresearch.engine.site import Crash, Site
from autoresearch.engine.training import WEIGHTS, Training
from autoresearch.records import Measurement
from autoresearch.tasks import Fault, TrainResult

T = TypeVar("T")

_CONTEXT = 1.5e9  # bytes of a GPU's memory that a process takes at least which waits for weights


class Measuring:
    """One measurement under way. What the machine has ended is done again, and does not count."""

    def __init__(self, site: Site, home: Path) -> None:
        """home: the folder of the training, empty."""
        self._site, self._home = site, home
        self._training = Training(site, home)
        bench, limit = site.bench, site.trial.settings.memory_limit
        left = bench.memory - int(limit) if bench.memory and limit else 0
        # Whether scoring gets ready beside the warm-up: where there is room, and a sandbox parts them.
        self._beside = bench.sandbox == "full" and (bench.gpu is None or left >= _CONTEXT)
        self._room = left if self._beside and bench.gpu else None
        self._interruptions: list[str] = []

    def run(self) -> Measurement:
        """Train and score; a crash is a value. EngineError if the machine is to blame, DeadlinePassed if time is up."""
        site, trained = self._site, None
        site.clear()  # what one that was killed has left: names of its files can be asked for
        try:
            with Scoring(site, self._room) as scoring:
                if site.trial.weights is None:
                    trained = self._persist(lambda: self._trained(scoring))
                    weights, compiled = self._training.weights(), self._training.compiled
                else:
                    weights, compiled = _copied(site.trial.weights, self._home), None
                with weights:
                    score = self._persist(lambda: scoring.run(weights, compiled))
            measurement = outcome.scored(self._base(trained), score)
        except Crash as crash:
            measurement = self._crashed(crash, trained)
        finally:
            site.clear()
            self._keep_logs()
        seconds = {**measurement.seconds, "total": time.monotonic() - site.began}
        return replace(measurement, seconds=seconds, interruptions=tuple(self._interruptions))

    def _trained(self, scoring: Scoring) -> TrainResult:
        try:
            return self._training.run(scoring.ready if self._beside else None)
        except BaseException:
            scoring.cancel()  # or it would be on the GPU when it is asked who is to blame
            raise

    def _persist(self, work: Callable[[], T]) -> T:
        """Do it; and again, if it was the machine that has ended it, or once if it may have been. Crash if not."""
        suspected = False
        while True:
            began = time.monotonic()
            try:
                return work()
            except Crash as crash:
                crash.suspected |= self._site.is_full()  # by what it has written, or by somebody else
                self._clear()
                self._site.check_space()
                blame = faults.blame(crash, self._site.bench.gpu) if crash.outcome == "crashed" else None
                if blame is None or (suspected and not blame.certain):
                    raise
                suspected = suspected or not blame.certain
                self._interruptions.append(blame.reason)
            faults.await_gpu(self._site.bench.gpu, self._site.trial.deadline, self._site.show, blame.crowded)
            self._site.began += time.monotonic() - began

    def _clear(self) -> None:
        """Nothing is left of what processes that have ended could write to."""
        self._site.clear()
        self._training.clear()

    def _crashed(self, crash: Crash, trained: TrainResult | None) -> Measurement:
        base, fault = self._base(trained or crash.fault.result), crash.fault
        if crash.score:
            return outcome.scored(base, crash.score)
        return replace(base, outcome=crash.outcome, phase=fault.phase, reason=fault.reason, traceback=fault.traceback)

    def _base(self, trained: TrainResult | None) -> Measurement:
        site = self._site
        base = outcome.trained(site.trial, site.bench, self._training.tail, trained)
        return replace(base, condemned=self._training.condemned, sandbox=site.bench.sandbox)

    def _keep_logs(self) -> None:
        if not self._site.trial.logs:
            return
        logs = Path(self._site.trial.logs)
        for name, text in self._site.logs.items():
            with written(logs / name) as partial:
                partial.write_text(text, encoding="utf-8")
        with written(logs / "curve.csv") as partial, partial.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("step", "seconds", "progress", "loss"))
            writer.writerows(
                (p.step, f"{p.seconds:.3f}", f"{p.progress:.5f}", f"{p.loss:.6g}") for p in self._training.tail.points
            )


def _copied(weights: str, home: Path) -> BinaryIO:
    """Weights that were trained before, to be scored in place of new ones: theirs is not for the candidate to touch."""
    try:
        return open_plain(Path(shutil.copyfile(weights, home / WEIGHTS)))
    except FileNotFoundError:
        raise Crash(Fault("save", f"the weights of the earlier training are gone: {weights}")) from None
