"""The values that flow: Program -> Proposal -> Patch -> Trial -> Measurement -> Verdict -> Experiment.

Each stage takes the record before it and returns a new one. Records are frozen; a missing number is None.
"""

import math
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from statistics import fmean
from typing import Literal

from autoresearch.settings import Settings

Goal = Literal["minimize", "maximize"]
Stage = Literal["proposing", "proposed", "committed", "running", "measured", "decided", "done"]
Status = Literal["running", "kept", "discarded", "stopped", "crashed", "failed", "quarantined"]
Standing = Literal["provisional", "confirmed", "rolled_back"]
Outcome = Literal["scored", "crashed", "stopped", "quarantined"]
# What a measurement is for: `first` decides about its experiment, and is never what is reported of it. With fresh
# seeds, `noise` repeats the baseline as a run begins, `check` a provisional tip, `final` the tip on the test split as
# it ends (of the baseline's repeats only the scoring), `replay` what a person asks for, `transfer` that with changes.
Purpose = Literal["first", "noise", "check", "final", "replay", "transfer"]

FAMILIES = (
    "attention", "architecture", "embedding", "optimizer", "schedule", "initialization",
    "regularization", "batch", "precision", "simplification", "other",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Metric:
    """What a run tries to improve, and in which direction."""

    name: str = "val_bpb"
    goal: Goal = "minimize"

    def gain(self, old: float, new: float) -> float:
        """How much better `new` is than `old`, in the metric's unit; negative if worse."""
        return old - new if self.goal == "minimize" else new - old


# ---------------------------------------------------------------------------------------------- the program


@dataclass(frozen=True, slots=True)
class Program:
    """A campaign as a human wrote it: validated settings, and prose that goes to the agent verbatim."""

    name: str  # the file's stem; also the default tag
    settings: Settings
    prose: str
    digest: str  # SHA-256 of the whole file


# ---------------------------------------------------------------------------------------------- the agent


@dataclass(frozen=True, slots=True)
class Usage:
    """What one model call took and cost; None where the model does not say."""

    input_tokens: int | None = None  # the whole prompt
    cached_tokens: int | None = None  # of these, read from the provider's cache
    written_tokens: int | None = None  # of these, written to it
    output_tokens: int | None = None  # thinking included
    usd: float | None = None
    written_5m_tokens: int | None = None  # of those written, kept for five minutes and not for an hour: they cost less


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation with a model."""

    role: Literal["system", "user", "assistant"]
    content: str
    stable: int = 0  # characters at its beginning that later calls will repeat: worth a provider's cache


@dataclass(frozen=True, slots=True)
class Exchange:
    """One model call as it happened. Recorded, and so charged, before the reply is parsed."""

    model: str
    messages: tuple[Message, ...]
    reply: str
    usage: Usage
    seconds: float
    error: str | None = None  # why there is no reply


@dataclass(frozen=True, slots=True)
class Patch:
    """The complete new text of each edited file, by path relative to the repository's root."""

    files: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Proposal:
    """One idea. Exactly one of `patch` and `failure` is set: a proposal without a patch that applies has failed."""

    title: str
    family: str = "other"
    hypothesis: str = ""
    expect: float | None = None  # the change in the metric that the proposer expects
    patch: Patch | None = None
    failure: str | None = None
    replies: int = 1  # model replies it took, so 1 means that the patch applied at first


@dataclass(frozen=True, slots=True)
class Brief:
    """All that an agent may know when it proposes. What was learned reaches it only through this."""

    program: Program
    metric: Metric
    files: Mapping[str, str]  # the editable files as they are at the tip
    history: tuple["Experiment", ...]  # oldest first, the baseline included, this experiment not
    number: int  # of the experiment to propose
    tag: str
    sigma: float  # run-to-run standard deviation of the metric, as far as it is known
    hardware: str = ""  # one line: device, memory
    seed: int = 0  # for agents that draw at random, so that a resumed run repeats itself
    until: float | None = None  # steady.now() after which a proposal comes too late to be measured


# ---------------------------------------------------------------------------------------------- the engine


@dataclass(frozen=True, slots=True)
class TokenFile:
    """One split encoded with one vocabulary: little-endian uint16, each document followed by `bos`."""

    path: str
    vocab_size: int
    bos: int
    tokens: int  # length of the file, in tokens
    bytes: int  # UTF-8 bytes of the text itself
    token_bytes: str  # .npy of int32[vocab_size]: UTF-8 bytes each token stands for; 0 for bos


@dataclass(frozen=True, slots=True)
class CorpusView:
    """What one experiment reads of a corpus. Only the scorer is ever told of more than `train`."""

    fingerprint: str
    train: TokenFile
    validation: TokenFile
    test: TokenFile | None = None  # scored in place of `validation` when a run ends


@dataclass(frozen=True, slots=True)
class Kept:
    """Where a measurement leaves what later ones start from. Paths; any of it may be missing."""

    weights: str
    losses: str  # .npz: of each target, for drawing later audits' positions
    train_cache: str  # folder: what training has compiled
    open_cache: str  # folder: what the open process of scoring has compiled, which has seen held-out text


@dataclass(frozen=True, slots=True)
class Pace:
    """What a training is held against as it goes: see pace.py. Losses in nats per token."""

    tip: tuple[float | None, ...]  # the tip's smoothed losses, by parts of the clock
    margin: float  # by which those of a training may lie above it
    step: float  # tokens in a step of the tip's: what takes other steps is not compared
    bits: float  # bits per byte in a nat per token
    spare: bool  # it is let finish though it is condemned: one of many is, which tells how often that was wrong


@dataclass(frozen=True, slots=True)
class Trial:
    """One training and scoring to be done: everything the engine needs, and nothing it has to look up."""

    source: str  # text of the file to train
    seed: int
    vocab_size: int
    context: int
    corpus: CorpusView
    settings: Settings
    _: KW_ONLY
    tip: Kept | None = None  # what there is of the run's tip; None: there is none
    keep: Kept | None = None  # where to leave the same of this trial, once it is scored; None: nowhere
    weights: str | None = None  # path of weights to score; None: train them
    logs: str = ""  # folder for logs and curves, in the ledger's keeping
    deadline: float | None = None  # steady.now() after which nothing may run
    bar: float | None = None  # value under which it may be kept, for which it is audited more closely; None: never
    pace: Pace | None = None  # to keep pace with while it trains; None: it is let finish whatever its curve is like


@dataclass(frozen=True, slots=True)
class Point:
    """One point of the live curve. It may stop an experiment, never keep it."""

    step: int
    seconds: float  # on the clock
    progress: float  # 0 to 1
    loss: float  # cross-entropy as the candidate reports it, nats per token


@dataclass(frozen=True, slots=True)
class Progress:
    """A live sight of a measurement, by what its process says: to be shown, and never believed."""

    phase: str
    seconds: float  # since the measurement began, as seen from outside
    point: Point | None = None
    tokens_per_second: float | None = None
    memory: int | None = None  # peak, bytes
    note: str | None = None  # what is waited for, in a line


@dataclass(frozen=True, slots=True)
class Waiting:
    """What a run waits for before it goes on, and until when (time.time())."""

    reason: str
    until: float


@dataclass(frozen=True, slots=True)
class Audit:
    """How the sealed process agreed with the claim; d = sealed - claimed loss, nats."""

    positions: int
    mean: float  # importance-weighted mean of d
    error: float  # standard error of that mean
    largest: float  # the d of largest magnitude


@dataclass(frozen=True, slots=True)
class Measurement:
    """One training and scoring of one commit, whatever came of it. A failed one is a value, not an exception."""

    seed: int
    outcome: Outcome
    value: float | None = None
    purpose: Purpose = "first"
    phase: str | None = None  # where it ended, if it was not scored: import, build, warmup, train, save, score
    reason: str | None = None  # one line
    traceback: str | None = None  # bounded tail; none of what fails once held-out text is known
    seconds: Mapping[str, float] = field(default_factory=dict)  # by phase, and `total` as seen from outside
    steps: int | None = None
    tokens: int | None = None
    train_tokens: int | None = None  # in the corpus, with its vocabulary: `tokens` beyond these are repeats
    parameters: int | None = None
    active_parameters: int | None = None  # that one token's forward uses: all matrices, but a row of each table
    peak_memory: int | None = None
    mfu: float | None = None
    loss: float | None = None
    claim: float | None = None
    targets: int | None = None
    bytes: int | None = None
    audit: Audit | None = None
    device_name: str | None = None
    device_uuid: str | None = None
    torch_version: str | None = None
    start_hash: str | None = None  # of the weights when the clock started
    corpus: str | None = None  # fingerprint
    harness: str | None = None  # fingerprint of the code that measured
    curve: tuple[Point, ...] = ()  # thinned
    pace: tuple[float | None, ...] = ()  # mean loss in each part of the clock, nats per token
    condemned: str | None = None  # why it was beyond hope while it trained, whether it was stopped then or spared
    sandbox: str | None = None  # `full`, `none`, or what was not protected
    interruptions: tuple[str, ...] = ()  # how the machine had ended it before, each time, so that it was done again

    @property
    def conditions(self) -> tuple[str | None, ...]:
        """Values are compared only where these are the same: the device's kind, torch, the corpus, the scoring code."""
        torch = self.torch_version and self.torch_version.partition("+")[0]
        return (self.device_name, torch, self.corpus, self.harness)

    @property
    def advantage(self) -> float | None:
        """Nats per token by which held-out text was claimed to cost less than what training last reported; None where
        either is not known. To be told, not to be judged by: an honest file may report a loss with more terms, or in
        bits; without that it is about zero, and some tenths with dropout or smoothed labels."""
        if self.loss is None or self.claim is None or not self.targets or not self.bytes:
            return None
        return self.loss - self.claim * math.log(2) * self.bytes / self.targets

    @property
    def passes(self) -> float | None:
        """How often training went over the corpus; None where that is not known."""
        return self.tokens / self.train_tokens if self.tokens is not None and self.train_tokens else None


# ---------------------------------------------------------------------------------------------- the verdict


@dataclass(frozen=True, slots=True)
class Verdict:
    """Keep or not, and why."""

    status: Status
    reason: str  # one line that a person reads in the morning


@dataclass(frozen=True, slots=True)
class Experiment:
    """One attempt, numbered from 1 within its run; the baseline is experiment 1."""

    number: int
    tag: str
    stage: Stage
    status: Status = "running"
    standing: Standing | None = None
    title: str = ""
    family: str = "other"
    hypothesis: str = ""
    expect: float | None = None
    replies: int = 1
    agent: str = ""  # who proposed it; nobody the baseline
    commit: str | None = None
    parent: str | None = None  # the tip it was built on
    lines: int | None = None  # of code, of the edited files together
    knobs: Mapping[str, float | int | str | bool] = field(default_factory=dict)
    value: float | None = None
    reason: str | None = None
    created: float = 0.0  # seconds since the epoch
    ended: float | None = None
    measurements: tuple[Measurement, ...] = ()  # the one that decides, then what was measured again

    @property
    def holds(self) -> bool:
        """Whether it was kept and not rolled back: the last of these is the tip."""
        return self.status == "kept" and self.standing != "rolled_back"

    @property
    def deciding(self) -> Measurement | None:
        """The measurement that the verdict rests on."""
        return self.measurements[0] if self.measurements else None

    def scored(self, *purposes: Purpose) -> tuple[Measurement, ...]:
        """Its scored measurements for these purposes, as far as they compare with the one that decides."""
        conditions = self.deciding.conditions if self.deciding else None
        found = [m for m in self.measurements if m.purpose in purposes and m.conditions == conditions]
        return tuple(m for m in found if m.outcome == "scored" and m.value is not None)

    def values(self, *purposes: Purpose) -> tuple[float, ...]:
        """The scores of these."""
        return tuple(m.value for m in self.scored(*purposes) if m.value is not None)

    @property
    def levels(self) -> tuple[float, ...]:
        """The values that later ones are compared with: those of its checks, or else the one that decided. That one
        was chosen for being good, so that it flatters; a check was not."""
        return self.values("check") or (() if self.value is None else (self.value,))

    @property
    def level(self) -> float | None:
        """The mean of its `levels`."""
        return fmean(self.levels) if self.levels else None


@dataclass(frozen=True, slots=True)
class Spread:
    """The run-to-run standard deviation of a value, as far as it is known."""

    sigma: float
    repeats: int  # that it was measured by; 0: it is the program's guess
    reach: float = 1.96  # sigmas that hold 95 errors of 100: the more, the less sigma itself is known


@dataclass(frozen=True, slots=True)
class Gain:
    """What a run has gained, by measurements that chose nothing, with the interval that holds the truth 95 times in
    100; None where there are too few to say."""

    value: float  # in the metric's unit; positive is better
    error: float | None  # half the interval
    baseline: float  # means of the fresh values
    tip: float
    n: tuple[int, int]  # how many of each


@dataclass(frozen=True, slots=True)
class Agreement:
    """Whether new values repeat a recorded one, within what chance allows 95 times in 100."""

    difference: float  # mean of the new values less the recorded one
    allowed: float
    agrees: bool


@dataclass(frozen=True, slots=True)
class Replay:
    """A recorded experiment beside its new measurements. `agreement` is None where the two cannot be compared."""

    experiment: Experiment
    changes: Mapping[str, bool | int | float | str]
    measurements: tuple[Measurement, ...]
    agreement: Agreement | None
    spread: Spread
