"""Where a run stands: one object, read from the ledger alone, and printed as JSON or for a person."""

import time
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from autoresearch import decide
from autoresearch.ledger import Ledger
from autoresearch.program import program_of
from autoresearch.records import Experiment, Gain, Status
from autoresearch.schema import Run, Session

State = Literal["running", "finished", "interrupted"]
BUSY = ("warmup", "train", "open", "sealed")  # the phases in which the device works


@dataclass(frozen=True, slots=True)
class Baseline:
    """Where the run began, and how far chance moves a value."""

    value: float
    sigma: float
    n: int  # measurements of it on the validation split; the value is that of the first, which decides


@dataclass(frozen=True, slots=True)
class Best:
    """The tip. Its value is that of its last check; before there is one, that which had it kept, and flatters."""

    number: int
    commit: str
    value: float
    standing: str | None


@dataclass(frozen=True, slots=True)
class EarlyStop:
    """Experiments that were beyond hope while they trained. Some are let finish all the same: how many of those were
    kept says how often it is wrong to stop."""

    stopped: int
    spared: int
    spared_kept: int


@dataclass(frozen=True, slots=True)
class Last:
    """The latest experiment, perhaps still going."""

    number: int
    status: str
    title: str
    value: float | None
    standing: str | None  # of what was kept


@dataclass(frozen=True, slots=True)
class Report:
    """`autoresearch status --json`, field by field; seconds, US dollars, shares from 0 to 1; None where unknown."""

    schema: int
    tag: str
    branch: str
    state: State
    program: str
    agent: str
    device: str
    metric: dict[str, str]
    elapsed_s: float
    experiments: dict[str, int]
    rolled_back: int  # of those kept
    early_stop: EarlyStop
    baseline: Baseline | None
    best: Best | None
    gain: Gain | None  # on the test split, by measurements that decided nothing; once a run has come to its end
    gpu_busy: float | None
    cost: dict[str, float | None]
    last: Last | None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def report(ledger: Ledger, run: Run, alive: bool) -> Report:
    """`alive`: whether a process holds the run's lock now."""
    experiments = ledger.experiments(run.tag)
    sessions = ledger.sessions(run.tag)
    last = experiments[-1] if experiments else None
    return Report(
        schema=1,
        tag=run.tag,
        branch=run.branch,
        state=_state(sessions, alive),
        program=run.program,
        agent=run.agent,
        device=run.device,
        metric={"name": run.metric.name, "goal": run.metric.goal},
        elapsed_s=round(_elapsed(sessions, alive, 0.0), 3),
        experiments=_counts(experiments),
        rolled_back=sum(e.standing == "rolled_back" for e in experiments),
        early_stop=_early_stop(experiments),
        baseline=_baseline(run, experiments),
        best=_best(ledger.tip(run.tag)),
        gain=decide.gain(run.metric, experiments),
        gpu_busy=_busy(experiments, sessions, alive),
        cost={"llm_usd": ledger.usage(run.tag).usd, "gpu_usd": None},
        last=Last(last.number, last.status, last.title, last.value, last.standing) if last else None,
    )


def _best(tip: Experiment | None) -> Best | None:
    if tip is None or tip.commit is None or tip.level is None:
        return None
    return Best(tip.number, tip.commit, tip.level, tip.standing)


def stopped(ledger: Ledger, run: Run) -> str | None:
    """Why the run stopped, in words; None while it goes, or if it was killed."""
    sessions = ledger.sessions(run.tag)
    return sessions[-1].why if sessions else None


def _state(sessions: list[Session], alive: bool) -> State:
    if alive:
        return "running"
    why = sessions[-1].why if sessions else None
    return "interrupted" if why is None or why.startswith(("interrupted", "failed")) else "finished"


def _elapsed(sessions: list[Session], alive: bool, since: float) -> float:
    """Seconds that processes worked on the run, from `since` (of the epoch) on."""
    total = 0.0
    for index, session in enumerate(sessions):
        now = alive and index == len(sessions) - 1 and session.ended is None
        end = time.time() if now else session.ended or session.seen
        total += max(0.0, end - max(session.started, since))
    return total


def _counts(experiments: list[Experiment]) -> dict[str, int]:
    """By verdict; `total` counts the one in progress too."""
    statuses = [status for status in get_args(Status) if status != "running"]
    counts = {status: sum(e.status == status for e in experiments) for status in statuses}
    return {"total": len(experiments), **counts}


def _early_stop(experiments: list[Experiment]) -> EarlyStop:
    condemned = [e for e in experiments if e.deciding and e.deciding.condemned]
    spared = [e for e in condemned if e.deciding and e.deciding.outcome == "scored"]
    stopped = sum(e.status == "stopped" for e in experiments)
    return EarlyStop(stopped, len(spared), sum(e.status == "kept" for e in spared))


def _baseline(run: Run, experiments: list[Experiment]) -> Baseline | None:
    if not experiments or experiments[0].value is None:
        return None
    sigma = decide.noise(program_of(run).settings, experiments).sigma
    return Baseline(experiments[0].value, sigma, len(experiments[0].values("first", "noise", "replay")))


def _busy(experiments: list[Experiment], sessions: list[Session], alive: bool) -> float | None:
    """Share of the time since the baseline's end in which the device was in warm-up, on the clock or scoring."""
    if len(experiments) < 2 or experiments[0].ended is None:
        return None
    wall = _elapsed(sessions, alive, experiments[0].ended)
    later = [m for e in experiments for m in e.measurements if (e.number, m.purpose) != (1, "first")]
    busy = sum(m.seconds.get(phase, 0.0) for m in later if m.purpose != "replay" for phase in BUSY)
    return round(min(1.0, busy / wall), 4) if wall > 0 else None
