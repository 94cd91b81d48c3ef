"""The judge: a score is claimed by one process and proved by another that never received the target.

The open process sees whole rows and claims the loss of every target. Once it and all it started are dead, positions
are drawn from the operating system's randomness, and a fresh, sealed process is asked for the logits there, given
rows cut before the target. The judge computes those losses itself, in float64; d = sealed - claimed. A model that
uses what lies ahead, in whatever way, has d > 0 somewhere that was worth it. The judge runs no code of the candidate.
"""

import dataclasses
import json
import math
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray

from autoresearch.forks import Forks
from autoresearch.harness import sampling, validation
from autoresearch.harness.sampling import Chances, Floats, Incumbent, Sample
from autoresearch.harness.server import Server
from autoresearch.harness.validation import Validation
from autoresearch.harness.wire import Refused, ServeTask, write_all
from autoresearch.records import Audit
from autoresearch.tasks import Outcome, ScoreResult, ScoreTask

OUTLIER = 0.5  # nats: more than any honest difference at one position, 500 sd of bf16 eager against compiled
MEAN = 0.001  # nats, and ...
ERRORS = 4.0  # ... standard errors: a mean difference beyond both is no accident
SCATTER = 0.1  # nats: a deviation between positions that no rounding has; behind it a false claim could hide by chance
CORRECTION = 2.0  # standard errors that are added to the mean difference by which a claim is corrected
CLOSER = 4  # times as many positions are audited where a score may be kept
SLOWER = 3.0  # times as long as the tip's open process may one take: what is computed there is not trained for
GROWTH = 1.5  # times as much at the most may the next one have as a measure, or it would grow from tip to tip
_SETTLING = 3.0  # seconds in which a process that has rehearsed is at work, on a busy machine; alone it takes 0.1
_LOADED = 5e8  # bytes of weights a second, from a disk's cache
DRIFT = 6.0  # standard deviations of a rank correlation under chance: passed once in a billion scorings
_SMALL = 8 * 2**30  # bytes: what a GPU has that does not say

LEAK = "the score is not believed: the model uses information it should not have (tokens at or after the one predicted)"
STATE = (
    "the score is not believed: the model does better on rows that it is given later, so it learns from those before"
)
UNSTABLE = "the score is not believed: the model does not reproduce its predictions in a fresh process"


def score(task: ScoreTask, forks: Forks) -> None:
    """Score, and answer over the task's descriptors, which none of the candidate's processes inherits.

    forks: where those are forked, by a server that has never seen what this process reads. What still runs at the end
    is ended with this process.
    """
    result = Judge(task, forks).judge()
    write_all(task.result, json.dumps(dataclasses.asdict(result)).encode() + b"\n")


