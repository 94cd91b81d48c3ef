"""SIGKILL at random moments, of a run and of each kind of its processes: `benchmarks/kills.py` does it 200 times."""

import random
import sqlite3
from contextlib import closing
from pathlib import Path

from tests.conftest import Lab
from tests.kills.lab import TAG, make_lab
from tests.kills.rules import Rules
from tests.kills.seen import FORKS, JUDGE, PARENT, SERVER, TRAINER, rows
from tests.kills.siege import Siege


def test_after_any_kill_ledger_refs_folders_and_processes_agree(tmp_path: Path) -> None:
    lab = make_lab(tmp_path / "user")
    siege = Siege(lab, random.Random(1), round=3, spare_baseline=True)
    siege.lay([PARENT, TRAINER, SERVER, FORKS, PARENT, JUDGE])
    assert siege.broken == []
    assert siege.hits.total() == 6
    assert len(rows(lab)) % 3 == 0
    it_is_seen_where_something_does_not_hold(lab)


def it_is_seen_where_something_does_not_hold(lab: Lab) -> None:
    """Or nothing would be known by the above."""
    rules = Rules(lab)
    assert rules.broken(ended=True) == []
    runs = lab.ledger.parent / "runs" / TAG
    lab.git("update-ref", f"refs/autoresearch/{TAG}/99", "HEAD")
    other = lab.git("commit-tree", "HEAD^{tree}", "-m", "not of the run")
    lab.git("update-ref", f"refs/heads/autoresearch/{TAG}", other)
    lab.git("add", "notes.txt")
    (runs / "1" / "losses.npz").unlink()
    broken = runs / "4"  # as the fourth is: nobody needs what it leaves
    broken.mkdir(exist_ok=True)
    (broken / "weights.safetensors").touch()
    (broken / "weights.safetensors.partial").touch()
    with closing(sqlite3.connect(lab.ledger)) as db, db:
        db.execute("UPDATE experiments SET value = 0.5, stage = 'decided' WHERE number = 3")
        db.execute("INSERT INTO measurements SELECT NULL, tag, number, purpose, seed, changes, started, ended, value,"
                   " detail FROM measurements WHERE purpose = 'first' AND number = 2")  # fmt: skip
    said = "\n".join(rules.broken(ended=True))
    for what in ("refs of no experiment", "the branch is at", "user's tree", "losses.npz is left", "half-written",
                 "weights.safetensors is left", "#3 was done and has changed", "#3 is decided",
                 "#2 was measured 2 times"):  # fmt: skip
        assert what in said, said
