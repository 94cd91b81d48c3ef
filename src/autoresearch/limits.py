"""When a run is to stop: what is left of its time, what a training takes of that, and what its end is to have."""

from collections.abc import Sequence
from dataclasses import dataclass

from autoresearch import decide, steady
from autoresearch.records import Experiment
from autoresearch.settings import Settings
from autoresearch.units import format_duration

ASKING = 0.25  # of a training's time, that an agent has for its answer at least


@dataclass(frozen=True, slots=True)
class Limits:
    """When to stop: at a time (steady.now()), and at a number of experiments in the run, the baseline's
    included. None: no such limit."""

    deadline: float | None = None
    experiments: int | None = None

    def spent(self, done: int) -> str | None:
        """Why no experiment is begun after so many, in words."""
        return f"{done} experiments are done" if self.experiments is not None and done >= self.experiments else None

    def too_late(self, experiment: Experiment | None, takes: float, reserved: int = 0) -> str | None:
        """Why there is no time to go on, in words, where a training and its scoring take so many seconds.

        An experiment that cannot finish before the deadline is not started; nor is a proposal for one, if it would
        leave no time for so many trainings after it."""
        if self.deadline is None or (experiment and experiment.stage in ("measured", "decided")):
            return None
        left = self.deadline - steady.now()
        if left < takes:
            return f"{format_duration(max(left, 0))} are left, and an experiment takes {format_duration(takes)}"
        proposed = experiment and (experiment.stage != "proposing" or experiment.number == 1)
        if not proposed and left < (1 + reserved + ASKING) * takes:
            held = f"which the last {reserved} trainings of a run are to have"
            return f"{format_duration(left)} are left, {held if reserved else 'too little to ask and to train'}"
        return None

    def answer_by(self, takes: float, reserved: int) -> float | None:
        """When an agent must have answered, so that there is time for its experiment and so many trainings after it."""
        return None if self.deadline is None else self.deadline - (1 + reserved) * takes

    def reserved(self, settings: Settings, history: Sequence[Experiment]) -> int:
        """Trainings at the end of the run that are to have their time; none if nothing could be tried before them."""
        whole = decide.reserve(settings)
        if self.deadline is None:
            return whole
        needed = (decide.owed(settings, history) + ASKING + 1 + whole) * expected(settings, history)
        return whole if self.deadline - steady.now() >= needed else 0


def expected(settings: Settings, history: Sequence[Experiment]) -> float:
    """Seconds that one more training and scoring will take: the longest of the last five, or a guess."""
    deciding = [m for e in history if (m := e.deciding) and m.outcome == "scored"]
    return max((m.seconds.get("total", 0.0) for m in deciding[-5:]), default=settings.budget * 1.1 + 10)