@dataclass
class Judge:
    """One scoring, from the validation text to the verdict."""

    task: ScoreTask
    forks: Forks
    text: Validation = field(init=False)
    incumbent: Incumbent = field(init=False)
    rows: int = field(init=False)  # per batch
    served: Floats = field(init=False)  # [R]: when the open process was given each row, in batches
    deadline: float = field(init=False)
    compiled: bytes = field(init=False)  # by the open process, when it knew no target
    limit: float = field(init=False)  # seconds for the rehearsal, and then for the claim
    seconds: dict[str, float] = field(default_factory=dict)
    servers: list[Server] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.limit = self.task.limit
        self.rows = self.task.rows or _rows_per_batch(self.task)
        self.random = np.random.default_rng()  # seeded by the operating system

    def judge(self) -> ScoreResult:
        """Once. Never raises for what the candidate does."""
        try:
            claimed = self._server("open")
            self.text = validation.read(self.task.tokens, self.task.context, self.task.validation)
            self.incumbent = sampling.incumbent(self.task.incumbent, self.text, self.task.machine)
            if not claimed.rehearse(time.monotonic() + self.limit):
                return ScoreResult("crashed", "there is no room beside the training", postponed=True)
            write_all(self.task.result, b"\n")  # ready
            if not os.read(self.task.go, 1):
                raise Refused("there are no weights to score")
            self.compiled = os.pread(self.task.compiled, os.fstat(self.task.compiled).st_size, 0)
            if self.incumbent.seconds is not None:
                self.limit = min(self.limit, SLOWER * self.incumbent.seconds + self._settling())
            began = time.monotonic()
            claimed.go()
            with ThreadPoolExecutor(2) as beside:
                sealed = self._server("sealed")
                ready = beside.submit(sealed.give, self.compiled)  # while the other one answers
                claim = self._claim(claimed, began)
                stopped = beside.submit(claimed.stop)
                self._check(claim)
                chances = Chances.of(self.incumbent.losses, claim, self.task.context)
                stopped.result()  # before a position is drawn
                self.seconds["open"] = time.monotonic() - began
                saved, drifts = beside.submit(self._save, claim), beside.submit(self._drifts, claim)
                ready.result()
                result = self._audited(sealed, claim, chances)
                saved.result()
                if drifts.result() and result.outcome == "scored":
                    result = self._result("quarantined", claim, result.audit, STATE)
            self.seconds["sealed"] = time.monotonic() - began - self.seconds["open"]
            return result
        except Refused as error:
            reason = str(error)
            return ScoreResult("crashed", reason, seconds=self.seconds, suspected=error.suspected, traceback=error.said)
        except TimeoutError:
            limit = self.task.limit if "open" in self.seconds else self.limit
            tip = "" if limit == self.task.limit else f", {SLOWER:g} times what the tip took"
            reason = f"scoring took longer than {limit:.3g} s{tip}"
            return ScoreResult("crashed", reason, seconds=self.seconds, suspected=bool(tip))
        finally:
            for server in self.servers:
                server.pass_on()

    def _audited(self, server: Server, claim: NDArray[np.float32], chances: Chances) -> ScoreResult:
        """The verdict by positions drawn now. server: sealed, not told to go yet."""
        server.go()
        self.deadline = time.monotonic() + self.task.limit  # it has rehearsed nothing
        may_be_kept = self.task.bar is not None and self._bits(claim) < self.task.bar
        size = self.task.audit * (CLOSER if may_be_kept else 1)
        sample = sampling.draw(chances, size, self.random)
        difference = self._difference(server, claim, sample)
        server.stop()
        persists = np.zeros(len(difference), dtype=bool)
        if (suspects := np.abs(difference) > OUTLIER).any():
            third = self._server("sealed")
            third.give(self.compiled)
            third.go()
            again = self._difference(third, claim, sample)
            third.stop()
            persists = suspects & (np.abs(again) > OUTLIER) & (np.sign(again) == np.sign(difference))
        audit = _audit(difference, sample.weights)
        reason = _disbelief(audit, difference[persists])
        return self._result("quarantined" if reason else "scored", claim, audit, reason)

    def _claim(self, server: Server, began: float) -> NDArray[np.float32]:
        """float32[targets], as the open process says. Each row once, in secret order, with random company.

        Refused if the first of several batches takes long, though all was rehearsed: whoever trains on with text that
        is kept in the weights must do so before any answer. began: when the process was told to go.
        """
        self.deadline = began + self.limit
        count = len(self.text.tokens)
        order = self.random.permutation(-(-count // self.rows) * self.rows) % count  # the last batch is filled up
        batches = order.reshape(-1, self.rows)
        frames = (self.text.tokens[batch].astype("<u2").tobytes() for batch in batches)
        table = np.zeros((count, self.task.context), dtype=np.float32)
        answered = [began]
        for batch, reply in zip(batches, server.ask(frames, len(batches), self.deadline), strict=True):
            table[batch] = np.frombuffer(reply, dtype="<f4").reshape(self.rows, -1)
            answered.append(time.monotonic())
        first, *others = np.diff(answered).tolist()
        # The first is sent when the second is launched, or has been computed, and the last with the one before.
        if len(others) > 2 and first > self._settling() + 2 * median(others):
            raise Refused(f"the model was at work for {first:.1f} s before its first prediction", suspected=True)
        self.served = np.zeros(count)
        self.served[order] = np.arange(len(order)) // self.rows
        return table.reshape(-1)[: self.text.targets]

    def _settling(self) -> float:
        """Seconds in which a process that has rehearsed can load the weights and begin: what it does there is not
        trained for."""
        return _SETTLING + Path(self.task.weights).stat().st_blocks * 512 / _LOADED

    def _check(self, claim: NDArray[np.float32]) -> None:
        if not np.isfinite(claim).all():
            raise Refused("the losses are not finite")
        if (claim < -1e-6).any():
            raise Refused("the losses are negative")

    def _save(self, claim: NDArray[np.float32]) -> None:
        """Leave the losses for later audits. They count only if this scoring ends well."""
        seconds, measure = self.seconds["open"], self.incumbent.seconds
        if measure is not None:
            seconds = min(seconds, GROWTH * measure)
        with os.fdopen(self.task.losses, "wb") as file:
            sampling.save(file, self.text, claim, seconds, self.task.machine)

    def _drifts(self, claim: NDArray[np.float32]) -> bool:
        gains = sampling.by_row(self.incumbent.losses - claim, self.task.context)
        return _drifts(gains, self.served, self.task.context)

    def _bits(self, losses: NDArray[np.float32], correction: float = 0.0) -> float:
        """Bits per byte. correction: nats of each target."""
        total = float(losses.sum(dtype=np.float64)) + correction * self.text.targets
        return total / math.log(2) / self.text.bytes

    def _difference(self, server: Server, claim: NDArray[np.float32], sample: Sample) -> Floats:
        """float64[positions]: nats that each target costs more in a sealed process than was claimed."""
        losses = []
        starts = range(0, len(sample.rows), self.rows)
        replies = server.ask(self._sealed_frames(sample), len(starts), self.deadline)
        for start, reply in zip(starts, replies, strict=True):
            rows, places = sample.rows[start : start + self.rows], sample.places[start : start + self.rows]
            logits = np.frombuffer(reply, dtype="<f4").reshape(self.rows, -1)[: len(rows)].astype(np.float64)
            if np.isnan(logits).any() or np.isposinf(logits).any():
                raise Refused("the losses are not finite")
            top = logits.max(axis=1, keepdims=True)
            with np.errstate(invalid="ignore"):
                total = np.log(np.exp(logits - top).sum(axis=1)) + top[:, 0]
                losses.append(total - logits[np.arange(len(rows)), self.text.tokens[rows, places + 1]])
        sealed = np.concatenate(losses)
        if not np.isfinite(sealed).all():
            raise Refused("the losses are not finite")
        difference: Floats = sealed - claim[sample.rows * self.task.context + sample.places]
        return difference

    def _sealed_frames(self, sample: Sample) -> Iterator[bytes]:
        """Rows cut after the sampled place and padded with BOS, each with its place; the last batch is filled up."""
        for start in range(0, len(sample.rows), self.rows):
            rows, places = sample.rows[start : start + self.rows], sample.places[start : start + self.rows]
            frame = np.full((self.rows, self.task.context + 1), self.text.bos, dtype="<u2")
            given = self.text.tokens[rows, :-1]
            cut = np.arange(self.task.context) > places[:, None]
            frame[: len(rows), :-1] = np.where(cut, self.text.bos, given)
            frame[:, -1] = 0
            frame[: len(rows), -1] = places
            yield frame.tobytes()

    def _result(
        self, outcome: Outcome, claim: NDArray[np.float32], audit: Audit | None, reason: str | None
    ) -> ScoreResult:
        """What was found. The value is the upper end of what the audit leaves open: who makes it uncertain, pays."""
        value = None
        if outcome == "scored" and audit:
            # Only ever upwards: a sealed process that does better than the open one must not buy a better score.
            value = self._bits(claim, max(0.0, audit.mean + CORRECTION * audit.error))
        told = (self._bits(claim), self.text.targets, self.text.bytes, audit, self.seconds)
        return ScoreResult(outcome, reason, value, *told)

    def _server(self, mode: str) -> Server:
        task = ServeTask(
            mode="open" if mode == "open" else "sealed",
            source=self.task.source,
            weights=self.task.weights,
            device=self.task.device,
            rows=self.rows,
            context=self.task.context,
            vocab_size=self.task.tokens.vocab_size,
            bos=self.task.tokens.bos,
            room=self.task.room,
            read=-1,
            write=-1,
        )
        self.servers.append(Server(task, self.forks, Path(self.task.folder)))
        return self.servers[-1]


def _audit(difference: Floats, weights: Floats) -> Audit:
    """The self-normalized weighted mean and its standard error (linearized)."""
    mean = float((weights * difference).sum() / weights.sum())
    error = float(np.sqrt((weights**2 * (difference - mean) ** 2).sum()) / weights.sum())
    return Audit(len(difference), mean, error, float(difference[np.abs(difference).argmax()]))


def _disbelief(audit: Audit, outliers: Floats) -> str | None:
    """Why the claim is not believed, if it is not. outliers: large differences that a third process confirmed."""
    if len(outliers):
        # What is drawn anew each time errs both ways, and on the whole not at all.
        one_way = (outliers > 0).all() or audit.mean > CORRECTION * audit.error
        return LEAK if one_way else UNSTABLE
    if abs(audit.mean) > MEAN and abs(audit.mean) > ERRORS * audit.error:
        return LEAK if audit.mean > 0 else UNSTABLE
    return UNSTABLE if audit.error * math.sqrt(audit.positions) > SCATTER else None


def _drifts(gains: Floats, served: Floats, context: int) -> bool:
    """Whether rows have gained the more the later they were served, as with a model that learns from rows.

    gains, served: float64[R], nats by which the claim betters the incumbent in a row, and when it was served. Rows are
    served in random order; so for a model without a memory, whatever it is, both are independent, and the rank
    correlation is as good as normal with deviation 1 / sqrt(R - 1).
    """
    if len(gains) < 2 or (half := np.median(served)) == served.min():
        return False
    correlation = np.corrcoef(_ranks(gains), served)[0, 1]
    later, earlier = gains[served >= half].mean(), gains[served < half].mean()
    return bool(correlation * math.sqrt(len(gains) - 1) > DRIFT and later - earlier > MEAN * context)


def _ranks(values: Floats) -> Floats:
    return values.argsort().argsort().astype(np.float64)


def _rows_per_batch(task: ScoreTask) -> int:
    """As many rows as keep the device busy, if their logits take in float32 no more than a sixteenth of its memory, and
    a quarter of the room there is at first: a model makes several such tensors."""
    if task.device != "cuda":
        return max(1, min(4096, 2**24 // task.tokens.vocab_size) // task.context)
    logits = min((task.memory or _SMALL) // 16, (task.room or task.memory or _SMALL) // 4)
    return max(1, min(131072, logits // (4 * task.tokens.vocab_size)) // task.context)
