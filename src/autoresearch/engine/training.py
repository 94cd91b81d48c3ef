"""The first half of a measurement: a child that trains, watched from outside."""

import contextlib
import os
import socket
import stat
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import BinaryIO

from autoresearch import pace
from autoresearch.engine import caches, outcome
from autoresearch.engine.events import Tail
from autoresearch.engine.files import open_plain, read_record, remove
from autoresearch.engine.forkserver import Child
from autoresearch.engine.site import Crash, Site
from autoresearch.forks import FIRST, own_folders
from autoresearch.records import TokenFile
from autoresearch.tasks import Fault, TrainResult, TrainTask

WEIGHTS = "weights.safetensors"

_EVENTS = "events.jsonl"
_SAVING = 5.0  # seconds in which the weights are saved, and ...
_SAVED = 1e8  # ... bytes of them a second, which a slow disk takes
_HOLES = 1000  # that are looked at
_LAST_STEP = 3.0  # seconds that the last step may last beyond the budget, or 2 % of it if that is more: a busy machine


@dataclass(slots=True)
class _Stopwatch:
    """How long a child was surely training: from the first look that saw it at that to the last one.

    Both ends err to its good, so that a house that is kept waiting, or stopped for a while, blames nobody.
    """

    began: float | None = None
    last: float = 0.0

    def look(self, before: float, training: bool) -> None:
        """before: time.monotonic() just before the look."""
        if training:
            self.began = time.monotonic() if self.began is None else self.began
            self.last = before

    @property
    def seconds(self) -> float:
        return 0.0 if self.began is None else max(0.0, self.last - self.began)


