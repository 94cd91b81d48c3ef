"""What a run says: plain lines where nothing can be drawn over, a view below the lines where it can."""

import io
import re
import threading
import time
from dataclasses import replace

import pytest
from rich.console import Console, RenderableType
from rich.text import Text

from autoresearch.ledger import Ledger
from autoresearch.records import Experiment, Measurement, Metric, Point, Progress, Proposal, Waiting
from autoresearch.report.state import StateFile, Tracker
from autoresearch.report.watch import ConsoleWatcher, Panel, moving
from autoresearch.schema import Run

IDEA = Experiment(2, "t", "proposed", title="an idea [bold]\x1b[2J", expect=-0.5)
DONE = Experiment(
    2, "t", "done", "discarded", title=IDEA.title, value=2.5, reason="worse by 0.5",
    measurements=(Measurement(1, "scored", 2.5, seconds={"total": 12.0}),),
)  # fmt: skip
TRAINING = Progress("train", 3.0, Point(9, 0.9, 0.09, 4.5), 1e5, 10**9)


class Screen(io.StringIO):
    """A terminal that only remembers."""

    def __init__(self, encoding: str = "utf-8") -> None:
        super().__init__()
        self._encoding = encoding

    @property
    def encoding(self) -> str:
        return self._encoding

    def isatty(self) -> bool:
        return True


def played(watcher: ConsoleWatcher) -> None:
    """One experiment, as the loop tells of it."""
    watcher.stage(Experiment(2, "t", "proposing"))
    watcher.waiting(IDEA, Waiting("the server says 529\nand more", time.time()))
    watcher.waiting(IDEA, None)
    watcher.stage(IDEA)
    watcher.progress(IDEA, TRAINING)
    watcher.stage(DONE)


def test_into_a_pipe_go_plain_lines(ledger: Ledger) -> None:
    out = io.StringIO()
    for options in ({}, {"force_terminal": True, "color_system": None}):  # FORCE_COLOR makes no pipe a screen
        out.seek(0)
        out.truncate()
        with ConsoleWatcher(Console(file=out, width=80, highlight=False, **options), ledger, "t") as watcher:
            played(watcher)
        first, *rest = out.getvalue().splitlines()
        assert re.fullmatch(r"     waiting until \d\d:\d\d:\d\d: the server says 529", first)
        assert rest == [
            "#2   an idea [bold]�[2J  (expects -0.5)",
            "     discarded    2.5000  worse by 0.5  12.0s",
        ]


@pytest.mark.parametrize("note", ["trainer.py\x1b has 20.4 GiB of the GPU", None])
def test_into_a_pipe_goes_a_line_when_a_device_is_waited_for(ledger: Ledger, note: str | None) -> None:
    out = io.StringIO()
    with ConsoleWatcher(Console(file=out, width=80, highlight=False), ledger, "t") as watcher:
        watcher.stage(IDEA)
        for seconds in range(3):
            watcher.progress(IDEA, Progress("waiting", seconds, note=note))
        watcher.progress(IDEA, TRAINING)
        watcher.progress(IDEA, Progress("waiting", 9.0, note="once more"))
    reason = "trainer.py� has 20.4 GiB of the GPU" if note else "another measurement has it"
    assert out.getvalue().splitlines()[1:] == [
        f"     waiting for the device: {reason}",
        "     waiting for the device: once more",
    ]


def test_a_repeated_corpus_is_warned_of_once_in_a_session(ledger: Ledger) -> None:
    """As soon as it is measured, and, where a run is taken up, before anything is."""
    repeated = Measurement(1, "scored", 2.0, tokens=30, train_tokens=10)
    fresh = replace(repeated, tokens=10)

    def said(*measurements: Measurement) -> list[str]:
        out = io.StringIO()
        with ConsoleWatcher(Console(file=out, width=80, highlight=False), ledger, "t") as watcher:
            for number, measurement in enumerate(measurements, 2):
                watcher.stage(replace(IDEA, number=number))
                watcher.stage(replace(DONE, number=number, measurements=(measurement,)))
        return [line.split()[0] for line in out.getvalue().splitlines()]

    assert said(fresh, fresh) == ["#2", "discarded", "#3", "discarded"]
    assert said(fresh, repeated, repeated) == ["#2", "discarded", "#3", "discarded", "warning:", "#4", "discarded"]
    ledger.start(Run("t", 1.0, "p", "d", "---\n---\n", "search", "cpu", "stdlib", "f", Metric(), "s", "b"))
    tip = ledger.propose(ledger.open_experiment("t"), Proposal("baseline"))
    id = ledger.begin(tip, "first", 1)
    ledger.advance(ledger.measured(tip, id, repeated), "done", status="kept")
    assert said(fresh, repeated) == ["#2", "warning:", "discarded", "#3", "discarded"]


