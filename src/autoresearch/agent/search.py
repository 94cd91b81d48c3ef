"""Search over the knobs without a language model: the keyless default, and the arm that models are compared with.

A proposal changes one to three knobs of the tip, drawn at random. The first few proposals after the baseline are local
steps from the tip. TPE (Bergstra et al. 2011, as Optuna implements it) draws from all of the domain until it has seen
enough, and most of a wide domain is far worse than a tuned tip, so a short run would keep nothing. From then on TPE
gives the new values of the chosen knobs, from all that the run has measured, and the rest stay at the tip.
"""

import math
import random
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from autoresearch import knobs
from autoresearch.errors import AgentError
from autoresearch.knobs import Domain, Value
from autoresearch.records import Brief, Experiment, Goal, Patch, Proposal

LOCAL_TRIALS = 12  # told experiments before TPE takes over
LOCAL_SHARE = 0.2  # of the proposals after that which are still local steps
STEP = (0.07, 0.25)  # length of a local step, as a share of the (log) range: less would drown in noise
_DRAWS = 200  # tries to find a combination that is new

_FAMILIES = (
    ("optimizer", r"LR|BETAS?|BETA\d|MOMENTUM|MUON|ADAM|EPS"),
    ("schedule", r"WARMUP|WARMDOWN|COOLDOWN|SCHEDULE|FINAL"),
    ("regularization", r"WD|DECAY|DROPOUT|SOFTCAP"),
    ("batch", r"BATCH|ROWS|ACCUMULATION"),
    ("attention", r"WINDOWS?|PATTERN|HEADS?|ROPE|CONTEXT"),
    ("initialization", r"INIT"),
    ("architecture", r"DEPTH|WIDTH|DIM|RATIO|LAYERS?|EXPANSION"),
    ("embedding", r"EMBED(?:DING)?|VOCAB"),
)


@dataclass(frozen=True, slots=True)
class Axis:
    """One knob to search over: its value at the tip, and where it may go."""

    value: Value
    domain: Domain

    @property
    def bounds(self) -> tuple[float, float]:
        assert self.domain.low is not None and self.domain.high is not None  # a domain without choices has both
        return self.domain.low, self.domain.high

    @property
    def integral(self) -> bool:
        return all(isinstance(x, int) for x in (self.value, self.domain.low, self.domain.high))

    def holds(self, value: Value) -> bool:
        """Whether the value is one of the domain: in it, and of its type."""
        if self.domain.choices:
            return value in self.domain.choices
        low, high = self.bounds
        return isinstance(value, int if self.integral else int | float) and low <= value <= high

    def fit(self, value: float) -> Value:
        """The value in the knob's type and range, floats at three digits so that a diff stays readable."""
        low, high = self.bounds
        return min(max(round(value) if self.integral else float(f"{value:.3g}"), low), high)

    def step(self, rng: random.Random) -> Value:
        """A value near the tip's: a step in the (log) range, at least 1 for an integer; or the next choice."""
        if self.domain.choices:
            return rng.choice(self._neighbours())
        low, high = self.bounds
        start = min(max(float(self.value), low), high)
        size = rng.choice((-1, 1)) * rng.uniform(*STEP)
        moved = start * math.exp(size * math.log(high / low)) if self.domain.log else start + size * (high - low)
        if self.integral and round(moved) == start:
            moved = start + math.copysign(1, size)
        return self.fit(moved)

    def _neighbours(self) -> list[Value]:
        """Of a choice: the next smaller and larger number, or, where choices are no numbers, all the others."""
        others = [choice for choice in self.domain.choices if choice != self.value]
        value = self.value
        if isinstance(value, str) or any(isinstance(choice, str) for choice in others):
            return others
        smaller = [choice for choice in others if choice < value]  # type: ignore[operator]
        larger = [choice for choice in others if choice > value]  # type: ignore[operator]
        return [f(side) for f, side in ((max, smaller), (min, larger)) if side]


Space = Mapping[str, Axis]
Point = Mapping[str, Value]


