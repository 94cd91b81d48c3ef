"""SQLite: the one truth about what happened. Intent is committed here before each side effect.

The database lies in the repository's git directory, with a folder per experiment beside it for logs, curves,
prompts and replies. It survives `git clean` and is seen from every worktree.
"""

import json
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from autoresearch.errors import LedgerError
from autoresearch.records import Exchange, Experiment, Measurement, Proposal, Purpose, Stage, Standing, Usage
from autoresearch.schema import (
    MIGRATIONS,
    SCHEMA,
    Calls,
    Recorded,
    Run,
    Session,
    experiment_of,
    measurement_as_json,
    recorded_of,
    run_of,
)

_EXCHANGE = TypeAdapter(Exchange)
_PATIENCE = 30.0  # seconds that another writer may take
_Of = tuple[str, int, Purpose, str | None]  # what a measurement is of: run, experiment, purpose, changes as JSON


class Ledger:
    """Opened on `<git directory>/autoresearch`. Raises LedgerError if it is unreadable or of a newer schema."""

    def __init__(self, folder: Path, create: bool = True) -> None:
        self.folder = folder
        self._finished: dict[int, Recorded] = {}  # by their ids: to read a curve takes its time, and none changes
        path = folder / "ledger.db"
        if not create and not path.exists():
            raise LedgerError("no run has been started in this repository.", "Start one with `autoresearch run`.")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=_PATIENCE, isolation_level=None)
            self._db.row_factory = sqlite3.Row
            self._migrate(path)
            with suppress(sqlite3.OperationalError):  # the file system cannot, or another process is at it
                self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.execute("PRAGMA foreign_keys = ON")
        except (sqlite3.Error, OSError) as error:
            raise self._unreadable(error) from error

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def _unreadable(self, error: Exception) -> LedgerError:
        broken = "Restore it from a backup, or move it aside: the commits under refs/autoresearch/ remain."
        closed = "Check that its folder can be written and that the disk is not full."
        return LedgerError(
            f"the ledger {self.folder / 'ledger.db'} cannot be read ({error}).",
            closed if isinstance(error, sqlite3.OperationalError | OSError) else broken,
        )

    def _read(self, query: str, *parameters: object) -> list[sqlite3.Row]:
        try:
            return self._db.execute(query, parameters).fetchall()
        except sqlite3.Error as error:
            raise self._unreadable(error) from error

    def _first(self, query: str, *parameters: object) -> sqlite3.Row | None:
        return next(iter(self._read(query, *parameters)), None)

    def _migrate(self, path: Path) -> None:
        if self._version() == SCHEMA:
            return
        with self._write() as db:
            version = self._version()  # again, since two processes may open a new ledger at once
            if version > SCHEMA:
                raise LedgerError(
                    f"the ledger {path} has schema {version}, and this autoresearch knows up to {SCHEMA}.",
                    "Upgrade autoresearch.",
                )
            for step in range(version + 1, SCHEMA + 1):
                for statement in MIGRATIONS[step].split(";"):
                    db.execute(statement)
                db.execute(f"PRAGMA user_version = {step}")

    def _version(self) -> int:
        return int(self._db.execute("PRAGMA user_version").fetchone()[0])

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        """One transaction, on disk when it returns."""
        try:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # Ctrl-C may come just before the first statement or after the last
                    self._db.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: Exception) -> LedgerError:
        locked = "locked" in str(error)
        remedy = "End that other program, and run again." if locked else "Is the disk full?"
        return LedgerError(f"cannot write the ledger in {self.folder} ({error}).", remedy)

    # ------------------------------------------------------------------------------------------ runs

    def run(self, tag: str) -> Run | None:
        row = self._first("SELECT * FROM runs WHERE tag = ?", tag)
        return run_of(row) if row else None

    def runs(self) -> list[Run]:
        """All runs, the one worked on last first."""
        order = "COALESCE((SELECT MAX(seen) FROM sessions WHERE sessions.tag = runs.tag), created) DESC"
        return [run_of(row) for row in self._read(f"SELECT * FROM runs ORDER BY {order}")]

    def start(self, run: Run) -> None:
        with self._write() as db:
            db.execute(
                "INSERT INTO runs VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)",
                (run.tag, run.created, run.program, run.program_digest, run.program_text, run.agent, run.device,
                 run.corpus, run.fingerprint, run.metric.name, run.metric.goal, run.seed, run.base),
            )  # fmt: skip

    def restart(self, run: Run) -> None:
        """Begin a run again whose baseline never scored: from another commit, perhaps under an edited program."""
        with self._write() as db:
            db.execute(
                "UPDATE runs SET base = ?, program_digest = ?, program_text = ?, corpus = ?, fingerprint = ?,"
                " device = ? WHERE tag = ?",
                (run.base, run.program_digest, run.program_text, run.corpus, run.fingerprint, run.device, run.tag),
            )
            db.execute(
                "UPDATE experiments SET stage = 'proposing', status = 'running', value = NULL, reason = NULL,"
                " commit_id = NULL, ended = NULL WHERE tag = ? AND number = 1",
                (run.tag,),
            )

    def amend(self, run: Run, text: str, digest: str) -> Run:
        """Take up a program that was edited, in what may change while a run rests."""
        with self._write() as db:
            db.execute("UPDATE runs SET program_text = ?, program_digest = ? WHERE tag = ?", (text, digest, run.tag))
        return replace(run, program_text=text, program_digest=digest)

    def enter(self, tag: str, agent: str) -> int:
        """A process begins to work on a run: the id of its session."""
        with self._write() as db:
            db.execute("UPDATE runs SET agent = ? WHERE tag = ?", (agent, tag))
            now = time.time()
            cursor = db.execute("INSERT INTO sessions (tag, started, seen) VALUES (?,?,?)", (tag, now, now))
            return int(cursor.lastrowid or 0)

    def leave(self, session: int, why: str) -> None:
        with self._write() as db:
            now = time.time()
            db.execute("UPDATE sessions SET seen = ?, ended = ?, why = ? WHERE id = ?", (now, now, why, session))

    def sessions(self, tag: str) -> list[Session]:
        rows = self._read("SELECT * FROM sessions WHERE tag = ? ORDER BY id", tag)
        return [Session(row["started"], row["seen"], row["ended"], row["why"]) for row in rows]

    # ------------------------------------------------------------------------------------------ experiments

    def unfinished(self, tag: str) -> Experiment | None:
        """The experiment that is not done yet, in the stage in which its process left it."""
        rows = self._read("SELECT * FROM experiments WHERE tag = ? AND stage != 'done'", tag)
        return next((experiment_of(row, _measured(self.recorded(tag, row["number"]))) for row in rows), None)

    def open_experiment(self, tag: str) -> Experiment:
        """The one that is not done yet, or else the next one, which begins now."""
        if waiting := self.unfinished(tag):
            return waiting
        with self._write() as db:
            (last,) = db.execute("SELECT MAX(number) FROM experiments WHERE tag = ?", (tag,)).fetchone()
            new = Experiment(number=(last or 0) + 1, tag=tag, stage="proposing", created=time.time())
            db.execute(
                "INSERT INTO experiments (tag, number, stage, status, created) VALUES (?,?,?,?,?)",
                (tag, new.number, new.stage, new.status, new.created),
            )
            return new

    def advance(self, experiment: Experiment, stage: Stage, **changes: Any) -> Experiment:
        """Move to the next stage and set fields with it, in one transaction. Only from the stage it is in."""
        with self._write() as db:
            return self._advance(db, experiment, stage, **changes)

    def propose(self, experiment: Experiment, proposal: Proposal, agent: str = "") -> Experiment:
        """Record a proposal whole, with the text of its patch until it is in git."""
        with self._write() as db:
            db.execute(
                "UPDATE experiments SET patch = ? WHERE tag = ? AND number = ?",
                (json.dumps(dict(proposal.patch.files)) if proposal.patch else None, experiment.tag, experiment.number),
            )
            return self._advance(
                db, experiment, "proposed", title=proposal.title, family=proposal.family, expect=proposal.expect,
                hypothesis=proposal.hypothesis, replies=proposal.replies, reason=proposal.failure,
                agent=agent,
            )  # fmt: skip

    def measured(self, experiment: Experiment, id: int, measurement: Measurement) -> Experiment:
        """Record the measurement that decides an experiment, and move on with it: never the one without the other."""
        with self._write() as db:
            self._finish(db, id, measurement)
            done = self._advance(db, experiment, "measured", value=measurement.value)
        return replace(done, measurements=(measurement,))

    def _advance(self, db: sqlite3.Connection, experiment: Experiment, stage: Stage, **changes: Any) -> Experiment:
        columns: dict[str, Any] = {"stage": stage} | ({"patch": None} if stage == "done" else {})
        for name, value in changes.items():
            columns["commit_id" if name == "commit" else name] = json.dumps(value) if name == "knobs" else value
        done = db.execute(
            f"UPDATE experiments SET {', '.join(f'{name} = ?' for name in columns)}"
            " WHERE tag = ? AND number = ? AND stage = ?",
            (*columns.values(), experiment.tag, experiment.number, experiment.stage),
        )
        if done.rowcount != 1:
            raise LedgerError(
                f"experiment {experiment.number} of run {experiment.tag} was moved on by another process.",
                "Let only one process work on a run.",
            )
        db.execute(
            "UPDATE sessions SET seen = ? WHERE id = (SELECT MAX(id) FROM sessions WHERE tag = ?)",
            (time.time(), experiment.tag),
        )
        return replace(experiment, stage=stage, **changes)

    def stand(self, tag: str, standing: Standing, reasons: Mapping[int, str]) -> None:
        """Confirm or roll back kept experiments, all or none; each by its number gets its reason."""
        with self._write() as db:
            for number, reason in reasons.items():
                db.execute(
                    "UPDATE experiments SET standing = ?, reason = ? WHERE tag = ? AND number = ?",
                    (standing, reason, tag, number),
                )

    def patch(self, experiment: Experiment) -> dict[str, str] | None:
        """The files of a proposal; None if it has no patch, or is done with."""
        query = "SELECT patch FROM experiments WHERE tag = ? AND number = ?"
        row = self._first(query, experiment.tag, experiment.number)
        return json.loads(row["patch"]) if row and row["patch"] else None

    def experiments(self, tag: str) -> list[Experiment]:
        """All of a run, oldest first."""
        rows = self._read("SELECT * FROM experiments WHERE tag = ? ORDER BY number", tag)
        measured: dict[int, list[Recorded]] = {}
        for record in self.recorded(tag):
            measured.setdefault(record.number, []).append(record)
        return [experiment_of(row, _measured(measured.get(row["number"], []))) for row in rows]

    def experiment(self, tag: str, number: int) -> Experiment | None:
        query = "SELECT * FROM experiments WHERE tag = ? AND number = ?"
        row = self._first(query, tag, number)
        return experiment_of(row, _measured(self.recorded(tag, number))) if row else None

    def find_commit(self, commit: str, tag: str | None = None) -> Experiment | None:
        """The latest experiment, of this run or of any, whose commit this is."""
        row = self._first(
            "SELECT tag, number FROM experiments WHERE commit_id = ? AND (? IS NULL OR tag = ?) ORDER BY created DESC",
            commit, tag, tag,
        )  # fmt: skip
        return self.experiment(row["tag"], row["number"]) if row else None

    def tip(self, tag: str) -> Experiment | None:
        """The last kept experiment; None before the baseline has a score."""
        kept = [e for e in self.experiments(tag) if e.holds]
        return kept[-1] if kept else None

    def folder_of(self, tag: str, number: int) -> Path:
        """Where an experiment's logs, curves, prompts and replies lie; made if missing."""
        folder = self.folder / "runs" / tag / str(number)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    # ------------------------------------------------------------------------------------------ measurements

    def begin(
        self, experiment: Experiment, purpose: Purpose, seed: int, changes: Mapping[str, Any] | None = None
    ) -> int:
        """Record that a measurement is about to run: its id. One that was begun with this seed and cut short is it."""
        of = (experiment.tag, experiment.number, purpose, json.dumps(changes) if changes else None)
        with self._write() as db:
            begun = _begun(db, of, seed)
            return begun[0] if begun else _begin(db, of, seed)

    def begin_afresh(
        self,
        experiment: Experiment,
        purpose: Purpose,
        seed: Callable[[int], int],
        changes: Mapping[str, Any] | None = None,
    ) -> tuple[int, int]:
        """The same with a seed that the experiment has not had: its id and the seed, which `seed` tells of its number.
        One that was begun for this purpose and cut short is it."""
        of = (experiment.tag, experiment.number, purpose, json.dumps(changes) if changes else None)
        with self._write() as db:
            if begun := _begun(db, of):
                return begun
            query = "SELECT COUNT(*) FROM measurements WHERE tag = ? AND number = ?"
            (before,) = db.execute(query, of[:2]).fetchone()
            fresh = seed(max(before, 1) + 1)  # the first is that of the measurement that decides
            return _begin(db, of, fresh), fresh

    def finish(self, id: int, measurement: Measurement) -> None:
        """Record what came of a measurement that decides about no proposal."""
        with self._write() as db:
            self._finish(db, id, measurement)

    def _finish(self, db: sqlite3.Connection, id: int, measurement: Measurement) -> None:
        db.execute(
            "UPDATE measurements SET ended = ?, value = ?, detail = ? WHERE id = ?",
            (time.time(), measurement.value, measurement_as_json(measurement), id),
        )

    def recorded(self, tag: str, number: int | None = None) -> list[Recorded]:
        """Finished measurements of a run, or of one experiment of it, in order."""
        which = "tag = ? AND (? IS NULL OR number = ?) AND detail IS NOT NULL"
        rows = self._read(f"SELECT id FROM measurements WHERE {which} ORDER BY id", tag, number, number)
        ids = [row["id"] for row in rows]
        for id in [id for id in ids if id not in self._finished]:
            self._finished[id] = recorded_of(self._read("SELECT * FROM measurements WHERE id = ?", id)[0])
        return [self._finished[id] for id in ids]

    # ------------------------------------------------------------------------------------------ model calls

    def charge(self, experiment: Experiment, exchange: Exchange) -> None:
        """Record a model call before its reply is used, then the whole exchange in a file beside the ledger.

        LedgerError if either cannot be written; what a call cost is known even if there is no room for its words."""
        usage = exchange.usage
        with self._write() as db:
            cursor = db.execute(
                "INSERT INTO calls (tag, number, at, model, seconds, input_tokens, cached_tokens, written_tokens,"
                " output_tokens, usd, error) VALUES (?,?,?,?,?,?,?,?,?,?,?)",
                (experiment.tag, experiment.number, time.time(), exchange.model, exchange.seconds, usage.input_tokens,
                 usage.cached_tokens, usage.written_tokens, usage.output_tokens, usage.usd, exchange.error),
            )  # fmt: skip
        try:
            folder = self.folder_of(experiment.tag, experiment.number)
            (folder / f"call-{cursor.lastrowid}.json").write_bytes(_EXCHANGE.dump_json(exchange, indent=1))
        except OSError as error:
            raise self._unwritable(error) from error

    def usage(self, tag: str) -> Usage:
        """Totals over a run; a sum is None if no call reported that number."""
        (row,) = self._read(
            "SELECT SUM(input_tokens), SUM(cached_tokens), SUM(written_tokens), SUM(output_tokens), SUM(usd)"
            " FROM calls WHERE tag = ?",
            tag,
        )
        return Usage(*row)

    def calls(self, tag: str) -> Calls:
        """How many calls a run has made, and how they went."""
        (row,) = self._read(
            "SELECT COUNT(*), COUNT(error), COUNT(CASE WHEN error IS NULL AND usd IS NULL THEN 1 END)"
            " FROM calls WHERE tag = ?",
            tag,
        )
        return Calls(*row)


