"""One measurement: train in a child process, score in another, take nothing on trust."""

import contextlib
import csv
import os
import shutil
import socket
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import BinaryIO, Literal

from autoresearch.engine import caches, children, outcome
from autoresearch.engine.channel import Channel
from autoresearch.engine.events import Tail
from autoresearch.engine.files import link, open_plain, read_record, remove, size, written
from autoresearch.engine.forkserver import Child, ForkServer
from autoresearch.errors import DeadlinePassed, EngineError
from autoresearch.forks import FIRST, Mode, own_folders
from autoresearch.records import Kept, Measurement, Progress, TokenFile, Trial
from autoresearch.tasks import Fault, ScoreResult, ScoreTask, TrainResult, TrainTask
from autoresearch.units import format_size

Watch = Callable[[Progress], None]

_WEIGHTS = "weights.safetensors"
_COMPILED = "compiled"  # by training, in its folder once that is over
_TOO_LARGE = "the files it has written take more than {}"
_POLL = 0.05  # seconds between looks at a child
_LOG = 256_000  # bytes of a log's end that are kept
_LOG_LIMIT = 64_000_000  # a child's log is cut to its end when it is longer
_SAVING = 5.0  # seconds in which the weights are saved and tried out, and ...
_SAVED = 1e8  # ... bytes of them a second, which a slow disk takes
_LAST_STEP = 3.0  # seconds that the last step may last beyond the budget, or 2 % of it if that is more: a busy machine
_CURVE = 200  # points
_DISK = 20 * 10**9  # bytes that a measurement's files may take: weights, and what compilers keep
_LOOK = 1.0  # seconds between looks at the disk
_LITTLE_SPACE = 50_000_000  # bytes free on the disk, under which a crash is the machine's fault


@dataclass(frozen=True, slots=True)
class Bench:
    """What every measurement of an engine finds there: see LocalEngine."""

    device: str
    memory: int | None  # bytes of the GPU, where they are known
    fingerprint: str
    scratch: Path
    compiled: Path  # where compilers keep their files while a measurement lasts
    environ: Mapping[str, str]
    fixed_grace: float | None
    fixed_score_limit: float | None

    def grace(self, budget: float) -> float:
        """Seconds after the budget in which the last step ends and the weights are saved."""
        return self.fixed_grace if self.fixed_grace is not None else max(20.0, 0.05 * budget)

    def score_limit(self, trial: Trial) -> float:
        """Seconds a scoring may take: as long as start-up and training, and never less than a minute more."""
        if self.fixed_score_limit is not None:
            return self.fixed_score_limit
        return trial.settings.startup_limit + max(60.0, trial.settings.budget)


class _Crash(Exception):
    """Training ended without weights, or with weights that are not to be scored."""

    def __init__(self, fault: Fault, outcome: Literal["crashed", "quarantined"] = "crashed") -> None:
        self.fault, self.outcome = fault, outcome


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


