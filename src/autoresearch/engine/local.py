"""One experiment after another on this machine: train in a child process, score in another, take nothing on trust."""

import csv
import errno
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter

from autoresearch.engine import children
from autoresearch.engine.children import Child
from autoresearch.engine.device import describe_hardware, peak_flops, resolve_device, visible_gpus
from autoresearch.engine.events import Tail
from autoresearch.engine.fingerprint import harness_fingerprint
from autoresearch.engine.turn import turn
from autoresearch.errors import CorpusError, DeadlinePassed, EngineError
from autoresearch.records import (
    Fault,
    Measurement,
    Progress,
    ScoreResult,
    ScoreTask,
    TokenFile,
    TrainResult,
    TrainTask,
    Trial,
)
from autoresearch.settings import Device

T = TypeVar("T", TrainResult, Fault, ScoreResult)
Watch = Callable[[Progress], None]

_POLL = 0.05  # seconds between looks at a child
_LOG = 256_000  # bytes of a log's end that are kept
_LOG_LIMIT = 64_000_000  # a child's log is cut to nothing when it is longer
_CURVE = 200  # points
_RESULT = 1_000_000  # bytes; a longer result is none
_MACHINE_FAULTS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ENOMEM, errno.EMFILE, errno.ENFILE}
_LITTLE_SPACE = 50_000_000  # bytes free on the disk, under which a crash is the machine's fault


class LocalEngine:
    """Measures trials on one device of this machine.

    scratch: a folder outside any repository, for files that last as long as a measurement, for compilers' caches, and
    for the lock by which engines with the same scratch take turns on a device.
    environ: the caller's environment, of which children get an allow-list. label: what is apart from other runs.
    grace: seconds after the budget within which training must have returned. score_limit: seconds for a scoring.
    EngineError if the device is not there.
    """

    def __init__(
        self,
        scratch: Path,
        environ: Mapping[str, str],
        label: str,
        device: Device = "auto",
        grace: float | None = None,
        score_limit: float | None = None,
    ) -> None:
        self.device = resolve_device(device, environ)
        self.hardware = describe_hardware(self.device, environ)
        self.fingerprint = harness_fingerprint()
        self._scratch = scratch / label
        gpus = visible_gpus(environ) if self.device == "cuda" else []
        self._lock = scratch / f"device-{'-'.join([self.device, *(gpu.uuid for gpu in gpus[:1])])}.lock"
        self._caches = scratch / "caches"
        self._environ = dict(environ)
        self._grace = grace
        self._score_limit = score_limit

    def reap(self) -> int:
        """End what a killed predecessor of the same label left running, and remove its files. Call before measuring.
        Returns how many processes were ended."""
        return children.reap(self._scratch)

    def measure(self, trial: Trial, watch: Watch | None = None) -> Measurement:
        """Train and score. What the candidate does is a value; EngineError and CorpusError are not its fault.

        Waits while another process measures on the same device. `watch` is told what is seen, several times a second
        at most. DeadlinePassed at the trial's deadline.
        """
        watch = watch or (lambda _: None)
        for tokens in (trial.corpus.train, trial.corpus.validation):
            _check_tokens(tokens)  # or else the candidate would be blamed
        with turn(self._lock, trial.deadline, watch), children.home_for(self._scratch) as home:
            try:
                return _Measuring(self, trial, home, watch).run()
            except OSError as error:
                if error.errno not in _MACHINE_FAULTS:
                    raise
                raise EngineError(
                    f"{error.filename or home}: {error.strerror}.", "Free some space on that disk."
                ) from error

    def grace(self, budget: float) -> float:
        """Seconds after the budget in which the last step ends and the weights are saved."""
        return self._grace if self._grace is not None else max(20.0, 0.05 * budget)

    def score_limit(self, trial: Trial) -> float:
        """Seconds a scoring may take: as long as start-up and training, and never less than a minute more."""
        if self._score_limit is not None:
            return self._score_limit
        return trial.settings.startup_limit + max(60.0, trial.settings.budget)

    def environment(self, home: Path) -> dict[str, str]:
        return children.environment(self._environ, home, self._caches)


