"""What is asked of the machine."""

import ctypes
import os
from pathlib import Path

import pytest

from autoresearch import machine


@pytest.mark.parametrize("there", [True, False], ids=["syncfs", "no such call"])
def test_a_disk_is_synced_by_what_the_system_has(there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One disk where that can be told, and else all of them."""
    asked: list[str] = []

    class Library:
        def __init__(self, _: None) -> None:
            if there:
                self.syncfs = self.one

        def one(self, descriptor: int) -> int:
            asked.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
            return 0

    monkeypatch.setattr(ctypes, "CDLL", Library)
    monkeypatch.setattr(os, "sync", lambda: asked.append("all"))
    machine.sync(tmp_path)
    assert asked == ([str(tmp_path)] if there else ["all"])


def test_a_disk_is_synced_for_real(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("words")
    machine.sync(tmp_path)
