"""Progress bars for long preparations: on a terminal; a line per stage elsewhere."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


class Update(Protocol):
    """Told where a preparation is: bytes done, and in all; a new stage begins when the name changes."""

    def __call__(self, stage: str, done: int, total: int) -> None: ...


@contextmanager
def bars(console: Console) -> Iterator[Update]:
    """A function to be told of progress, drawn as bars."""
    if not console.is_terminal:
        yield _lines(console)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        tasks: dict[str, TaskID] = {}
        drawn = 0.0

        def update(stage: str, done: int, total: int) -> None:
            nonlocal drawn
            if stage not in tasks:
                tasks[stage] = progress.add_task(stage, total=total or None)
            elif time.monotonic() - drawn < 0.1 and done < total:
                return
            drawn = time.monotonic()
            progress.update(tasks[stage], completed=done, total=total or None)

        yield update


def _lines(console: Console) -> Update:
    seen: set[str] = set()

    def update(stage: str, done: int, total: int) -> None:
        if stage not in seen:
            seen.add(stage)
            console.print(stage, markup=False)

    return update
