"""What the loop and what measures again are given to work with, as protocols: an engine, and whoever looks on."""

from collections.abc import Callable
from typing import Protocol

from autoresearch.records import Experiment, Measurement, Progress, Trial, Waiting


class Engine(Protocol):
    """Where experiments run."""

    hardware: str  # one line: what an experiment runs on
    fingerprint: str  # of the code that measures

    def measure(self, trial: Trial, watch: Callable[[Progress], None]) -> Measurement: ...


class Watcher(Protocol):
    """Who looks on: told of every stage, of progress within it, of what is waited for and of what is measured again."""

    def stage(self, experiment: Experiment) -> None: ...

    def progress(self, experiment: Experiment, progress: Progress) -> None: ...

    def waiting(self, experiment: Experiment, waiting: Waiting | None) -> None:
        """None: it is over."""

    def repeated(self, experiment: Experiment, measurement: Measurement) -> None:
        """An experiment that was done was measured again."""

    def checked(self, experiment: Experiment) -> None:
        """The tip, as it stands after its check: confirmed or rolled back, with what was kept before it."""


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

    def repeated(self, experiment: Experiment, measurement: Measurement) -> None:
        for watcher in self._watchers:
            watcher.repeated(experiment, measurement)

    def checked(self, experiment: Experiment) -> None:
        for watcher in self._watchers:
            watcher.checked(experiment)
