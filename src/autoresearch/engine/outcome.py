"""A measurement, put together from what training left and what the scorer found."""

from dataclasses import replace

from autoresearch import pace
from autoresearch.engine.device import peak_flops
from autoresearch.engine.events import Tail
from autoresearch.records import Measurement, Trial
from autoresearch.tasks import Fault, ScoreResult, TrainResult

_CURVE = 200  # points
_TRACEBACK = 4096  # characters


def trained(trial: Trial, harness: str, tail: Tail, result: TrainResult | None) -> Measurement:
    """All that is known before the score; the outcome is still to be set. harness: the fingerprint of its code.

    Without a result, what its events tell: that of a training which was stopped."""
    base = Measurement(
        seed=trial.seed,
        outcome="crashed",
        corpus=trial.corpus.fingerprint,
        harness=harness,
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
        seconds=dict(result.seconds),
        steps=result.steps,
        tokens=result.tokens,
        train_tokens=trial.corpus.train.tokens,
        parameters=result.parameters or None,
        active_parameters=result.active_parameters,
        peak_memory=result.peak_memory,
        mfu=_mfu(result),
        loss=result.loss,
        device_name=result.device_name,
        device_uuid=result.device_uuid,
        torch_version=result.torch_version,
        start_hash=result.start_hash or None,
    )


def scored(base: Measurement, score: ScoreResult) -> Measurement:
    """The measurement with what the scorer found, whatever that is."""
    return replace(
        base,
        outcome=score.outcome,
        value=score.value,
        phase=None if score.outcome == "scored" else "score",
        reason=score.reason and _line(score.reason),
        traceback=score.traceback and score.traceback[-_TRACEBACK:],
        claim=score.claim,
        targets=score.targets,
        bytes=score.bytes,
        audit=score.audit,
        seconds={**base.seconds, **score.seconds},
    )


def bounded(fault: Fault) -> Fault:
    """The fault as far as it may go on: the file it came in is as untrusted as the code that could have written it."""
    traceback = fault.traceback and fault.traceback[-_TRACEBACK:]
    return replace(fault, phase=fault.phase[:20], reason=_line(fault.reason), traceback=traceback)


def _line(reason: str) -> str:
    return " ".join(reason.split())[:300]


def _mfu(result: TrainResult) -> float | None:
    """Model FLOPs used, as a share of the device's peak."""
    peak, seconds = peak_flops(result.device_name), result.seconds.get("train", 0.0)
    if not peak or not seconds or result.flops_per_token is None:
        return None
    return result.flops_per_token * result.tokens / seconds / peak
