"""How long work reports where it is."""

from typing import Protocol


class Progress(Protocol):
    """Told of every step, from one thread; a step may come many times a second, so drawing is to be throttled."""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """`done` of `total` bytes of `stage` are done; a new stage begins when the name changes."""


def silent(stage: str, done: int, total: int) -> None:
    """Shows nothing."""
