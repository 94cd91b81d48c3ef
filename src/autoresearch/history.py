"""What a run's experiments are beside each other."""

from collections.abc import Iterable

from autoresearch.records import Experiment, Metric


def gain_over_parent(experiment: Experiment, experiments: Iterable[Experiment], metric: Metric) -> float | None:
    """How much better it is than the one whose commit it was built on, rolled back since or not; None where there is
    none, or no value."""
    before = {e.commit: e.level for e in experiments if e.number < experiment.number and e.status == "kept"}
    old = before.get(experiment.parent)
    return None if old is None or experiment.value is None else metric.gain(old, experiment.value)
