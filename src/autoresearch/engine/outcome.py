"""A measurement, put together from what training left and what the scorer found."""

import math
from dataclasses import replace
from typing import TypeVar

from autoresearch import pace
from autoresearch.engine.device import peak_flops
from autoresearch.engine.events import COUNT, MOST, PHASES, Tail
from autoresearch.engine.site import Bench
from autoresearch.records import Measurement, Trial
from autoresearch.tasks import Fault, ScoreResult, TrainResult

_CURVE = 200  # points
_TRACEBACK = 4096  # characters
_HASH = 64

N = TypeVar("N", int, float, int | None, float | None)


def trained(trial: Trial, bench: Bench, tail: Tail, result: TrainResult | None) -> Measurement:
    """All that is known before the score; the outcome is still to be set.

    Without a result, what its events tell: that of a training which was stopped."""
    base = Measurement(
        seed=trial.seed,
        outcome="crashed",
        corpus=trial.corpus.fingerprint,
        harness=bench.fingerprint,
        device_name=bench.device_name,
        device_uuid=bench.gpu,
        torch_version=bench.torch,
        curve=tail.curve(_CURVE),
        pace=pace.means(tail.points) if tail.points else (),
    )
    if result is None:
        last = tail.points[-1] if tail.points else None
        return replace(
            base,
            seconds={"train": last.seconds} if last else {},
            steps=last.step if last else None,
            tokens=tail.tokens,
            train_tokens=trial.corpus.train.tokens,
            peak_memory=tail.memory,
            loss=last.loss if last else None,
        )
    return replace(
        base,
        seconds={phase: _between(0, result.seconds[phase], MOST) for phase in PHASES if phase in result.seconds},
        steps=_between(0, result.steps, COUNT),
        tokens=_between(0, result.tokens, COUNT),
        train_tokens=trial.corpus.train.tokens,
        parameters=_between(0, result.parameters, COUNT) or None,
        active_parameters=_between(0, result.active_parameters, COUNT),
        peak_memory=_between(0, result.peak_memory, COUNT),
        mfu=_mfu(result, bench.device_name),
        loss=_between(-MOST, result.loss, MOST),
        start_hash=result.start_hash[:_HASH] or None,
    )


def scored(base: Measurement, score: ScoreResult) -> Measurement:
    """The measurement with what the scorer found, whatever that is."""
    return replace(
        base,
        outcome=score.outcome,
        value=score.value,
        phase=None if score.outcome == "scored" else "score",
        reason=score.reason and _line(score.reason),
        traceback=score.traceback and _text(score.traceback),
        claim=score.claim,
        targets=score.targets,
        bytes=score.bytes,
        audit=score.audit,
        seconds={**base.seconds, **score.seconds},
    )


def bounded(fault: Fault) -> Fault:
    """The fault as far as it may go on: the file it came in is as untrusted as the code that could have written it."""
    phase = fault.phase if fault.phase in PHASES else "train"
    return replace(fault, phase=phase, reason=_line(fault.reason), traceback=fault.traceback and _text(fault.traceback))


def _between(least: float, number: N, most: float) -> N:
    """So that a figure which is made up can be reckoned with all the same."""
    return None if number is None else type(number)(min(max(number, least), most))


def _line(reason: str) -> str:
    return " ".join(_text(reason[:_TRACEBACK]).split())[:300]


def _text(said: str) -> str:
    """The end of it, without what would move a terminal's cursor or turn its text around."""
    return "".join(c for c in said[-_TRACEBACK:] if c.isprintable() or c in "\n\t")


def _mfu(result: TrainResult, device_name: str) -> float | None:
    """Model FLOPs used, as a share of the device's peak."""
    peak, seconds = peak_flops(device_name), result.seconds.get("train", 0.0)
    if not peak or not seconds or result.flops_per_token is None:
        return None
    mfu = result.flops_per_token * result.tokens / seconds / peak
    return mfu if math.isfinite(mfu) else None