class SearchAgent:
    """Random local steps, then Optuna's TPE, over the knobs that have a domain. Draws repeat with the brief's seed."""

    name = "search"

    def propose(self, brief: Brief) -> Proposal:
        """One to three knobs set anew, never a combination the run has tried. AgentError if there is none."""
        path, space = _space(brief)
        tip = {name: axis.value for name, axis in space.items()}
        tried = {_key(tip, space)} | {_key(e.knobs, space) for e in brief.history if space.keys() <= e.knobs.keys()}
        told = [e for e in brief.history if _tells(e, space)]
        rng = random.Random(f"{brief.seed}/{brief.number}")
        guided = len(told) > LOCAL_TRIALS and rng.random() >= LOCAL_SHARE
        for _ in range(_DRAWS):
            chosen = rng.sample(sorted(space), k=min(len(space), rng.choice((1, 1, 1, 2, 2, 3))))
            if guided:
                drawn = _tpe(space, told, chosen, brief.metric.goal, rng.getrandbits(32))
            else:
                drawn = {name: space[name].step(rng) for name in chosen}
            new = tip | drawn
            if _key(new, space) not in tried:
                return _proposal(brief, path, tip, new, guided)
        raise AgentError(
            "The search has tried every combination of knobs it can reach.",
            "Widen the domains in the file, or go on with another agent.",
        )


def _space(brief: Brief) -> tuple[str, Space]:
    """The first editable file with knobs to search, and those knobs; VOCAB_SIZE as far as the program allows."""
    for path, source in brief.files.items():
        space = {k.name: Axis(k.value, k.domain) for k in knobs.read(source).values() if k.domain is not None}
        if vocab := space.pop("VOCAB_SIZE", None):
            sizes = tuple(size for size in brief.program.settings.vocab_sizes if vocab.holds(size))
            if len(sizes) > 1:
                space["VOCAB_SIZE"] = Axis(vocab.value, Domain(choices=sizes))
        if space:
            return path, space
    raise AgentError(
        f"No knob of {', '.join(brief.files)} has a domain to search.",
        "Write one behind a constant, as in `LR = 0.04  # [0.01, 0.16] log`, or use another agent.",
    )


def _tells(experiment: Experiment, space: Space) -> bool:
    """Whether the experiment says something about its knobs: it ran, and each lies in its domain as it is now."""
    ran = experiment.status in ("kept", "discarded", "crashed", "stopped")
    return ran and all(n in experiment.knobs and axis.holds(experiment.knobs[n]) for n, axis in space.items())


def _key(values: Point, names: Iterable[str]) -> tuple[str, ...]:
    """A combination in a form to compare: floats to the digits in which they are written."""
    return tuple(_shown(values[name]) for name in sorted(names))


def _shown(value: Value) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _tpe(space: Space, told: Iterable[Experiment], chosen: list[str], goal: Goal, seed: int) -> dict[str, Value]:
    """Values of the chosen knobs as TPE draws them, the others fixed at the tip; a crash counts as the worst result."""
    import optuna  # a second to import, and only this agent needs it
    from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
    from optuna.samplers import PartialFixedSampler, TPESampler
    from optuna.trial import TrialState, create_trial

    def distribution(axis: Axis) -> BaseDistribution:
        if axis.domain.choices:
            return CategoricalDistribution(axis.domain.choices)
        low, high = axis.bounds
        if axis.integral:
            return IntDistribution(int(low), int(high), log=axis.domain.log)
        return FloatDistribution(low, high, log=axis.domain.log)

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    distributions = {name: distribution(axis) for name, axis in space.items()}
    fixed = {name: axis.value for name, axis in space.items() if name not in chosen and axis.holds(axis.value)}
    base = TPESampler(multivariate=True, n_startup_trials=0, seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PartialFixedSampler counts as experimental, since 2021
        study = optuna.create_study(direction=goal, sampler=PartialFixedSampler(fixed, base))
    for experiment in told:
        ended = experiment.value is not None and experiment.status in ("kept", "discarded")
        study.add_trial(
            create_trial(
                state=TrialState.COMPLETE if ended else TrialState.PRUNED,
                value=experiment.value if ended else None,
                params={name: experiment.knobs[name] for name in space},
                distributions=distributions,
            )
        )
    drawn = study.ask(distributions).params
    return {name: drawn[name] if space[name].domain.choices else space[name].fit(drawn[name]) for name in chosen}


def _proposal(brief: Brief, path: str, tip: Point, new: Point, guided: bool) -> Proposal:
    changes = {name: value for name, value in new.items() if value != tip[name]}
    title = ", ".join(f"{name} {_shown(tip[name])} -> {_shown(value)}" for name, value in changes.items())
    return Proposal(
        title=title[:120],
        family=_family(next(iter(changes))),
        hypothesis="TPE expects better here, from what was measured." if guided else "A local step from the tip.",
        patch=Patch({path: knobs.assign(brief.files[path], changes)}),
        replies=0,
    )


def _family(name: str) -> str:
    return next((family for family, words in _FAMILIES if re.search(rf"(?:^|_)(?:{words})(?:_|$)", name)), "other")
