"""SIGKILL at random moments, of a run and of each kind of its processes: `benchmarks/kills.py` does it 200 times."""

import random
from pathlib import Path

from tests.kills.lab import make_lab
from tests.kills.seen import FORKS, JUDGE, PARENT, SERVER, TRAINER, rows
from tests.kills.siege import Siege


def test_after_any_kill_ledger_refs_folders_and_processes_agree(tmp_path: Path) -> None:
    lab = make_lab(tmp_path / "user")
    siege = Siege(lab, random.Random(1), round=4, spare_baseline=True)
    siege.lay([PARENT, TRAINER, SERVER, FORKS, PARENT, JUDGE])
    assert siege.broken == []
    assert siege.hits.total() == 6
    assert len(rows(lab)) % 4 == 0
