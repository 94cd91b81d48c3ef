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


@dataclass(frozen=True, slots=True)
class _Scorer:
    """A judge that waits for weights."""

    home: Path
    weights: Path  # where it looks for them
    channel: Channel
    child: Child
    process: contextlib.ExitStack  # closed, it ends the judge and all that it began


class Scoring:
    """One scoring, which may be done again from the start."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._begun = contextlib.ExitStack()
        self._scorer: _Scorer | None = None

    def __enter__(self) -> "Scoring":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.cancel()

    def get_ready(self) -> None:
        """Have the judge's processes begin, which takes a second on a GPU, and wait for weights.

        What an open process has left of held-out text is not there yet: names of files could tell a training of it.
        """
        site, trial = self._site, self._site.trial
        home = self._begun.enter_context(children.home_for(site.bench.scratch))
        channel = self._begun.enter_context(Channel(home))
        weights = home / "weights" / WEIGHTS
        weights.parent.mkdir()
        site.clear("score")
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
            memory=site.bench.memory,
            bar=trial.bar,
        )
        process = self._begun.enter_context(contextlib.ExitStack())
        child = process.enter_context(site.child("score", asdict(task), home, {}, channel.ends))
        self._scorer = _Scorer(home, weights, channel, child, process)

    def cancel(self) -> None:
        """Nothing is left of what was begun."""
        self._scorer = None
        self._begun.close()

    def run(self, weights: BinaryIO, compiled: Path | None) -> ScoreResult:
        """The score. When no process of training is left, of which scoring gets only weights. Crash if the scorer has
        none.

        weights: that nobody writes to. compiled: what their training has left, to be kept with them.
        """
        try:
            if self._scorer is None:
                self.get_ready()
            assert self._scorer
            return self._scored(self._scorer, weights, compiled)
        finally:
            self.cancel()

    def _scored(self, scorer: _Scorer, weights: BinaryIO, compiled: Path | None) -> ScoreResult:
        tip = self._site.trial.tip
        self._site.lend("score", tip.open_cache if tip else None)
        link(weights, scorer.weights)
        scorer.weights.chmod(0o400)
        with open_plain(scorer.weights) as given:
            unchanged = os.fstat(given.fileno()).st_ctime_ns
            found = self._answer(scorer)
            scorer.process.close()
            if found.outcome == "crashed":
                raise Crash(Fault("score", found.reason or "no score"), score=found, killed=found.killed)
            if found.outcome != "scored":
                return found
            if os.fstat(given.fileno()).st_ctime_ns != unchanged:  # which no process can set back
                reason = "the weights' file was changed while it was scored"
                return replace(found, outcome="quarantined", reason=reason, value=None)
            if keep := self._site.trial.keep:
                self._keep(keep, given, compiled, scorer.channel)
            return found

    def _answer(self, scorer: _Scorer) -> ScoreResult:
        """What the scorer says, or that it said nothing."""
        began, limit = time.monotonic(), self._site.bench.score_limit(self._site.trial)
        self._site.show("score")
        scorer.channel.go()
        while True:
            code = scorer.child.exit_code()
            if result := scorer.channel.result():
                return result
            if time.monotonic() - began > limit + 15:
                return ScoreResult("crashed", f"scoring took longer than {limit:g} s")
            if code is not None:
                reason = f"the scorer ended with code {code} and left no result"
                return ScoreResult("crashed", reason, killed=code > 128)
            if why := self._site.pause(scorer.child, scorer.home, "score"):
                return ScoreResult("crashed", why)

    def _keep(self, keep: Kept, weights: BinaryIO, compiled: Path | None, channel: Channel) -> None:
        """Lay by what is to outlive the measurement. No process of the candidate is left that could still change it."""
        with written(Path(keep.weights)) as partial:
            link(weights, partial)
        with written(Path(keep.losses)) as partial:
            channel.save_losses(partial)
        if compiled:
            caches.keep(compiled, keep.train_cache)
        caches.keep(self._site.compiled("score"), keep.open_cache)
