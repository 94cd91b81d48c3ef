"""What `run` shows while it works, and `status --watch`: lines that stay, and on a terminal a view that moves."""

import contextlib
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.live import Live
from rich.segment import Segment
from rich.text import Text

from autoresearch.errors import Misuse
from autoresearch.ledger import Ledger
from autoresearch.records import Experiment, Measurement, Progress, Waiting
from autoresearch.report.live import DOING, Facts, View, at, gather
from autoresearch.report.state import StateFile, Tracker, current
from autoresearch.report.tables import PURPOSES, first_line, harmless, repetition, status_word, value
from autoresearch.units import format_duration

_EVERY = 0.5  # seconds between two drawings
_REREAD = 5.0  # seconds after which another process's ledger is read again
_ROWS_ABOVE = 5  # of the screen, for lines that stay, at least a quarter of it


class ConsoleWatcher:
    """Tells a person on a console of stages and progress, and other processes through a file.

    A context manager: a thread draws the view between its beginning and its end. tag: the run's. publish: whether
    this process is the one at work on it.
    """

    def __init__(
        self,
        console: Console,
        ledger: Ledger,
        tag: str,
        deadline: float | None = None,
        max_cost: float | None = None,
        publish: bool = True,
    ) -> None:
        self._console, self._ledger, self._tag = console, ledger, tag
        self._tracker = Tracker(deadline, max_cost)
        self._file = StateFile(ledger, tag) if publish else None
        self._facts: Facts | None = None
        self._panel = Panel(console, self._view) if moving(console) else None
        self._announced = 0
        self._looked_back = self._warned = False

    def __enter__(self) -> "ConsoleWatcher":
        self._publish()  # in place of what a process that was killed has left
        if self._panel:
            self._panel.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._panel:
            self._panel.stop()
        if self._file:
            self._file.remove()

    def say(self, line: str) -> None:
        """A line that stays, from whoever works beside the view; from any thread."""
        self._say(Text(line, "dim"))

    def stage(self, experiment: Experiment) -> None:
        """A line once it has a title, and one with its verdict; on a terminal both once it is done."""
        self._tracker.stage(experiment)
        self._look(experiment)
        self._publish()
        titled = experiment.title and experiment.stage != "proposing"
        if titled and self._announced != experiment.number and (not self._panel or experiment.stage == "done"):
            self._announced = experiment.number
            self._say(_announcement(experiment))
        if experiment.stage == "done":
            self._say(_verdict(experiment))
        self._warn(experiment)

    def progress(self, experiment: Experiment, progress: Progress) -> None:
        """What it does now, on the view that moves."""
        before = self._tracker.state.phase
        self._tracker.progress(experiment, progress)
        if self._facts is None:  # a replay goes through no stages
            self._look(experiment)
        self._publish(seldom=progress.phase == before)
        if progress.phase == "waiting" != before and not self._panel:
            self.say(f"     {DOING['waiting']}: {first_line(progress.note or 'another measurement has it')}")

    def waiting(self, experiment: Experiment, waiting: Waiting | None) -> None:
        """Why nothing happens, and until when."""
        self._tracker.waiting(experiment, waiting)
        self._look(experiment)
        self._publish()
        if waiting and not self._panel:
            self.say(f"     waiting until {at(waiting.until)}: {first_line(waiting.reason)}")

    def repeated(self, experiment: Experiment, measurement: Measurement) -> None:
        """What came of it, in a line."""
        found = measurement.outcome if measurement.value is None else value(measurement.value)
        self._again(experiment, f"{PURPOSES.get(measurement.purpose, measurement.purpose)}: {found}")

    def checked(self, experiment: Experiment) -> None:
        """What holds, in a line."""
        self._again(experiment, (experiment.reason or "").rpartition("; ")[2])

    def _again(self, experiment: Experiment, line: str) -> None:
        if self._panel:
            self._facts = gather(self._ledger, self._tag)
        self._say(Text.assemble((f"#{experiment.number:<3}", "bold"), " ", first_line(line)))

    def _look(self, experiment: Experiment) -> None:
        """Something changed that the ledger knows of. All of it is read between two experiments."""
        if self._panel and self._facts and experiment.stage not in ("proposing", "done"):
            self._facts = self._facts.moved_on(self._ledger, experiment)
        elif self._panel:
            self._facts = gather(self._ledger, self._tag)

    def _warn(self, experiment: Experiment) -> None:
        """Once, that the corpus is repeated: as just measured, or at first as the ledger has it of the tip."""
        tip = None if self._looked_back else self._ledger.tip(self._tag)
        self._looked_back = True
        known = experiment if experiment.stage == "done" else tip
        line = repetition(known.deciding) if known and known.deciding else ""
        if line and not self._warned:
            self._warned = True
            self._say(Text(line, "yellow"))

    def _publish(self, seldom: bool = False) -> None:
        if self._file:
            self._file.write(self._tracker.state, seldom)

    def _say(self, line: Text) -> None:
        if self._panel:
            self._panel.say(line)
        else:
            self._console.print(line, soft_wrap=True)

    def _view(self) -> RenderableType:
        facts, rows = self._facts, self._console.size.height
        return View(facts, self._tracker.state, rows - max(_ROWS_ABOVE, rows // 4)) if facts else ""


class Panel:
    """A view that is drawn again twice a second below the lines that stay, until it is stopped and gone.

    Resizing breaks lines that are drawn already: the screen is cleared then, and the last lines said again. Ctrl-Z
    takes the view away before the shell has the terminal, and `fg` brings it back; where no
    shell could, the run goes on.
    """

    def __init__(self, console: Console, view: Callable[[], RenderableType]) -> None:
        self._console, self._view = console, view
        self._lock = threading.RLock()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._keep_drawing, daemon=True)
        self._said: deque[Text] = deque(maxlen=200)
        self._width = console.size.width
        self._live = self._new()
        self._before: object = None

    def start(self) -> None:
        """Draw from now on."""
        if signal.getsignal(signal.SIGTSTP) is not signal.SIG_IGN:
            with contextlib.suppress(ValueError):  # not the main thread
                self._before = signal.signal(signal.SIGTSTP, self._suspend)
        self._live.start()
        self._thread.start()

    def stop(self) -> None:
        """Draw no more, and leave only the lines."""
        self._done.set()
        self._thread.join()
        with self._lock:
            self._live.stop()
        if self._before is not None:
            signal.signal(signal.SIGTSTP, self._before)  # type: ignore[arg-type]

    def say(self, line: Text) -> None:
        """A line that stays."""
        with self._lock:
            self._said.append(line)
            self._console.print(line, soft_wrap=True)

    def _new(self) -> Live:
        return Live(
            _Guarded(self._view), console=self._console, transient=True, auto_refresh=False,
            redirect_stderr=sys.stderr.isatty(),
        )  # fmt: skip

    def _keep_drawing(self) -> None:
        while not self._done.wait(_EVERY):
            with self._lock:
                if self._console.size.width != self._width:
                    self._start_over()
                self._live.refresh()

    def _start_over(self) -> None:
        self._width = self._console.size.width
        self._live.stop()
        self._console.clear()
        for line in [*self._said][-self._console.size.height :]:
            self._console.print(line, soft_wrap=True)
        self._live = self._new()
        self._live.start()

    def _suspend(self, *_: object) -> None:
        with self._lock:
            self._live.stop()
            # As the terminal would have: unlike SIGSTOP, it stops no process that nobody could continue.
            signal.signal(signal.SIGTSTP, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTSTP)  # it goes on here once it is continued
            signal.signal(signal.SIGTSTP, self._suspend)
            self._live = self._new()
            self._live.start()


class _Guarded:
    """A view whose fault is shown in its place: what only looks on must not end a night's run."""

    def __init__(self, view: Callable[[], RenderableType]) -> None:
        self._view = view

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        try:
            lines = console.render_lines(self._view(), options, pad=False)
        except Exception as error:
            fault = f"the view failed ({type(error).__name__}: {error}); the run goes on"
            lines = console.render_lines(Text(harmless(fault), style="dim"), options, pad=False)
        for index, line in enumerate(lines):
            if index:
                yield Segment.line()
            yield from line


def follow(console: Console, ledger: Ledger, tag: str, alive: Callable[[], bool]) -> None:
    """Draw a run that another process works on, on the whole screen, until it ends or Ctrl-C is pressed.

    alive: whether a process works on it now. Misuse where nothing can be drawn.
    """
    if not moving(console):
        raise Misuse("status --watch draws on a terminal.", "In a script, ask for `autoresearch status --json`.")
    if not alive():
        console.print(f"run {tag} is not going: there is nothing to watch.", markup=False)
        return
    facts, seen, read = gather(ledger, tag), None, time.monotonic()
    with contextlib.suppress(KeyboardInterrupt), Live(console=console, screen=True, auto_refresh=False) as live:
        while alive() and moving(console):
            state = current(ledger, tag)
            now = (state.number, state.phase) if state else None
            if now != seen or time.monotonic() - read > _REREAD:
                facts, seen, read = gather(ledger, tag), now, time.monotonic()
            if facts:
                live.update(_Guarded(partial(View, facts, state, verdicts=True)), refresh=True)
            time.sleep(_EVERY)


def moving(console: Console) -> bool:
    """Whether a view can be drawn: on a terminal that knows how and has the characters, and never into a pipe."""
    return console.is_interactive and console.file.isatty() and console.encoding.startswith("utf")


def console() -> Console:
    """Standard output, as a run writes to it."""
    return Console(highlight=False)


def _announcement(experiment: Experiment) -> Text:
    expects = f"  (expects {experiment.expect:+g})" if experiment.expect is not None else ""
    return Text.assemble((f"#{experiment.number:<3}", "bold"), " ", harmless(experiment.title), (expects, "dim"))


def _verdict(experiment: Experiment) -> Text:
    word = status_word(f"{experiment.status:<11}")
    word.style = status_word(experiment.status).style
    seconds = experiment.deciding.seconds.get("total") if experiment.deciding else None
    reason = first_line(experiment.reason or "")
    took = (f"  {format_duration(seconds)}", "dim")
    return Text.assemble("     ", word, f" {value(experiment.value):>7}  ", reason, took)
