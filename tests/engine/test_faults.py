"""Whose fault it was. GPUs are told of by a program in nvidia-smi's place, as the real one would."""

import contextlib
import math
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from autoresearch import steady
from autoresearch.engine import faults
from autoresearch.engine.local import LocalEngine
from autoresearch.engine.measuring import Measuring
from autoresearch.engine.site import Crash, Site
from autoresearch.errors import DeadlinePassed, EngineError
from autoresearch.records import Pace, Progress
from autoresearch.tasks import Fault
from tests.engine.conftest import TRAIN
from tests.engine.test_local import body, folders, survivors

GPU = "GPU-aaaa"
OOM = Crash(Fault("train", "out of GPU memory in training"))
BUG = Crash(Fault("train", "RuntimeError in training: shapes do not match"))
KILLED = Crash(Fault("train", "the training process was ended by signal 9"), suspected=True)
BROKEN = Crash(Fault("train", "AcceleratorError in training: CUDA error: uncorrectable ECC error encountered"))


class Machine:
    """One GPU of 80 GB, as nvidia-smi tells of it; the test changes what it says."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "nvidia-smi").write_text(
            f'#!/bin/sh\necho x >> {folder}/asked\ncase "$1" in\n'
            f"*utilization*) cat {folder}/busy ;;\n*compute*) cat {folder}/apps ;;\n"
            f"*) [ -s {folder}/gpus ] || {{ echo 'Unable to determine the device handle: GPU is lost'; exit 15; }}\n"
            f"cat {folder}/gpus ;;\nesac\n"
        )
        (folder / "nvidia-smi").chmod(0o755)
        self.says()

    def says(self, used: int = 300, busy: int = 0, app: str = "", lost: bool = False, other: bool = False) -> None:
        """used: MiB of memory; busy: percent; app: who works there."""
        uuid = "GPU-bbbb" if other else GPU
        listed = "" if lost else f"{uuid}, NVIDIA H100 80GB HBM3, 580.1, 81559, {81559 - used}\n"
        for name, text in {
            "busy": f"{GPU}, {busy}\n",
            "apps": f"{GPU}, 77, {app}, {used}\n" if app else "",
            "gpus": listed,
        }.items():
            partial = self.folder / f"{name}.new"
            partial.write_text(text)
            partial.replace(self.folder / name)

    @property
    def asked(self) -> int:
        return len((self.folder / "asked").read_text().splitlines())


@pytest.fixture
def machine(tmp_path, monkeypatch) -> Machine:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    for name, seconds in (("_LOOK", 0.1), ("_MOMENT", 0.1), ("_RETURN", 1.0), ("_LEAVE", 1.0)):
        monkeypatch.setattr(faults, name, seconds)
    return Machine(folder)


class TestBlame:
    def test_a_patchs_own_fault_is_its_own(self, machine):
        assert faults.blame(BUG, GPU) is None
        assert faults.blame(BUG, None) is None
        assert faults.blame(OOM, GPU) is None  # nobody else is there

    def test_a_gpu_that_is_gone_is_certain(self, machine):
        machine.says(lost=True)
        blame = faults.blame(BUG, GPU)
        assert blame and blame.certain
        assert blame.reason.startswith("RuntimeError in training: shapes do not match; nvidia-smi fails: Unable to")
        machine.says(other=True)
        blame = faults.blame(BUG, GPU)
        assert blame and blame.certain and blame.reason.endswith("GPU-aaaa is gone")

    def test_memory_that_somebody_else_has_taken(self, machine):
        machine.says(used=60_000, app="/usr/bin/python3")
        blame = faults.blame(OOM, GPU)
        assert blame and blame.crowded and not blame.certain
        assert blame.reason == "out of GPU memory in training, while python3 has 58.6 GiB of the GPU"
        assert faults.blame(BUG, GPU) is None

    def test_signals_and_hardware_are_suspected(self, machine):
        for crash in (KILLED, BROKEN):
            blame = faults.blame(crash, GPU)
            assert blame == faults.Blame(crash.fault.reason)
        assert faults.blame(KILLED, None) == faults.Blame(KILLED.fault.reason)
        assert faults.blame(BROKEN, None) is None  # where there is no GPU, it is words


class TestWaiting:
    def test_a_free_gpu_costs_one_look(self, machine):
        faults.await_gpu(GPU, None, pytest.fail)
        assert machine.asked == 1
        faults.await_gpu(None, None, pytest.fail)
        assert machine.asked == 1

    def test_somebody_at_work_is_waited_for_and_named(self, machine):
        machine.says(used=20_000, busy=90, app="python3")
        said = []

        def show(*words: str) -> None:
            said.append(words)
            if len(said) == 3:
                machine.says()

        faults.await_gpu(GPU, None, show)
        assert said == [("waiting", "python3 has 19.5 GiB of the GPU")] * 3

    def test_somebody_idle_is_not(self, machine):
        machine.says(used=20_000, busy=3, app="python3")
        faults.await_gpu(GPU, None, pytest.fail)

    def test_but_their_memory_is_where_it_was_missing_for_a_while(self, machine):
        machine.says(used=20_000, app="python3")
        said = []
        began = time.monotonic()
        faults.await_gpu(GPU, None, lambda *words: said.append(words), crowded=True)
        assert said and 0.9 <= time.monotonic() - began < 30

    def test_a_driver_that_comes_back_is_waited_for(self, machine):
        machine.says(lost=True)
        said = []
        faults.await_gpu(GPU, None, lambda *words: (said.append(words), machine.says()))
        assert len(said) == 1 and "GPU is lost" in said[0][1]

    def test_it_may_be_gone_for_long_after_a_long_wait_for_others(self, machine, monkeypatch):
        """What counts is for how long it was gone."""
        clock = SimpleNamespace(now=0.0)
        clock.monotonic, clock.sleep = lambda: clock.now, lambda seconds: setattr(clock, "now", clock.now + seconds)
        monkeypatch.setattr(faults, "time", clock)
        machine.says(used=20_000, busy=90, app="python3")
        said = []

        def show(_: str, why: str) -> None:
            said.append(why)
            machine.says(used=20_000, busy=90, app="python3", lost=clock.now > faults._RETURN)
            if "lost" in why:
                machine.says()

        faults.await_gpu(GPU, None, show)
        assert "python3" in said[0] and "GPU is lost" in said[-1]

    def test_a_driver_that_fails_between_two_questions_is_waited_for(self, machine):
        machine.says(used=20_000, app="python3")
        (machine.folder / "busy").unlink()
        said = []
        faults.await_gpu(GPU, None, lambda *words: (said.append(words), machine.says()))
        assert len(said) == 1

    def test_one_that_does_not_ends_the_run_in_one_line(self, machine):
        machine.says(lost=True)
        with pytest.raises(EngineError) as caught:
            faults.await_gpu(GPU, None, lambda *_: None)
        assert str(caught.value).startswith("nvidia-smi fails: Unable to determine the device handle: GPU is lost, for")
        assert str(caught.value).endswith("Mend the driver, and run again.")

    def test_the_deadline_is_kept(self, machine):
        machine.says(used=20_000, busy=90, app="python3")
        with pytest.raises(DeadlinePassed, match="the run's time is up, and python3 has"):
            faults.await_gpu(GPU, steady.now() + 0.5, lambda *_: None)


class Work:
    """What ends as it is told to, time after time, and then well."""

    def __init__(self, *ends: Crash) -> None:
        self.left, self.done = list(ends), 0

    def __call__(self) -> str:
        self.done += 1
        if self.left:
            raise self.left.pop(0)
        return "a result"


@pytest.fixture
def measuring(machine, engine, trial, tmp_path) -> Measuring:
    """A measurement on the GPU, whose halves are scripted."""
    made = engine()
    (tmp_path / "home").mkdir()
    return Measuring(Site(replace(made._bench, gpu=GPU), made._alive, trial(), lambda _: None), tmp_path / "home")


STOPPED = Crash(Fault("train", "far behind"), "stopped", suspected=True)


@pytest.mark.parametrize(
    ("ends", "tries", "last"),
    [
        ([], 1, None),
        ([BUG], 1, BUG),
        ([KILLED], 2, None),
        ([KILLED, KILLED], 2, KILLED),
        ([BROKEN, BUG], 2, BUG),
        ([STOPPED], 1, STOPPED),
    ],
)
def test_what_may_be_the_machines_fault_is_done_once_more(ends, tries, last, measuring):
    work = Work(*ends)
    if last:
        with pytest.raises(Crash) as caught:
            measuring._persist(work)
        assert caught.value is last
    else:
        assert measuring._persist(work) == "a result"
    assert work.done == tries
    assert measuring._interruptions == [end.fault.reason for end in ends[: tries - 1]]


def test_what_is_done_again_and_waited_for_is_not_in_its_seconds(measuring, machine):
    began = measuring._site.began
    work = Work(KILLED)

    def found(_: Progress) -> None:
        time.sleep(0.5)
        machine.says()

    measuring._site.watch = found

    def slow() -> str:
        time.sleep(0.5)
        machine.says(lost=bool(work.left))
        return work()

    assert measuring._persist(slow) == "a result"
    assert 0.9 <= measuring._site.began - began < time.monotonic() - began - 0.4


def test_a_gpu_that_is_lost_and_found_never_counts(measuring, machine):
    """Three times in a row, and each time it is waited for."""

    def work() -> str:
        if len(measuring._interruptions) == 3:
            return "a result"
        machine.says(lost=True)
        raise BUG

    measuring._site.watch = lambda _: machine.says()
    assert measuring._persist(work) == "a result"
    assert all("GPU is lost" in reason for reason in measuring._interruptions)


# ------------------------------------------------------------------------------------------ killed for real


class Killer:
    """Sends SIGKILL to the process of a name below this one, once it is there and a phase has begun."""

    def __init__(self, engine: LocalEngine, name: str, phase: str) -> None:
        self.engine, self.name, self.phase, self.armed = engine, name, phase, True

    def __call__(self, progress) -> None:
        if progress.phase == self.phase and self.armed:
            self.armed = False
            threading.Thread(target=self.kill, daemon=True).start()

    def kill(self) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            server = psutil.Process(self.engine._server.pid)
            for process in (server, *server.children(recursive=True)):
                with contextlib.suppress(psutil.Error):
                    if process.name() == self.name:
                        process.kill()
                        return
            time.sleep(0.002)


VICTIMS = {
    "the training process": ("research-train", "import", "the training process was ended by signal 9"),
    "the scorer": ("research-score", "score", "the scorer ended with code 137"),
    "a scoring process": ("research-serve", "train", "the scoring process was ended by signal 9"),
    "the fork server": (
        "research-forks",
        "import",
        ("the training process was ended", "the scorer ended with code 137"),
    ),
}


@pytest.mark.parametrize("victim", VICTIMS)
def test_what_is_killed_from_outside_is_done_again(victim, engine, trial, tmp_path):
    name, phase, reason = VICTIMS[victim]
    made = engine()
    honest = made.measure(trial())
    found = made.measure(trial(body("time.sleep(2)")), Killer(made, name, phase))
    assert (found.outcome, found.reason) == ("scored", None)
    assert found.value == pytest.approx(honest.value, rel=1e-5)
    assert len(found.interruptions) == 1 and found.interruptions[0].startswith(reason)
    assert survivors(tmp_path) == []
    assert folders(tmp_path / "scratch") == []


@pytest.mark.parametrize("times", [1, 2])
def test_a_fork_server_that_is_killed_at_its_imports_is_started_once_more(times, own_engine, trial, tmp_path):
    """Twice in a row is no accident, and no patch is to blame."""
    made = own_engine()
    killed = []

    def kill(progress):
        server = made._server
        if len(killed) < times and server.pid not in killed and not server.forks.ready:
            killed.append(server.pid)
            psutil.Process(server.pid).kill()

    if times == 1:
        found = made.measure(trial(), kill)
        assert found.outcome == "scored" and len(found.interruptions) == 1
    else:
        with pytest.raises(EngineError, match=r"^Python cannot be started: it was ended by signal 9\. "):
            made.measure(trial(), kill)
    assert len(killed) == times
    assert survivors(tmp_path) == []


def test_what_is_killed_again_is_the_patchs_own_fault(engine, trial):
    """As with one that takes more memory than there is."""
    itself = engine().measure(trial(body("import os\nos.kill(os.getpid(), 9)")))
    assert (itself.outcome, len(itself.interruptions)) == ("crashed", 1)
    assert "was ended by signal 9 (out of memory?)" in itself.reason


# ------------------------------------------------------------------------------------------ beyond hope


def held(margin: float, spare: bool = False) -> Pace:
    return Pace(tip=(0.5,) * 20, margin=margin, step=8 * 32, bits=1 / math.log(2), spare=spare)


def test_a_training_far_behind_is_stopped_and_says_where_it_was(engine, trial):
    slow = TRAIN.replace("        run.report(loss)\n", "        run.report(loss)\n        time.sleep(0.25)\n")
    found = engine().measure(replace(trial(slow, max_steps=40), pace=held(0.5)))
    assert (found.outcome, found.phase, found.value) == ("stopped", "train", None)
    assert found.condemned == found.reason and "behind the tip at 50% of the clock" in found.reason
    assert 20 <= found.steps < 40
    assert found.tokens == found.steps * 8 * 32 and found.loss and found.seconds["train"] > 1
    spared = engine().measure(replace(trial(slow, max_steps=40), pace=held(0.5, spare=True)))
    assert spared.outcome == "scored" and spared.steps == 40
    assert spared.condemned and "behind the tip" in spared.condemned
    near = engine().measure(replace(trial(slow, max_steps=40), pace=held(9.0)))
    assert (near.outcome, near.condemned) == ("scored", None)
    assert len(near.pace) == 20 and all(loss is not None for loss in near.pace)


def test_one_that_diverges_is_stopped_at_once(engine, trial):
    worse = TRAIN.replace("run.report(loss)", "run.report(loss + 9 * run.progress)\n        time.sleep(0.25)")
    found = engine().measure(trial(worse, max_steps=60))
    assert (found.outcome, found.condemned) == ("stopped", None)
    assert found.reason.startswith("diverged: the loss was")
    assert found.steps < 40
