"""What the engine and the processes it starts say to each other, as JSON: tasks one way, results the other.

A process's word is not taken for it: results are read as untrusted files, and checked.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from autoresearch.records import Audit, TokenFile

Outcome = Literal["scored", "crashed", "quarantined"]
HARDWARE = re.compile(  # what CUDA says where a GPU or its driver fails, and hardly any program is to blame
    r"\bECC\b|uncorrectable|fallen off|unspecified launch failure|launch timed out|hardware stack error|NVLink|"
    r"busy or unavailable|no CUDA-capable device|initialization error|system not yet initialized|driver shutting down|"
    r"unknown error|CUBLAS_STATUS_NOT_INITIALIZED|CUDNN_STATUS_NOT_INITIALIZED",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class TrainTask:
    """What the training child is told, as JSON. It names no held-out file."""

    source: str  # path of the exported file
    folder: str  # the only place it may write: events.jsonl, result.json, weights.safetensors
    seed: int
    device: str  # cpu, cuda, mps
    budget: float  # seconds
    max_steps: int | None
    tokens: TokenFile  # without a path if the text comes over `data`
    context: int
    data: int | None = None  # socket over which the open token file comes when the clock starts, and not before


@dataclass(frozen=True, slots=True)
class ScoreTask:
    """What the scorer is told, as JSON. It hands the candidate's processes rows, never a path to them."""

    source: str
    weights: str
    folder: str  # for what its own children are told
    device: str
    context: int
    tokens: TokenFile  # the validation split
    validation: int  # bytes of text to score at most, whole documents
    audit: int
    incumbent: str | None
    limit: float  # seconds that the rehearsal may take; and from the weights on the claim, and as much again its proof
    result: int  # file descriptor: takes an empty line when all is ready, and then the ScoreResult, a line of JSON
    losses: int  # file descriptor: takes the losses (.npz)
    go: int  # file descriptor: gives a byte when the weights are there
    compiled: int  # file descriptor: has by then what was compiled when all was ready (.tar), or nothing
    machine: str = ""  # what a process has of it, in a line
    memory: int | None = None  # bytes the GPU has
    room: int | None = None  # of these, that may be taken until the weights are there; None: all
    bar: float | None = None  # bits per byte under which the score may be kept, and is audited more closely
    rows: int | None = None  # rows per batch; None: as many as suit the device


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What training left behind, as the harness saw it."""

    seconds: Mapping[str, float]  # import, build, warmup, train, save
    steps: int
    tokens: int
    parameters: int
    active_parameters: int | None  # that one token's forward uses, as the model says: informational
    peak_memory: int | None  # bytes
    flops_per_token: float | None  # forward and backward, as the model says: informational
    loss: float | None  # last reported, nats per token
    start_hash: str  # of the weights when the clock started


@dataclass(frozen=True, slots=True)
class Fault:
    """How training ended when it did not end well, in the words of the training process."""

    phase: str
    reason: str  # one line
    traceback: str | None = None  # bounded tail
    result: TrainResult | None = None  # what was known by then


@dataclass(frozen=True, slots=True)
class ScoreResult:
    """What the scorer found."""

    outcome: Outcome
    reason: str | None = None  # of a crash or a quarantine; safe to show, never the candidate's own words
    value: float | None = None  # bits per byte, corrected upwards by what the audit leaves open
    claim: float | None = None  # bits per byte as the open process claimed
    targets: int | None = None
    bytes: int | None = None
    audit: Audit | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)  # open, sealed
    suspected: bool = False  # it may have been the machine: a signal has ended a process, or one was slow
    traceback: str | None = None  # bounded; of a crash before the candidate knew any text
    postponed: bool = False  # there was too little of the GPU's memory: to be done when all of it is free
