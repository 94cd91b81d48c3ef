"""The second half of a measurement: a judge that scores saved weights, and what is kept of them."""

import contextlib
import os
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from autoresearch.engine import caches, children
from autoresearch.engine.channel import Channel
from autoresearch.engine.files import link, open_plain, written
from autoresearch.engine.forkserver import Child
from autoresearch.engine.site import Crash, Site
from autoresearch.engine.training import WEIGHTS
from autoresearch.forks import FIRST
from autoresearch.records import Kept
from autoresearch.tasks import Fault, ScoreResult, ScoreTask


@dataclass(slots=True)
class _Scorer:
    """A judge, and what it was given."""

    home: Path
    weights: Path  # where it looks for them
    channel: Channel
    child: Child
    process: contextlib.ExitStack  # closed, it ends the judge and all that it began
    ready: bool = False
    compiled: bytes | None = None  # by the rehearsal, when it was ready


class Scoring:
    """One scoring, which may be done again from the start."""

    def __init__(self, site: Site, room: int | None = None) -> None:
        """room: bytes of the GPU's memory that it may take until there are weights; None: all."""
        self._site, self._room = site, room
        self._begun = contextlib.ExitStack()
        self._scorer: _Scorer | None = None

    def __enter__(self) -> "Scoring":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.cancel()

    def ready(self) -> bool:
        """Whether it waits for weights, or for the device to be free. The first time it is asked its processes begin:
        the judge reads the held-out text, and the model is run once on made-up rows. Crash if that fails, which says
        nothing of the text."""
        scorer = self._scorer = self._scorer or self._begin()
        if not scorer.ready:
            code = scorer.child.exit_code()
            if scorer.channel.ready():
                result = scorer.channel.result()
                if result and result.postponed and self._room is not None:
                    self.cancel()
                    return True
                if result:
                    raise _crash(result)
                scorer.compiled = caches.packed(self._site.compiled("score"))
                scorer.ready = True
            elif code is not None:
                raise _crash(_silent(code))
        return scorer.ready

    def cancel(self) -> None:
        """Nothing is left of what was begun."""
        self._scorer = None
        self._begun.close()

    def run(self, weights: BinaryIO, compiled: bytes | None) -> ScoreResult:
        """The score. When no process of training is left, of which scoring gets only weights. Crash if the scorer has
        none.

        weights: that nobody writes to. compiled: what their training has left, to be kept with them.
        """
        if self._scorer is None:
            self._room = None  # since there is nobody else
        try:
            began = time.monotonic()
            self._site.show("score")
            while not self.ready():
                assert self._scorer
                self._wait(self._scorer, began)
            assert self._scorer
            return self._scored(self._scorer, weights, compiled)
        finally:
            self.cancel()

    def _begin(self) -> _Scorer:
        site, trial = self._site, self._site.trial
        home = self._begun.enter_context(children.home_for(site.bench.scratch))
        channel = self._begun.enter_context(Channel(home))
        weights = home / "weights" / WEIGHTS
        weights.parent.mkdir()
        site.clear("score")
        site.lend("score", trial.tip.open_cache if trial.tip else None)
        task = ScoreTask(
            source=site.export(home),
            weights=str(weights),
            folder=str(home),
            device=site.bench.device,
            context=trial.context,
            tokens=trial.corpus.validation,
            validation=trial.settings.validation,
            audit=trial.settings.audit,
            incumbent=trial.tip.losses if trial.tip else None,
            limit=site.bench.score_limit(trial),
            result=FIRST,
            losses=FIRST + 1,
            go=FIRST + 2,
            compiled=FIRST + 3,
            machine=site.bench.hardware,
            memory=site.bench.memory,
            room=self._room,
            bar=trial.bar,
        )
        process = self._begun.enter_context(contextlib.ExitStack())
        child = process.enter_context(site.child("score", asdict(task), home, {}, channel.ends))
        return _Scorer(home, weights, channel, child, process)

    def _scored(self, scorer: _Scorer, weights: BinaryIO, compiled: bytes | None) -> ScoreResult:
        link(weights, scorer.weights)
        scorer.weights.chmod(0o400)
        with open_plain(scorer.weights) as given:
            unchanged = os.fstat(given.fileno()).st_ctime_ns
            found = self._answer(scorer)
            scorer.process.close()
            if found.outcome == "crashed":
                raise _crash(found)
            if found.outcome != "scored":
                return found
            if os.fstat(given.fileno()).st_ctime_ns != unchanged:  # which no process can set back
                reason = "the weights' file was changed while it was scored"
                return replace(found, outcome="quarantined", reason=reason, value=None)
            if keep := self._site.trial.keep:
                self._keep(keep, given, compiled, scorer)
            return found

    def _answer(self, scorer: _Scorer) -> ScoreResult:
        """What the scorer says, or that it said nothing."""
        began = time.monotonic()
        scorer.channel.go(scorer.compiled)
        self._site.clear("train")  # now that there is time
        while True:
            code = scorer.child.exit_code()
            if result := scorer.channel.result():
                return result
            if code is not None:
                return _silent(code)
            self._wait(scorer, began)

    def _wait(self, scorer: _Scorer, began: float) -> None:
        """A moment. Crash if it has been too long."""
        limit = self._site.bench.score_limit(self._site.trial)
        if time.monotonic() - began > 2 * limit + 15:  # for the open process, and for the sealed ones
            raise _crash(ScoreResult("crashed", f"scoring took longer than {limit:g} s"))
        if why := self._site.pause(scorer.child):
            raise _crash(ScoreResult("crashed", why))

    def _keep(self, keep: Kept, weights: BinaryIO, compiled: bytes | None, scorer: _Scorer) -> None:
        """Lay by what is to outlive the measurement. No process of the candidate is left that could still change it."""
        with written(Path(keep.weights)) as partial:
            link(weights, partial)
        with written(Path(keep.losses)) as partial:
            scorer.channel.save_losses(partial)
        caches.keep(compiled, keep.train_cache)
        caches.keep(scorer.compiled, keep.open_cache)


def _crash(score: ScoreResult) -> Crash:
    return Crash(Fault("score", score.reason or "no score"), score=score, suspected=score.suspected)


def _silent(code: int) -> ScoreResult:
    # No code of the candidate runs in it.
    return ScoreResult("crashed", f"the scorer ended with code {code} and left no result", suspected=True)
