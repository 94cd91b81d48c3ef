"""What `run` shows while it works: a line per experiment, and on a terminal one more that moves."""

import time

from rich.console import Console
from rich.live import Live
from rich.text import Text

from autoresearch.records import Experiment, Progress, Waiting
from autoresearch.report.tables import first_line, harmless, status_word, value
from autoresearch.units import format_duration

_DOING = {
    "proposing": "proposing", "proposed": "committing", "committed": "starting", "running": "starting",
    "import": "starting", "build": "building the model", "warmup": "warming up", "train": "training",
    "save": "saving", "score": "scoring", "measured": "deciding", "decided": "settling",
}  # fmt: skip


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
        """A line once it has a title, and one with its verdict."""
        if experiment.stage == "done":
            self._verdict(experiment)
            return
        if experiment.title and experiment.stage != "proposing" and self._announced != experiment.number:
            self._announced = experiment.number
            self._console.print(
                Text.assemble(
                    (f"#{experiment.number:<3}", "bold"),
                    " ",
                    harmless(experiment.title),
                    (_expecting(experiment), "dim"),
                ),
                soft_wrap=True,
            )
        self._show(experiment, Text(_DOING[experiment.stage], style="dim"))

    def progress(self, experiment: Experiment, progress: Progress) -> None:
        """What it does now, on the line that moves."""
        text = Text(f"{_DOING.get(progress.phase, progress.phase):<12}", style="blue")
        text.append(f" {format_duration(progress.seconds)}", style="dim")
        if progress.point and progress.phase == "train":  # afterwards it would stand still
            point = progress.point
            text.append(f"  {point.progress:4.0%}  step {point.step}  loss {point.loss:.4f}", style="default")
        if progress.tokens_per_second and progress.phase == "train":
            text.append(f"  {progress.tokens_per_second:,.0f} tokens/s", style="dim")
        self._show(experiment, text)

    def waiting(self, experiment: Experiment, waiting: Waiting | None) -> None:
        """Why nothing happens, and until when."""
        if waiting:
            clock = time.strftime("%H:%M:%S", time.localtime(waiting.until))
            self._console.print(
                Text(f"     waiting until {clock}: {first_line(waiting.reason)}", "dim"), soft_wrap=True
            )

    def _show(self, experiment: Experiment, text: Text) -> None:
        if self._live:
            self._live.update(Text.assemble((f"#{experiment.number:<3} ", "bold"), text), refresh=True)

    def _verdict(self, experiment: Experiment) -> None:
        word = status_word(f"{experiment.status:<11}")
        word.style = status_word(experiment.status).style
        seconds = experiment.deciding.seconds.get("total") if experiment.deciding else None
        reason = first_line(experiment.reason or "")
        self._console.print(
            Text.assemble(
                "     ", word, f" {value(experiment.value):>7}  ", reason, (f"  {format_duration(seconds)}", "dim")
            ),
            soft_wrap=True,
        )


def console() -> Console:
    """Standard output, as a run writes to it."""
    return Console(highlight=False)


def _expecting(experiment: Experiment) -> str:
    return f"  (expects {experiment.expect:+g})" if experiment.expect is not None else ""
