"""Edits of the shipped training core, as an agent might make them, and the engine that trains and scores them."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from autoresearch import knobs
from autoresearch.engine import site
from autoresearch.engine.local import LocalEngine
from autoresearch.records import CorpusView, Kept, Measurement, Trial
from autoresearch.settings import Device, Settings
from tests.harness import zoo

CORE = (Path(__file__).parents[2] / "src" / "autoresearch" / "train_core.py").read_text()
CONSTANTS: dict[str, knobs.Value] = {
    "DEPTH": 2, "ASPECT": 32, "HEAD_DIM": 32, "CONTEXT": 64, "VOCAB_SIZE": 256, "BATCH_ROWS": 8, "MICRO_ROWS": 8,
    "EMBEDDING_LR": 0.3, "VALUE_LR": 0.1, "MATRIX_LR": 0.08, "SCALAR_LR": 0.1, "GATE_LR": 0.005, "MUON_MOMENTUM": 0.9,
}  # fmt: skip
SETTINGS = {"budget": 100.0, "max_steps": 40, "startup_limit": 240.0, "vocab_sizes": (256,), "audit": 128}

LITTLE = 2**26  # bytes

LEAK = "information it should not have"
UNSTABLE = "does not reproduce"
STATE = "learns from those before"


@dataclass(frozen=True)
class Patch:
    """Texts of the file and what stands in their place, and what must come of it."""

    edits: tuple[tuple[str, str], ...]
    outcome: str = "scored"
    reason: str = ""  # a pattern for the reason of what is not scored
    gain: float = (
        0.0  # of a cheat that is scored: the most bits per byte by which it may be better than the honest file
    )
    constants: Mapping[str, knobs.Value] = field(default_factory=dict)
    settings: Mapping[str, object] = field(default_factory=dict)
    log: str = ""  # patterns of lines that its output has, and ...
    never: str = ""  # ... that it must not have
    needs: tuple[str, ...] = ()  # what a machine must protect for it (`engine.sandbox`)
    disk: int | None = None  # bytes that its files may take, where that is not what the engine allows
    timed: bool = False  # whether scoring may take three times the tip's time: others may be at work when that is taken

    def source(self) -> str:
        """The patched file. AssertionError if an edit no longer fits."""
        text = knobs.assign(CORE, {**CONSTANTS, **self.constants})
        for old, new in self.edits:
            assert text.count(old) == 1, f"{text.count(old)} times in train_core.py:\n{old}"
            text = text.replace(old, new)
        return text


@dataclass(frozen=True)
class Shipped:
    """The tip of a run: what came of the file as shipped, and what is left of it."""

    measurement: Measurement
    kept: Kept
    untimed: str  # its losses, with no word on how long they took

    @property
    def value(self) -> float:
        """Bits per byte."""
        assert self.measurement.value is not None, self.measurement.reason
        return self.measurement.value


def measure_shipped(engine: LocalEngine, corpus: CorpusView, folder: Path) -> Shipped:
    """Train and score it, and leave in the folder what is kept of a tip."""
    kept = Kept(*(str(folder / name) for name in ("weights", "losses.npz", "train-cache", "open-cache")))
    measurement = measure(Patch(()), engine, corpus, folder, keep=kept)
    untimed = str(folder / "untimed.npz")
    with np.load(kept.losses) as losses:
        np.savez(untimed, sizes=losses["sizes"], losses=losses["losses"])
    return Shipped(measurement, kept, untimed)


def measure(
    patch: Patch,
    engine: LocalEngine,
    corpus: CorpusView,
    logs: Path,
    *,
    shipped: Shipped | None = None,
    keep: Kept | None = None,
    names: Mapping[str, str] | None = None,
) -> Measurement:
    """Train and score, as a run with that tip would. names: what stands for them in the patch."""
    source = patch.source()
    for name, value in ({"@VALIDATION@": corpus.validation.path} | dict(names or {})).items():
        source = source.replace(name, value)
    context = knobs.values(source)["CONTEXT"]
    assert isinstance(context, int)
    settings = Settings.model_validate({**SETTINGS, **patch.settings})
    trial = Trial(source, 11, 256, context, corpus, settings, keep=keep, logs=str(logs))
    if shipped:
        tip = shipped.kept if patch.timed else replace(shipped.kept, losses=shipped.untimed)
        trial = replace(trial, tip=tip, bar=shipped.value)
    with disk_of(patch):
        return engine.measure(trial)


def make_engine(scratch: Path, device: Device = "cpu") -> LocalEngine:
    """An engine whose caller has keys."""
    environ = {**os.environ, "OMP_NUM_THREADS": "1"}
    environ |= {"ANTHROPIC_API_KEY": "sesame", "HF_TOKEN": "sesame"}
    engine = LocalEngine(scratch, environ, "cheats", device)
    if device == "cuda":  # as if it had little memory: batches are of as many rows as on the CPU
        engine._bench = replace(engine._bench, memory=LITTLE)
    return engine


def said(logs: Path) -> str:
    """What the processes of a measurement have printed."""
    return "".join(path.read_text() for path in sorted(logs.glob("*.log")))


@contextlib.contextmanager
def disk_of(patch: Patch) -> Iterator[None]:
    """As long as it lasts, the engine allows what the patch says."""
    with pytest.MonkeyPatch.context() as patched:
        if patch.disk is not None:
            patched.setattr(site, "_DISK", patch.disk)
        yield


def make_corpus(folder: Path) -> CorpusView:
    """300 KB to train on, 20 KB to be scored on."""
    texts = zoo.texts(folder, 20_000)
    return CorpusView("fingerprint", texts.train[256], texts.validation[256])
