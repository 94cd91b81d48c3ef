"""A real GPU that others use, or whose processes are killed: what comes of a measurement there."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch

from autoresearch.engine import faults
from autoresearch.records import Progress
from tests.engine.test_faults import Killer
from tests.engine.test_local import body, folders, survivors

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

GIB = 2**30
NEIGHBOUR = """
import sys, time, torch
held = torch.empty(int(sys.argv[1]), dtype=torch.uint8, device="cuda")
x = torch.ones(4096, 4096, device="cuda", dtype=torch.bfloat16)
print("there", flush=True)
while True:
    if sys.argv[2] == "at work":
        x @ x
        torch.cuda.synchronize()
    else:
        time.sleep(0.1)
"""
TAKES = body(f"kept = torch.empty({8 * GIB}, dtype=torch.uint8, device=run.device)")


@contextlib.contextmanager
def neighbour(memory: int, does: str) -> Iterator[subprocess.Popen[str]]:
    """Another program on the GPU, with so many bytes of it."""
    command = [sys.executable, "-c", NEIGHBOUR, str(memory), does]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout and process.stdout.readline() == "there\n"
            yield process
        finally:
            process.kill()


class Leaver:
    """Has a neighbour go once it is waited for, after a phase."""

    def __init__(self, process: subprocess.Popen[str], after: str | None = None) -> None:
        self.process, self.after, self.phases = process, after, set[str]()
        self.notes: list[str] = []

    def __call__(self, progress: Progress) -> None:
        self.phases.add(progress.phase)
        if progress.phase == "waiting" and (self.after is None or self.after in self.phases):
            self.notes.append(progress.note or "")
            self.process.kill()


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(faults, "_LOOK", 0.5)
    monkeypatch.setattr(faults, "_LEAVE", 5.0)  # who tests beside this holds some memory, too


def test_who_is_at_work_there_is_waited_for(own_engine, trial, tmp_path):
    with neighbour(4 * GIB, "at work") as other:
        watch = Leaver(other)
        found = own_engine(device="cuda").measure(trial(), watch)
    assert (found.outcome, found.reason, found.interruptions) == ("scored", None, ())
    assert watch.notes and watch.notes[0].endswith(" GiB of the GPU")
    assert folders(tmp_path / "scratch") == []


def test_memory_that_others_hold_is_waited_for_and_no_patch_is_to_blame(own_engine, trial):
    free, _ = torch.cuda.mem_get_info()
    if free < 16 * GIB:
        pytest.skip("the GPU is too small, or too full")
    engine = own_engine(device="cuda")
    with neighbour(free - 4 * GIB, "idle") as other:
        watch = Leaver(other, after="warmup")
        found = engine.measure(trial(TAKES), watch)
    assert (found.outcome, found.reason) == ("scored", None)
    [reason] = found.interruptions
    assert reason.startswith("out of GPU memory in warm-up, while ") and reason.endswith(" GiB of the GPU")
    assert watch.notes and found.peak_memory > 8 * GIB


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one CUDA device")
def test_an_experiment_sees_the_one_that_it_is_measured_on(own_engine, trial):
    found = own_engine(device="cuda").measure(trial(body("assert torch.cuda.device_count() == 1")))
    assert (found.outcome, found.reason) == ("scored", None)


def test_memory_that_nobody_could_have_is_the_patchs_own_fault(own_engine, trial):
    found = own_engine(device="cuda").measure(trial(TAKES.replace(str(8 * GIB), str(2**50))))
    assert (found.outcome, found.phase) == ("crashed", "warmup")
    assert found.reason.startswith("out of GPU memory in warm-up")


def test_a_training_that_is_killed_there_is_done_again(own_engine, trial, tmp_path):
    engine = own_engine(device="cuda")
    work = "x = torch.ones(64, 64, device=run.device)\nimport time\ntime.sleep(2)"
    found = engine.measure(trial(body(work)), Killer(engine, "research-train", "warmup"))
    assert (found.outcome, found.reason) == ("scored", None)
    assert len(found.interruptions) == 1
    assert found.interruptions[0].startswith("the training process was ended by signal 9")
    assert survivors(tmp_path) == []
    assert folders(tmp_path / "scratch") == []