class Measuring:
    """One measurement under way."""

    def __init__(self, bench: Bench, server: ForkServer, trial: Trial, home: Path, watch: Watch) -> None:
        """server: of which the children are forked. home: the folder of the training, empty."""
        self._bench, self._server, self._trial, self._home, self._watch = bench, server, trial, home, watch
        self._began = time.monotonic()
        self._logs: dict[str, str] = {}
        self._train = home / "train"
        self._disk = min(_DISK, shutil.disk_usage(home).free // 2)
        self._looked = self._began
        self._tail = Tail(self._train / "events.jsonl")

    def run(self) -> Measurement:
        """Train and score; a crash is a value. EngineError if the machine is to blame, DeadlinePassed if time is up."""
        try:
            trained = None
            if self._trial.weights is None:
                trained = self._trained()
            else:
                self._given(self._trial.weights)
            measurement = outcome.scored(self._base(trained), self._scored())
        except _Crash as crash:
            self._check_space()
            fault = crash.fault
            measurement = replace(
                self._base(fault.result),
                outcome=crash.outcome,
                phase=fault.phase,
                reason=fault.reason,
                traceback=fault.traceback,
            )
        finally:
            remove(self._compiled("train"))
            remove(self._compiled("score"))
            self._keep_logs()
        total = time.monotonic() - self._began
        return replace(measurement, seconds={**measurement.seconds, "total": total})

    # ------------------------------------------------------------------------------------------ training

    def _trained(self) -> TrainResult:
        trial, settings = self._trial, self._trial.settings
        self._train.mkdir()
        # Nothing can be learned ahead of the clock: the text is handed over when that starts, as an open file.
        data, theirs = socket.socketpair()
        task = TrainTask(
            source=str(_export(trial, self._home)),
            folder=str(self._train),
            seed=trial.seed,
            device=self._bench.device,
            budget=settings.budget,
            max_steps=settings.max_steps,
            tokens=replace(trial.corpus.train, path=""),
            context=trial.context,
            data=FIRST,
        )
        caches.lend(trial.tip.train_cache if trial.tip else None, self._compiled("train"))
        try:
            own = own_folders(self._train)
            with data, theirs, self._child("train", asdict(task), self._home, own, (theirs.fileno(),)) as child:
                return self._watched(child, data)
        finally:  # out of the way of the open process, which has seen held-out text
            caches.set_aside(self._compiled("train"), self._home / _COMPILED)

    def _given(self, weights: str) -> None:
        """Have weights that were trained before scored in place of new ones: a copy, and nothing is known of them."""
        self._train.mkdir()
        (self._home / _COMPILED).mkdir()
        try:
            shutil.copyfile(weights, self._train / _WEIGHTS)
        except FileNotFoundError:
            raise _Crash(Fault("save", f"the weights of the earlier training are gone: {weights}")) from None

    def _watched(self, child: Child, data: socket.socket) -> TrainResult:
        """The result, the moment it is written. _Crash if there is none. data: where the text is awaited."""
        settings, clock, given = self._trial.settings, None, False
        training, whole = _Stopwatch(), _Stopwatch()
        self._show(self._tail.phase)
        while True:
            looked = time.monotonic()
            code = child.exit_code()  # before the files are looked at, so that a last word is not missed
            result = read_record(TrainResult, self._train / "result.json")
            news = self._tail.read()
            if not given and self._tail.phase in ("train", "save"):
                _hand_over(self._trial.corpus.train, data)
                given = True
            training.look(looked, self._tail.phase == "train" and result is None)
            whole.look(looked, self._tail.phase in ("train", "save") and result is None)
            if news:
                self._show(self._tail.phase)
            if result:
                self._check_clock(result, training.seconds, whole.seconds)
                return result
            if fault := read_record(Fault, self._train / "fault.json"):
                raise _Crash(outcome.bounded(fault))
            if code is not None:
                raise _Crash(self._died(code, child))
            now = time.monotonic()
            if clock is None:
                if self._tail.phase in ("train", "save"):
                    clock = now
                elif now - self._began > settings.startup_limit:
                    limit = f"start-up took longer than {settings.startup_limit:g} s"
                    raise _Crash(Fault(self._tail.phase, limit))
            elif now - clock > settings.budget + (grace := self._bench.grace(settings.budget)):
                late = f"main did not return within {grace:g} s of the end of the budget"
                raise _Crash(Fault(self._tail.phase, late))
            self._pause(child)
            if self._fills_disk(self._home, "train"):
                raise _Crash(Fault(self._tail.phase, _TOO_LARGE.format(format_size(self._disk))))

    def _check_clock(self, result: TrainResult, training: float, whole: float) -> None:
        """_Crash if the clock was not kept. Seconds as seen from outside: of training as it says, and with saving."""
        budget = self._trial.settings.budget
        if self._tail.phase not in ("train", "save"):
            raise _Crash(Fault(self._tail.phase, "there are weights, but the clock was never started"))
        most = budget + max(_LAST_STEP, 0.02 * budget)
        saving = _SAVING + _on_disk(self._train / _WEIGHTS) / _SAVED
        if training > most or whole > most + saving:
            did, seconds = ("trained", training) if training > most else ("trained and saved", whole)
            reason = f"{did} for {seconds:.1f} s where the budget is {budget:g} s"
            raise _Crash(Fault("train", reason, None, result), "quarantined")

    def _died(self, code: int, child: Child) -> Fault:
        how = f"was ended by signal {code - 128}" if code > 128 else f"exited with code {code}"
        hint = " (out of memory?)" if code == 137 else ""
        return Fault(
            self._tail.phase, f"the training process {how}{hint} and left no result", child.output(4096) or None
        )

    # ------------------------------------------------------------------------------------------ scoring

    def _scored(self) -> ScoreResult:
        """The score. Its folder is made when no process of training is left, and of training it gets only weights."""
        bench, trial = self._bench, self._trial
        with children.home_for(bench.scratch) as home, Channel(home) as channel, self._taken(home) as weights:
            caches.lend(trial.tip.open_cache if trial.tip else None, self._compiled("score"))
            unchanged = os.fstat(weights.fileno()).st_ctime_ns
            task = ScoreTask(
                source=str(_export(trial, home)),
                weights=str(home / _WEIGHTS),
                folder=str(home),
                device=bench.device,
                context=trial.context,
                tokens=trial.corpus.validation,
                validation=trial.settings.validation,
                audit=trial.settings.audit,
                incumbent=trial.tip.losses if trial.tip else None,
                limit=bench.score_limit(trial),
                result=FIRST,
                losses=FIRST + 1,
                memory=bench.memory,
                bar=trial.bar,
            )
            with self._child("score", asdict(task), home, {}, channel.ends) as child:
                found = self._answer(child, channel, task.limit, home)
            if found.outcome != "scored":
                return found
            if os.fstat(weights.fileno()).st_ctime_ns != unchanged:  # which no process can set back
                reason = "the weights' file was changed while it was scored"
                return replace(found, outcome="quarantined", reason=reason, value=None)
            if trial.keep:
                self._keep(trial.keep, weights, channel)
            return found

    def _answer(self, child: Child, channel: Channel, limit: float, home: Path) -> ScoreResult:
        """What the scorer says, or that it said nothing."""
        began = time.monotonic()
        self._show("score")
        while True:
            code = child.exit_code()
            if result := channel.result():
                return result
            if time.monotonic() - began > limit + 15:
                return ScoreResult("crashed", f"scoring took longer than {limit:g} s")
            if code is not None:
                self._check_space()
                return ScoreResult("crashed", f"the scorer ended with code {code} and left no result")
            self._pause(child)
            if self._fills_disk(home, "score"):
                return ScoreResult("crashed", _TOO_LARGE.format(format_size(self._disk)))

    def _taken(self, home: Path) -> BinaryIO:
        """Move the weights here, and open them. _Crash if they are no plain file."""
        weights = self._train / _WEIGHTS
        try:
            if not stat.S_ISREG(weights.lstat().st_mode):
                raise FileNotFoundError
            moved = weights.rename(home / _WEIGHTS)
            moved.chmod(0o400)
            return open_plain(moved)
        except OSError:
            raise _Crash(Fault("save", "the weights are not where run.save had put them")) from None

    def _keep(self, keep: Kept, weights: BinaryIO, channel: Channel) -> None:
        """Lay by what is to outlive the measurement. No process of the candidate is left that could still change it."""
        with written(Path(keep.weights)) as partial:
            link(weights, partial)
        with written(Path(keep.losses)) as partial:
            channel.save_losses(partial)
        caches.keep(self._home / _COMPILED, keep.train_cache)
        caches.keep(self._compiled("score"), keep.open_cache)

    # ------------------------------------------------------------------------------------------ what both need

    @contextlib.contextmanager
    def _child(
        self, mode: Mode, task: Mapping[str, object], home: Path, own: Mapping[str, str], fds: tuple[int, ...] = ()
    ) -> Iterator[Child]:
        """A child of the measurement in `home`. own: environment beside that which all have. In the end none of its
        processes is left, and its output is kept."""
        env = {**children.environment(self._bench.environ, home, self._compiled(mode)), **own}
        child = Child(self._server, mode, task, home / f"{mode}.log", env, *fds)
        try:
            yield child
        finally:
            child.end()
            children.kill_marked(home)
            self._logs[f"{mode}.log"] = child.output(_LOG)
            child.close()

    def _compiled(self, mode: Mode) -> Path:
        return self._bench.compiled / mode

    def _pause(self, child: Child) -> None:
        deadline = self._trial.deadline
        if deadline is not None and time.time() > deadline:
            raise DeadlinePassed("the run's time is up in the middle of an experiment")
        child.trim(_LOG_LIMIT, _LOG)
        child.wait(_POLL)

    def _fills_disk(self, home: Path, mode: Mode) -> bool:
        """Whether a child's files, those in `home` and in its compilers' caches, have grown beyond the limit."""
        if time.monotonic() < self._looked + _LOOK:
            return False
        found = size([home, self._compiled(mode)], self._disk)
        self._looked = time.monotonic()
        return found > self._disk

    def _show(self, phase: str) -> None:
        tail = self._tail
        self._watch(
            Progress(
                phase=phase,
                seconds=time.monotonic() - self._began,
                point=tail.points[-1] if tail.points else None,
                tokens_per_second=tail.tokens_per_second,
                memory=tail.memory,
            )
        )

    def _base(self, trained: TrainResult | None) -> Measurement:
        return outcome.trained(self._trial, self._bench.fingerprint, self._tail.curve(_CURVE), trained)

    def _keep_logs(self) -> None:
        if not self._trial.logs:
            return
        logs = Path(self._trial.logs)
        for name, text in self._logs.items():
            with written(logs / name) as partial:
                partial.write_text(text)
        with written(logs / "curve.csv") as partial, partial.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("step", "seconds", "progress", "loss"))
            writer.writerows(
                (p.step, f"{p.seconds:.3f}", f"{p.progress:.5f}", f"{p.loss:.6g}") for p in self._tail.points
            )

    def _check_space(self) -> None:
        with contextlib.suppress(FileNotFoundError):  # the candidate can have removed it
            if shutil.disk_usage(self._bench.scratch).free < _LITTLE_SPACE:
                raise EngineError(f"The disk of {self._bench.scratch} is full.", "Free some space and start again.")


def _hand_over(tokens: TokenFile, data: socket.socket) -> None:
    with Path(tokens.path).open("rb") as file, contextlib.suppress(ConnectionError):  # or there is nobody any more
        socket.send_fds(data, [b"t"], [file.fileno()])


def _on_disk(path: Path) -> int:
    """Bytes that a file takes on the disk, and a hole in it takes no time to be saved; 0 where there is none."""
    try:
        return path.lstat().st_blocks * 512
    except OSError:
        return 0


def _export(trial: Trial, home: Path) -> Path:
    """The file to train, as the house knows it."""
    source = home / "source" / Path(trial.settings.edit[0]).name
    source.parent.mkdir()
    source.write_text(trial.source)
    return source
