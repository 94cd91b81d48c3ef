"""The ledger's tables, their rows as records, and how an older ledger becomes one of today: forward only."""

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import TypeAdapter, ValidationError

from autoresearch.errors import LedgerError
from autoresearch.records import Experiment, Goal, Measurement, Metric

SCHEMA = 2
MIGRATIONS: dict[int, str] = {
    1: """
    CREATE TABLE runs (
        tag TEXT PRIMARY KEY, created REAL NOT NULL, program TEXT NOT NULL, program_digest TEXT NOT NULL,
        program_text TEXT NOT NULL, agent TEXT NOT NULL, device TEXT NOT NULL, corpus TEXT NOT NULL,
        fingerprint TEXT NOT NULL, metric TEXT NOT NULL, goal TEXT NOT NULL, seed TEXT NOT NULL, base TEXT NOT NULL
    );
    CREATE TABLE sessions (
        id INTEGER PRIMARY KEY, tag TEXT NOT NULL REFERENCES runs, started REAL NOT NULL, seen REAL NOT NULL,
        ended REAL, why TEXT
    );
    CREATE TABLE experiments (
        tag TEXT NOT NULL REFERENCES runs, number INTEGER NOT NULL, stage TEXT NOT NULL, status TEXT NOT NULL,
        standing TEXT, title TEXT NOT NULL DEFAULT '', family TEXT NOT NULL DEFAULT 'other',
        hypothesis TEXT NOT NULL DEFAULT '', expect REAL, replies INTEGER NOT NULL DEFAULT 1,
        agent TEXT NOT NULL DEFAULT '', commit_id TEXT,
        parent TEXT, lines INTEGER, knobs TEXT NOT NULL DEFAULT '{}', patch TEXT, value REAL, reason TEXT,
        created REAL NOT NULL, ended REAL, PRIMARY KEY (tag, number)
    );
    CREATE TABLE measurements (
        id INTEGER PRIMARY KEY, tag TEXT NOT NULL, number INTEGER NOT NULL, purpose TEXT NOT NULL,
        seed INTEGER NOT NULL, changes TEXT, started REAL NOT NULL, ended REAL, value REAL, detail TEXT,
        FOREIGN KEY (tag, number) REFERENCES experiments
    );
    CREATE TABLE calls (
        id INTEGER PRIMARY KEY, tag TEXT NOT NULL, number INTEGER NOT NULL, at REAL NOT NULL, model TEXT NOT NULL,
        seconds REAL NOT NULL, input_tokens INTEGER, cached_tokens INTEGER, output_tokens INTEGER, usd REAL,
        FOREIGN KEY (tag, number) REFERENCES experiments
    );
    CREATE INDEX measured ON measurements (tag, number);
    """,
    2: """
    ALTER TABLE calls ADD COLUMN written_tokens INTEGER;
    ALTER TABLE calls ADD COLUMN error TEXT
    """,
}

_MEASUREMENT = TypeAdapter(Measurement)


@dataclass(frozen=True, slots=True)
class Run:
    """One campaign, as it began."""

    tag: str
    created: float
    program: str
    program_digest: str
    program_text: str
    agent: str
    device: str
    corpus: str  # as the user named it
    fingerprint: str  # of the corpus's content
    metric: Metric
    seed: str
    base: str  # the commit it started from

    @property
    def branch(self) -> str:
        return f"autoresearch/{self.tag}"


@dataclass(frozen=True, slots=True)
class Session:
    """One process that worked on a run. `seen` is its last sign of life; `ended` is None if it lives or was killed."""

    started: float
    seen: float
    ended: float | None
    why: str | None


@dataclass(frozen=True, slots=True)
class Recorded:
    """A measurement as the ledger holds it."""

    id: int
    number: int
    changes: Mapping[str, Any] | None
    measurement: Measurement


@dataclass(frozen=True, slots=True)
class Calls:
    """How often models were asked in a run."""

    total: int = 0
    failed: int = 0  # no reply came
    unpriced: int = 0  # a reply came, and nobody knows what it cost


def run_of(row: sqlite3.Row) -> Run:
    """A row of `runs`."""
    fields = dict(row)
    goal: Goal = fields.pop("goal")
    return Run(metric=Metric(fields.pop("metric"), goal), **fields)


def experiment_of(row: sqlite3.Row, measurements: tuple[Measurement, ...]) -> Experiment:
    """A row of `experiments`, with what was measured of it."""
    fields = {name: row[name] for name in row.keys() if name not in ("patch", "commit_id", "knobs")}  # noqa: SIM118
    return Experiment(**fields, commit=row["commit_id"], knobs=json.loads(row["knobs"]), measurements=measurements)


def measurement_of(row: sqlite3.Row) -> Measurement:
    """What a row of `measurements` holds. LedgerError if it does not."""
    try:
        return replace(_MEASUREMENT.validate_json(row["detail"]), purpose=row["purpose"])
    except ValidationError as error:
        raise LedgerError(
            f"measurement {row['id']} in the ledger is not readable.", "Was the ledger edited by hand?"
        ) from error


def measurement_as_json(measurement: Measurement) -> str:
    """What `measurement_of` reads."""
    return _MEASUREMENT.dump_json(measurement).decode()


def recorded_of(row: sqlite3.Row) -> Recorded:
    """A row of `measurements`."""
    changes = json.loads(row["changes"] or "null")
    return Recorded(row["id"], row["number"], changes, measurement_of(row))
