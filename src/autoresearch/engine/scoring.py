"""The second half of a measurement: a judge that scores saved weights, and what is kept of them."""

import os
import time
from dataclasses import asdict, replace
from pathlib import Path
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


class Scoring:
    """One scoring, which may be done again from the start."""

    def __init__(self, site: Site, weights: BinaryIO, compiled: Path | None) -> None:
        """weights: that nobody writes to. compiled: what their training has left, to be kept with them."""
        self._site, self._weights, self._compiled = site, weights, compiled

    def run(self) -> ScoreResult:
        """The score. Its folder is made when no process of training is left, and of training it gets only weights.
        Crash if the scorer has none."""
        site, bench, trial = self._site, self._site.bench, self._site.trial
        with children.home_for(bench.scratch) as home, Channel(home) as channel:
            link(self._weights, home / WEIGHTS)
            (home / WEIGHTS).chmod(0o400)
            site.lend("score", trial.tip.open_cache if trial.tip else None)
            task = ScoreTask(
                source=site.export(home),
                weights=str(home / WEIGHTS),
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
            with open_plain(home / WEIGHTS) as weights:
                unchanged = os.fstat(weights.fileno()).st_ctime_ns
                with site.child("score", asdict(task), home, {}, channel.ends) as child:
                    found = self._answer(child, channel, task.limit, home)
                if found.outcome == "crashed":
                    raise Crash(Fault("score", found.reason or "no score"), score=found, killed=found.killed)
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
        self._site.show("score")
        while True:
            code = child.exit_code()
            if result := channel.result():
                return result
            if time.monotonic() - began > limit + 15:
                return ScoreResult("crashed", f"scoring took longer than {limit:g} s")
            if code is not None:
                reason = f"the scorer ended with code {code} and left no result"
                return ScoreResult("crashed", reason, killed=code > 128)
            if why := self._site.pause(child, home, "score"):
                return ScoreResult("crashed", why)

    def _keep(self, keep: Kept, weights: BinaryIO, channel: Channel) -> None:
        """Lay by what is to outlive the measurement. No process of the candidate is left that could still change it."""
        with written(Path(keep.weights)) as partial:
            link(weights, partial)
        with written(Path(keep.losses)) as partial:
            channel.save_losses(partial)
        if self._compiled:
            caches.keep(self._compiled, keep.train_cache)
        caches.keep(self._site.compiled("score"), keep.open_cache)