def _begun(db: sqlite3.Connection, of: _Of, seed: int | None = None) -> tuple[int, int] | None:
    """Id and seed of a measurement that was cut short, which begins again."""
    query = "SELECT id, seed FROM measurements AS m WHERE tag = ? AND number = ? AND purpose = ? AND changes IS ?"
    twin = "SELECT 1 FROM measurements WHERE tag = m.tag AND number = m.number AND seed = m.seed AND id != m.id"
    which = f"ended IS NULL AND (seed = ? OR ? IS NULL AND NOT EXISTS ({twin}))"
    row = db.execute(f"{query} AND {which}", (*of, seed, seed)).fetchone()
    if row:
        db.execute("UPDATE measurements SET started = ? WHERE id = ?", (time.time(), row["id"]))
    return (int(row["id"]), int(row["seed"])) if row else None


def _begin(db: sqlite3.Connection, of: _Of, seed: int) -> int:
    columns = "tag, number, purpose, changes, seed, started"
    cursor = db.execute(f"INSERT INTO measurements ({columns}) VALUES (?,?,?,?,?,?)", (*of, seed, time.time()))
    return int(cursor.lastrowid or 0)


def _measured(recorded: list[Recorded]) -> tuple[Measurement, ...]:
    """Of one experiment's measurements the one that decides, which is the last that was to, and what repeats it."""
    measured = [record.measurement for record in recorded]
    deciding = [m for m in measured if m.purpose == "first"][-1:]
    return (*deciding, *(m for m in measured if m.purpose not in ("first", "transfer")))
