"""A ledger that a view or a live state may be written beside."""

from pathlib import Path

import pytest

from autoresearch.ledger import Ledger


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """Empty, with the folder of a run `t`."""
    found = Ledger(tmp_path / "state")
    found.folder_of("t", 1)
    return found
