"""How many tokens an experiment is reckoned to read."""

from pathlib import Path

import pytest

from autoresearch import provision
from autoresearch.machine import cores
from autoresearch.settings import Settings


def smi(folder: Path, name: str) -> dict[str, str]:
    """A machine whose nvidia-smi lists this GPU."""
    tool = folder / "nvidia-smi"
    tool.write_text(f'#!/bin/sh\necho "GPU-1, {name}, 580.1, 80000, 79000"\n')
    tool.chmod(0o755)
    return {"PATH": str(folder)}


@pytest.mark.parametrize(
    ("name", "rate"),
    [("NVIDIA H200", 1.7e6), ("NVIDIA A100-SXM4-80GB", 1.7e6 * 312 / 989), ("NVIDIA X9000", 1.7e6)],
)
def test_a_gpu_reads_as_its_peak_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, rate: float
) -> None:
    monkeypatch.setenv("PATH", smi(tmp_path, name)["PATH"])
    assert provision.tokens_read(Settings(budget=300, device="cuda"), {}) == pytest.approx(300 * rate, abs=1)


def test_a_program_for_a_gpu_is_provided_for_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert provision.tokens_read(Settings(budget=300, device="cuda"), {}) == 510_000_000


def test_a_processor_reads_by_its_cores() -> None:
    assert provision.tokens_read(Settings(budget=10, device="cpu"), {}) == 150_000 * cores()