class Training:
    """One training, which may be done again from the start."""

    def __init__(self, site: Site, home: Path) -> None:
        """home: the measurement's folder."""
        self._site, self._home = site, home
        self._folder = home / "train"
        self.compiled: bytes | None  # what there was when the clock started, if that is to be kept
        self.condemned: str | None  # why it was beyond hope
        self._forget()

    def run(self, others_ready: Callable[[], bool] | None = None) -> TrainResult:
        """The result, and the weights saved. Crash if there are none, or none that are to be scored.

        others_ready: asked again and again, until it says that the clock may start. A Crash of it goes through, unless
        training has one of its own before it awaits the clock.
        """
        self._forget()
        site, trial, settings = self._site, self._site.trial, self._site.trial.settings
        self._folder.mkdir()
        # Nothing can be learned ahead of the clock: the text is handed over when that starts, as an open file.
        data, theirs = socket.socketpair()
        task = TrainTask(
            source=site.export(self._home),
            folder=str(self._folder),
            seed=trial.seed,
            device=site.bench.device,
            budget=settings.budget,
            max_steps=settings.max_steps,
            tokens=replace(trial.corpus.train, path=""),
            context=trial.context,
            data=FIRST,
        )
        site.clear("train")
        site.lend("train", trial.tip.train_cache if trial.tip else None)
        own = own_folders(self._folder)
        with data, theirs, site.child("train", asdict(task), self._home, own, (theirs.fileno(),)) as child:
            return self._watched(child, data, others_ready or (lambda: True))

    def weights(self) -> BinaryIO:
        """Take what was saved away from where the child could write, and open it. Crash if it is no plain file."""
        saved = self._folder / WEIGHTS
        try:
            if not stat.S_ISREG(saved.lstat().st_mode):
                raise FileNotFoundError
            taken = saved.rename(self._home / WEIGHTS)
            taken.chmod(0o400)
            return open_plain(taken)
        except OSError:
            raise Crash(Fault("save", "the weights are not where run.save had put them")) from None

    def clear(self) -> None:
        """Nothing is left of what it has written, but for weights that were taken."""
        for name in ("train", "source", "train.log"):
            remove(self._home / name)

    def _forget(self) -> None:
        """Nothing is known of an earlier try."""
        self.clear()
        self.tail = self._site.tail = Tail(self._folder / _EVENTS)
        self.condemned = self.compiled = None
        self._began = time.monotonic()

    def _watched(self, child: Child, data: socket.socket, others_ready: Callable[[], bool]) -> TrainResult:
        """The result, the moment it is written. Crash if there is none. data: where the text is awaited."""
        site, settings, tail = self._site, self._site.trial.settings, self.tail
        others: bool | Crash = False
        given = None  # when the text was handed over, and the clock started
        training, whole = _Stopwatch(), _Stopwatch()
        site.show(tail.phase)
        while True:
            looked = time.monotonic()
            code = child.exit_code()  # before the files are looked at, so that a last word is not missed
            result = read_record(TrainResult, self._folder / "result.json")
            news = tail.read()
            try:
                others = others or others_ready()
            except Crash as crash:
                others = crash
            if given is None and others and tail.phase in ("train", "save"):
                if isinstance(others, Crash):
                    raise others
                self.compiled = caches.packed(site.compiled("train")) if site.trial.keep else None  # off the clock
                _hand_over(site.trial.corpus.train, data)
                given = time.monotonic()
            training.look(looked, given is not None and tail.phase == "train" and result is None)
            whole.look(looked, given is not None and result is None)
            if news:
                site.show(tail.phase)
            if result:
                if given is None:
                    raise Crash(Fault(tail.phase, "there are weights, but the clock was never started"))
                self._check_clock(result, training.seconds, whole.seconds)
                return result
            if fault := read_record(Fault, self._folder / "fault.json"):
                raise Crash(outcome.bounded(fault))
            if code is not None:
                # What it writes first is there before the candidate's code is.
                begun = (self._folder / _EVENTS).exists()
                raise Crash(self._died(code, child), suspected=code > 128 or not begun)
            if news:
                self._judge_curve()
            now = time.monotonic()
            if given is None:
                if now - self._began > settings.startup_limit:
                    ready = tail.phase in ("train", "save")
                    phase, what = ("open", "getting ready to score") if ready else (tail.phase, "start-up")
                    raise Crash(Fault(phase, f"{what} took longer than {settings.startup_limit:g} s"))
            elif now - given > settings.budget + (grace := site.bench.grace(settings.budget)):
                late = f"main did not return within {grace:g} s of the end of the budget"
                raise Crash(Fault(tail.phase, late))
            if why := site.pause(child, soon=tail.phase == "save"):
                raise Crash(Fault(tail.phase, why))

    def _judge_curve(self) -> None:
        """Crash if the training is beyond hope. It may be spared for its lag, but not if it has diverged."""
        points, against = self.tail.points, self._site.trial.pace
        if why := pace.diverged(points, self._site.trial.vocab_size):
            raise Crash(Fault("train", why), "stopped")
        if against and not self.condemned and (why := pace.behind(against, points, self.tail.tokens)):
            self.condemned = why
            if not against.spare:
                raise Crash(Fault("train", why), "stopped")

    def _check_clock(self, result: TrainResult, training: float, whole: float) -> None:
        """Crash if the clock was not kept. Seconds as seen from outside: of training as it says, and with saving."""
        budget = self._site.trial.settings.budget
        most = budget + max(_LAST_STEP, 0.02 * budget)
        saving = _SAVING + _data(self._folder / WEIGHTS) / _SAVED
        if training > most or whole > most + saving:
            did, seconds = ("trained", training) if training > most else ("trained and saved", whole)
            reason = f"{did} for {seconds:.1f} s where the budget is {budget:g} s"
            raise Crash(Fault("train", reason, None, result), "quarantined")

    def _died(self, code: int, child: Child) -> Fault:
        how = f"was ended by signal {code - 128}" if code > 128 else f"exited with code {code}"
        hint = " (out of memory?)" if code == 137 else ""
        reason = f"the training process {how}{hint} and left no result"
        return Fault(self.tail.phase, reason, child.output(4096) or None)


def _hand_over(tokens: TokenFile, data: socket.socket) -> None:
    with Path(tokens.path).open("rb") as file, contextlib.suppress(ConnectionError):  # or there is nobody any more
        socket.send_fds(data, [b"t"], [file.fileno()])


def _data(path: Path) -> int:
    """Bytes that were written to a file: holes in it, and room that was only asked for, take no time to be saved. 0
    where there is none; of a file with many holes, what lies before the last of so many."""
    written = end = 0
    with contextlib.suppress(OSError), open_plain(path) as file:
        for _ in range(_HOLES):
            start = os.lseek(file.fileno(), end, os.SEEK_DATA)
            end = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            written += end - start
    return written
