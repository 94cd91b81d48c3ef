"""What a running process is at now: kept in memory, and in a small file that other processes read."""

import contextlib
import time
from dataclasses import dataclass, replace
from typing import ClassVar

from pydantic import ConfigDict, TypeAdapter

from autoresearch.atomic import written
from autoresearch.ledger import Ledger
from autoresearch.records import Experiment, Point, Progress, Waiting

_MOST_POINTS = 300  # of a curve; beyond that every other one goes
_MOST_BYTES = 1 << 20  # of the file
_EVERY = 1.0  # seconds between two writings of mere progress


@dataclass(frozen=True, slots=True)
class LiveState:
    """A run at one moment. Times are time.time()."""

    number: int  # of the experiment at hand
    phase: str  # its stage; while it is measured, the phase of that
    since: float  # when the phase began
    at: float  # when this was so
    began: float  # when the process began
    curve: tuple[Point, ...] = ()  # of the measurement so far, thinned
    tokens_per_second: float | None = None
    memory: int | None = None  # peak, bytes
    waiting: Waiting | None = None
    deadline: float | None = None
    max_cost: float | None = None  # US dollars
    note: str | None = None  # on the phase, in a line

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(allow_inf_nan=False)  # of the points, too


_STATE = TypeAdapter(LiveState)


class Tracker:
    """Turns what a watcher is told into the state."""

    def __init__(self, deadline: float | None = None, max_cost: float | None = None) -> None:
        now = time.time()
        self.state = LiveState(0, "starting", now, now, now, deadline=deadline, max_cost=max_cost)

    def stage(self, experiment: Experiment) -> None:
        """It is at another stage. Its curve is there until the next experiment begins."""
        if experiment.stage in ("proposing", "proposed", "committed"):
            self.state = replace(self.state, curve=(), tokens_per_second=None, memory=None)
        self._move(experiment, experiment.stage)

    def progress(self, experiment: Experiment, progress: Progress) -> None:
        """It is measured."""
        curve = self.state.curve if progress.point else ()  # without a point, a measurement begins
        if progress.point and progress.point not in curve[-1:]:
            curve = (*(curve[::2] if len(curve) >= _MOST_POINTS else curve), progress.point)
        self._move(experiment, progress.phase)
        self.state = replace(
            self.state,
            curve=curve,
            tokens_per_second=progress.tokens_per_second,
            memory=progress.memory,
            note=progress.note,
        )

    def waiting(self, experiment: Experiment, waiting: Waiting | None) -> None:
        """Something is waited for; None: it is over."""
        self.state = replace(self.state, number=experiment.number, waiting=waiting, at=time.time())

    def _move(self, experiment: Experiment, phase: str) -> None:
        now = time.time()
        same = (experiment.number, phase) == (self.state.number, self.state.phase)
        since = self.state.since if same else now
        self.state = replace(
            self.state, number=experiment.number, phase=phase, since=since, at=now, waiting=None, note=None
        )


class StateFile:
    """The state as other processes see it. A full disk only makes it stale: nothing here raises OSError."""

    def __init__(self, ledger: Ledger, tag: str) -> None:
        self._path = ledger.folder / "runs" / tag / "live.json"
        self._written = 0.0

    def write(self, state: LiveState, seldom: bool = False) -> None:
        """Replace the file, as a whole. seldom: about once a second, however often it is asked."""
        if seldom and time.monotonic() - self._written < _EVERY:
            return
        self._written = time.monotonic()
        with contextlib.suppress(OSError), written(self._path) as new:
            new.write_bytes(_STATE.dump_json(state))

    def read(self, since: float) -> LiveState | None:
        """What was written after `since` (time.time()); None if nothing was, or it is not readable."""
        try:
            with self._path.open("rb") as file:
                state = _STATE.validate_json(file.read(_MOST_BYTES))
        except (OSError, ValueError):
            return None
        return state if state.at >= since else None

    def remove(self) -> None:
        """Nothing is at work any more."""
        with contextlib.suppress(OSError):
            self._path.unlink()


def current(ledger: Ledger, tag: str) -> LiveState | None:
    """What the process at work on a run has said of it last; None if it has said nothing."""
    sessions = ledger.sessions(tag)
    return StateFile(ledger, tag).read(sessions[-1].started if sessions else 0.0)