def test_other_processes_are_told_while_it_lasts(ledger: Ledger) -> None:
    with ConsoleWatcher(Console(file=io.StringIO()), ledger, "t", deadline=5e9, max_cost=2.0) as watcher:
        watcher.stage(IDEA)
        watcher.progress(IDEA, TRAINING)
        state = StateFile(ledger, "t").read(0)
        assert state and (state.number, state.phase, state.deadline, state.max_cost) == (2, "train", 5e9, 2.0)
        assert state.curve == (TRAINING.point,)
    assert StateFile(ledger, "t").read(0) is None
    with ConsoleWatcher(Console(file=io.StringIO()), ledger, "t", publish=False) as watcher:  # a replay's
        watcher.progress(IDEA, TRAINING)
        assert StateFile(ledger, "t").read(0) is None


def test_what_a_killed_process_has_left_is_not_shown_for_the_next(ledger: Ledger) -> None:
    killed = Tracker()
    killed.stage(IDEA)
    StateFile(ledger, "t").write(killed.state)
    with ConsoleWatcher(Console(file=io.StringIO()), ledger, "t"):
        state = StateFile(ledger, "t").read(0)
        assert state and (state.number, state.phase) == (0, "starting")


def test_other_processes_are_told_seldom_of_mere_progress(ledger: Ledger) -> None:
    for out in (io.StringIO(), Screen()):
        with ConsoleWatcher(Console(file=out, width=80, height=24), ledger, "t") as watcher:
            watcher.stage(IDEA)
            began, seen = time.monotonic(), set()
            for step in range(200):
                watcher.progress(IDEA, Progress("train", 3.0, Point(step, 0.9, 0.09, 4.5)))
                state = StateFile(ledger, "t").read(0)
                assert state
                seen.add(state.curve[-1].step)
            assert len(seen) <= 2 + time.monotonic() - began  # a second apart


def test_it_is_drawn_a_few_times_a_second_however_often_it_is_told() -> None:
    screen, told = Screen(), 0
    panel = Panel(Console(file=screen, width=80, height=24, force_terminal=True), lambda: Text(f"view {told}"))
    panel.start()
    began = time.monotonic()
    while time.monotonic() - began < 1.7:
        told += 1
    panel.stop()
    drawn = set(re.findall(r"view (\d+)", screen.getvalue()))
    assert 1 <= len(drawn) <= 2 * (time.monotonic() - began) + 2


def test_a_fault_of_the_view_is_shown_and_ends_nothing() -> None:
    def view() -> RenderableType:
        raise ZeroDivisionError("by \x1b zero")

    screen = Screen()
    panel = Panel(Console(file=screen, width=80, height=24, force_terminal=True, highlight=False), view)
    panel.start()
    panel.say(Text("a line that stays"))
    panel.stop()
    assert "a line that stays" in screen.getvalue()
    assert "the view failed (ZeroDivisionError: by � zero); the run goes on" in screen.getvalue()
    assert screen.getvalue().endswith("\x1b[2K") and "\x1b[?25h" in screen.getvalue()  # gone, and the cursor is back
    assert not [thread for thread in threading.enumerate() if "_keep_drawing" in thread.name]


@pytest.mark.parametrize(
    ("file", "options", "moves"),
    [
        (Screen(), {}, True),
        (Screen(), {"_environ": {"TERM": "dumb"}}, False),
        (Screen("latin-1"), {}, False),
        (io.StringIO(), {"force_terminal": True}, False),
        (io.StringIO(), {}, False),
    ],
)
def test_only_a_screen_moves(file: io.StringIO, options: dict, moves: bool) -> None:
    assert moving(Console(file=file, **options)) is moves
