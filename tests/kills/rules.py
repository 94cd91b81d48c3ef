"""What must hold of a lab whenever its run is dead, and at its end."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from tests.conftest import Lab, contents
from tests.kills.lab import TAG
from tests.kills.seen import Row, opened, rows

STAGES = {"proposing", "proposed", "committed", "running", "measured", "decided", "done"}
VERDICTS = {"kept", "discarded", "stopped", "crashed", "failed"}


@dataclass
class Rules:
    """What must hold of a lab on the disk, and goes on holding: it remembers what was there before."""

    lab: Lab
    untouched: dict[str, bytes | str] = field(init=False)
    done: dict[int, Row] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.untouched = self._users()

    def broken(self, ended: bool) -> list[str]:
        """In words. ended: the run has come to its end by itself; otherwise its experiment may be half a step on."""
        return list(self._broken(ended))

    def _broken(self, ended: bool) -> Iterator[str]:
        if self._users() != self.untouched:
            yield "the user's tree, index or HEAD has changed"
        if not self.lab.ledger.exists():
            return
        with closing(opened(self.lab)) as db, suppress(sqlite3.OperationalError):
            if (sound := db.execute("PRAGMA integrity_check").fetchone()) != ("ok",):
                yield f"the ledger is damaged: {sound}"
        found = rows(self.lab)
        yield from self._of_experiments(found, ended)
        yield from self._of_measurements()
        yield from self._of_refs(found, ended)
        yield from self._of_files(found, ended)
        self.done = {row.number: row for row in found if row.stage == "done"}

    def _of_experiments(self, found: list[Row], ended: bool) -> Iterator[str]:
        numbers = [row.number for row in found]
        if numbers != list(range(1, len(found) + 1)):
            yield f"experiments are numbered {numbers}"
        for number, before in self.done.items():
            again = number == 1 and before.status != "kept"  # a baseline that crashed begins anew
            now = next((row for row in found if row.number == number), None)
            if not again and (now is None or now.stage != "done" or now.fixed != before.fixed):
                yield f"#{number} was done and has changed: {before} is {now}"
        for row in found:
            over = row.stage in ("decided", "done")
            if row.stage not in STAGES or (row.stage != "done" and (ended or row.number != len(found))):
                yield f"#{row.number} is {row.stage}"
            if (row.status in VERDICTS) != over or row.status not in VERDICTS | {"running"}:
                yield f"#{row.number} is {row.stage} and {row.status}"
            measured = row.stage == "measured" or (over and row.commit is not None)
            crashes = row.firsts[:-1] if row.number == 1 else ()  # attempts at a baseline that began anew
            if any(value is not None for value in crashes) or len(row.firsts) - len(crashes) > 1:
                yield f"#{row.number} was measured {len(row.firsts)} times"
            if row.number > 1 and len(row.firsts) != measured:
                yield f"#{row.number} is {row.stage} and was measured {len(row.firsts)} times"

    def _of_measurements(self) -> Iterator[str]:
        with suppress(sqlite3.OperationalError), closing(opened(self.lab)) as db:
            query = (
                "SELECT number, purpose, COUNT(*), COUNT(DISTINCT seed) FROM measurements"
                " WHERE ended IS NOT NULL AND purpose != 'first' GROUP BY number, purpose"
            )
            for number, purpose, count, seeds in db.execute(query):
                if count != seeds or count > 2:
                    yield f"#{number} has {count} finished measurements to {purpose}, with {seeds} seeds"

    def _of_refs(self, found: list[Row], ended: bool) -> Iterator[str]:
        lines = self.lab.git("for-each-ref", "--format=%(refname) %(objectname)").splitlines()
        refs = dict(line.split(" ") for line in lines)
        attempts = {name: commit for name, commit in refs.items() if name.startswith("refs/autoresearch/")}
        for row in found:
            held = attempts.pop(f"refs/autoresearch/{TAG}/{row.number}", None)
            early = row.stage in ("proposing", "proposed") and not ended  # its commit may just have been made
            if held != row.commit and not early:
                yield f"the ref of #{row.number} is {held}, and the ledger has {row.commit}"
        if attempts:
            yield f"there are refs of no experiment: {attempts}"
        kept = [row for row in found if row.stage == "done" and row.holds]
        for before, after in pairwise(kept):
            if after.parent != before.commit:
                yield f"#{after.number} stands on {after.parent}, and not on #{before.number}"
        branch = refs.get(f"refs/heads/autoresearch/{TAG}")
        if ended and kept and branch != kept[-1].commit:
            yield f"the branch is at {branch}, and not at #{kept[-1].number}"
        if found and not ended and branch not in {row.commit for row in found if row.status == "kept"} | {self._base()}:
            yield f"the branch is at {branch}, which was never kept"

    def _base(self) -> str:
        return self.lab.git("rev-parse", "HEAD")

    def _of_files(self, found: list[Row], ended: bool) -> Iterator[str]:
        folder = self.lab.ledger.parent / "runs" / TAG
        kept = [row for row in found if row.stage == "done" and row.holds]
        confirmed = [row.number for row in kept if row.standing == "confirmed"][-1:]
        needed = {1, kept[-1].number, *confirmed} if kept else set()
        for name in ("weights.safetensors", "losses.npz"):
            left = {int(path.parent.name) for path in folder.glob(f"*/{name}")}
            if not needed <= left or (ended and left != needed):
                yield f"{name} is left of {sorted(left)}, and of {sorted(needed)} it is needed"
        if temporary := [path.name for path in Path(self.lab.env["TMPDIR"]).iterdir()]:
            yield f"temporary files are left: {temporary}"
        if ended:
            if staging := [path.name for path in folder.glob("staging")]:
                yield f"what was staged for a commit is left: {staging}"
            if partial := [str(path) for path in folder.rglob("*.partial")]:
                yield f"half-written files are left: {partial}"
            if homes := [str(path) for path in (self.lab.cache / "scratch").glob("*/measurement-*")]:
                yield f"folders of measurements are left: {homes}"

    def _users(self) -> dict[str, bytes | str]:
        """What no run may touch, byte for byte."""
        state = self.lab.root / ".git"
        own = {name: (state / name).read_bytes() for name in ("HEAD", "index", "refs/heads/main", "config")}
        return {**contents(self.lab.root, without=(".git/",)), **own}