class _Crash(Exception):
    """Training ended without weights."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault


class _Measuring:
    """One measurement under way."""

    def __init__(self, engine: LocalEngine, trial: Trial, home: Path, watch: Watch) -> None:
        self._engine, self._trial, self._home, self._watch = engine, trial, home, watch
        self._env = engine.environment(home)
        self._began = time.monotonic()
        self._source = home / "source" / Path(trial.settings.edit[0]).name
        self._train, self._score = home / "train", home / "score"
        self._tail = Tail(self._train / "events.jsonl")
        for folder in (self._source.parent, self._train, self._score):
            folder.mkdir()
        self._source.write_text(trial.source)

    def run(self) -> Measurement:
        """Train and score; a crash is a value. EngineError if the machine is to blame, DeadlinePassed if time is up."""
        try:
            trained = self._trained()
            measurement = self._with_score(self._base(trained), self._scored())
        except _Crash as crash:
            self._check_space()
            fault = crash.fault
            measurement = replace(
                self._base(fault.result),
                outcome="crashed",
                phase=fault.phase,
                reason=fault.reason,
                traceback=fault.traceback,
            )
        finally:
            self._keep_logs()
        total = time.monotonic() - self._began
        return replace(measurement, seconds={**measurement.seconds, "total": total})

    # ------------------------------------------------------------------------------------------ training

    def _trained(self) -> TrainResult:
        trial, settings = self._trial, self._trial.settings
        task = TrainTask(
            source=str(self._source),
            folder=str(self._train),
            seed=trial.seed,
            device=self._engine.device,
            budget=settings.budget,
            max_steps=settings.max_steps,
            tokens=trial.corpus.train,
            context=trial.context,
        )
        child = Child("train", asdict(task), self._home, self._env)
        try:
            return self._watched(child)
        finally:
            child.end()

    def _watched(self, child: Child) -> TrainResult:
        """The result, the moment it is written. _Crash if there is none."""
        settings, clock = self._trial.settings, None
        while True:
            code = child.exit_code()  # before the files are looked at, so that a last word is not missed
            if self._tail.read():
                self._show(self._tail.phase)
            if result := _read(TrainResult, self._train / "result.json"):
                if self._tail.phase not in ("train", "save"):
                    raise _Crash(Fault(self._tail.phase, "there are weights, but the clock was never started"))
                return result
            if fault := _read(Fault, self._train / "fault.json"):
                raise _Crash(_bounded(fault))
            if code is not None:
                raise _Crash(self._died(code, child))
            now = time.monotonic()
            if clock is None:
                if self._tail.phase in ("train", "save"):
                    clock = now
                elif now - self._began > settings.startup_limit:
                    limit = f"start-up took longer than {settings.startup_limit:g} s"
                    raise _Crash(Fault(self._tail.phase, limit))
            elif now - clock > settings.budget + (grace := self._engine.grace(settings.budget)):
                late = f"main did not return within {grace:g} s of the end of the budget"
                raise _Crash(Fault(self._tail.phase, late))
            self._pause(child)

    def _died(self, code: int, child: Child) -> Fault:
        how = f"was ended by signal {code - 128}" if code > 128 else f"exited with code {code}"
        hint = " (out of memory?)" if code == 137 else ""
        return Fault(
            self._tail.phase, f"the training process {how}{hint} and left no result", _end_of(child.log, 4096) or None
        )

    # ------------------------------------------------------------------------------------------ scoring

    def _scored(self) -> ScoreResult:
        trial, limit = self._trial, self._engine.score_limit(self._trial)
        task = ScoreTask(
            source=str(self._source),
            weights=str(self._train / "weights.safetensors"),
            folder=str(self._score),
            device=self._engine.device,
            context=trial.context,
            tokens=trial.corpus.validation,
            validation=trial.settings.validation,
            audit=trial.settings.audit,
            incumbent=trial.incumbent,
            limit=limit,
        )
        child = Child("score", asdict(task), self._home, self._env)
        began = time.monotonic()
        try:
            self._show("score")
            while True:
                code = child.exit_code()
                if result := _read(ScoreResult, self._score / "result.json"):
                    return self._kept(result)
                if time.monotonic() - began > limit + 15:
                    return ScoreResult("crashed", f"scoring took longer than {limit:g} s")
                if code is not None:
                    self._check_space()
                    return ScoreResult("crashed", f"the scorer ended with code {code} and left no result")
                self._pause(child)
        finally:
            child.end()

    def _kept(self, result: ScoreResult) -> ScoreResult:
        """Move what is to outlive the measurement."""
        wanted = (
            (self._train / "weights.safetensors", self._trial.keep_weights),
            (self._score / "losses.npz", self._trial.keep_losses),
        )
        if result.outcome == "scored":
            for file, target in wanted:
                if target:
                    Path(target).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(file, f"{target}.partial")
                    Path(f"{target}.partial").replace(target)
        return result

    # ------------------------------------------------------------------------------------------ what both need

    def _pause(self, child: Child) -> None:
        deadline = self._trial.deadline
        if deadline is not None and time.time() > deadline:
            raise DeadlinePassed("The run's time is up in the middle of an experiment.")
        if child.log.stat().st_size > _LOG_LIMIT:
            os.truncate(child.log, 0)  # it is open for appending, so the next line starts the file anew
        time.sleep(_POLL)

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
        """All that is known before the score; the outcome is still to be set."""
        base = Measurement(
            seed=self._trial.seed,
            outcome="crashed",
            corpus=self._trial.corpus.fingerprint,
            harness=self._engine.fingerprint,
            curve=self._tail.curve(_CURVE),
        )
        if trained is None:
            return base
        return replace(
            base,
            seconds=dict(trained.seconds),
            steps=trained.steps,
            tokens=trained.tokens,
            parameters=trained.parameters or None,
            peak_memory=trained.peak_memory,
            mfu=_mfu(trained),
            loss=trained.loss,
            device_name=trained.device_name,
            device_uuid=trained.device_uuid,
            torch_version=trained.torch_version,
            start_hash=trained.start_hash or None,
        )

    def _with_score(self, base: Measurement, score: ScoreResult) -> Measurement:
        return replace(
            base,
            outcome=score.outcome,
            value=score.value,
            phase=None if score.outcome == "scored" else "score",
            reason=score.reason,
            claim=score.claim,
            targets=score.targets,
            bytes=score.bytes,
            audit=score.audit,
            seconds={**base.seconds, **score.seconds},
        )

    def _keep_logs(self) -> None:
        if not self._trial.logs:
            return
        logs = Path(self._trial.logs)
        logs.mkdir(parents=True, exist_ok=True)
        for name in ("train.log", "score.log"):
            if (self._home / name).exists():
                (logs / name).write_text(_end_of(self._home / name, _LOG))
        with (logs / "curve.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("step", "seconds", "progress", "loss"))
            writer.writerows(
                (p.step, f"{p.seconds:.3f}", f"{p.progress:.5f}", f"{p.loss:.6g}") for p in self._tail.points
            )

    def _check_space(self) -> None:
        if shutil.disk_usage(self._home).free < _LITTLE_SPACE:
            raise EngineError(f"The disk of {self._home.parent} is full.", "Free some space and start again.")


def _read(kind: type[T], path: Path) -> T | None:
    """A result, if it is there. One that makes no sense is none: its process can only hurt itself by that."""
    try:
        with path.open("rb") as file:
            return TypeAdapter(kind).validate_json(file.read(_RESULT))
    except (OSError, ValueError):
        return None


def _bounded(fault: Fault) -> Fault:
    """The fault as far as it may go on: the file it came in is as untrusted as the code that could have written it."""
    reason = " ".join(fault.reason.split())[:300]
    return replace(fault, phase=fault.phase[:20], reason=reason, traceback=fault.traceback and fault.traceback[-4096:])


def _check_tokens(tokens: TokenFile) -> None:
    """CorpusError if a token file is not there or not whole."""
    path = Path(tokens.path)
    if not path.is_file() or path.stat().st_size != 2 * tokens.tokens or not Path(tokens.token_bytes).is_file():
        raise CorpusError(f"{path} is missing or not whole.", "Run autoresearch prepare again.")


def _end_of(path: Path, size: int) -> str:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - size))
        return file.read(size).decode(errors="replace")


def _mfu(trained: TrainResult) -> float | None:
    """Model FLOPs used, as a share of the device's peak."""
    peak, seconds = peak_flops(trained.device_name), trained.seconds.get("train", 0.0)
    if not peak or not seconds or trained.flops_per_token is None:
        return None
    return trained.flops_per_token * trained.tokens / seconds / peak
