"""What `run` shows while it works: a line per experiment, and on a terminal one more that moves."""

import sys
from collections.abc import Callable
from typing import TextIO

from rich.console import Console
from rich.live import Live
from rich.text import Text

from autoresearch.records import Experiment, Progress
from autoresearch.report.tables import first_line, status_word, value
from autoresearch.units import format_duration

_DOING = {
    "proposing": "proposing", "proposed": "committing", "committed": "starting", "running": "starting",
    "import": "starting", "build": "building the model", "warmup": "warming up", "train": "training",
    "save": "saving", "score": "scoring", "measured": "deciding", "decided": "settling",
}  # fmt: skip


class Unbreakable:
    """An output stream whose reader may go away: a closed pipe or a lost terminal must not end a night's run."""

    def __init__(self, stream: TextIO) -> None:
        self._stream: TextIO | None = stream
        self.encoding = stream.encoding

    def write(self, text: str) -> int:
        self._try(lambda stream: stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._try(lambda stream: stream.flush())

    def isatty(self) -> bool:
        return self._stream is not None and self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno() if self._stream else -1

    def _try(self, action: Callable[[TextIO], object]) -> None:
        if self._stream is None:
            return
        try:
            action(self._stream)
        except (OSError, ValueError):
            self._stream = None


class ConsoleWatcher:
    """Tells a person on a console of stages and progress. A context manager, so that the moving line is cleared."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, transient=True, auto_refresh=False) if console.is_terminal else None
        self._announced = 0

    def __enter__(self) -> "ConsoleWatcher":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live:
            self._live.stop()

    def stage(self, experiment: Experiment) -> None:
        if experiment.stage == "done":
            self._verdict(experiment)
            return
        if experiment.title and experiment.stage != "proposing" and self._announced != experiment.number:
            self._announced = experiment.number
            self._console.print(
                Text.assemble(
                    (f"#{experiment.number:<3}", "bold"), " ", experiment.title, (_expecting(experiment), "dim")
                ),
                soft_wrap=True,
            )
        self._show(experiment, Text(_DOING[experiment.stage], style="dim"))

    def progress(self, experiment: Experiment, progress: Progress) -> None:
        text = Text(f"{_DOING.get(progress.phase, progress.phase):<12}", style="blue")
        text.append(f" {format_duration(progress.seconds)}", style="dim")
        if progress.point:
            point = progress.point
            text.append(f"  {point.progress:4.0%}  step {point.step}  loss {point.loss:.4f}", style="default")
        if progress.tokens_per_second:
            text.append(f"  {progress.tokens_per_second:,.0f} tokens/s", style="dim")
        self._show(experiment, text)

    def _show(self, experiment: Experiment, text: Text) -> None:
        if self._live:
            self._live.update(Text.assemble((f"#{experiment.number:<3} ", "bold"), text), refresh=True)

    def _verdict(self, experiment: Experiment) -> None:
        word = status_word(f"{experiment.status:<11}")
        word.style = status_word(experiment.status).style
        seconds = experiment.measurements[-1].seconds.get("total") if experiment.measurements else None
        reason = first_line(experiment.reason or "")
        self._console.print(
            Text.assemble(
                "     ", word, f" {value(experiment.value):>7}  ", reason, (f"  {format_duration(seconds)}", "dim")
            ),
            soft_wrap=True,
        )


def console() -> Console:
    """Standard output for a run: a closed pipe or a lost terminal ends nothing."""
    return Console(file=Unbreakable(sys.stdout), highlight=False)  # type: ignore[arg-type]


def _expecting(experiment: Experiment) -> str:
    return f"  (expects {experiment.expect:+g})" if experiment.expect is not None else ""
