"""When the processes of scoring begin: beside the warm-up, where a sandbox parts them from training."""

import os
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from autoresearch.engine import faults, measuring
from autoresearch.engine.sandbox import OFF, choose
from autoresearch.engine.scoring import Scoring
from autoresearch.engine.site import Crash
from autoresearch.engine.training import Training
from autoresearch.tasks import Fault
from tests.engine.conftest import TRAIN, kept

full = pytest.mark.skipif(choose("auto", os.environ).missing != (), reason="this machine has no whole sandbox")
NOSY = (
    TRAIN.replace("def main(run):", "import glob, os\n\n\ndef main(run):").replace(
        "    run.save(model)",
        "    place = os.environ['TORCHINDUCTOR_CACHE_DIR'].replace('/train/', '/score/')\n"
        "    print('SEEN', os.path.exists(place + '/told'), flush=True)\n"
        "    run.save(model)",
    )
    + "import os\n"
    "if os.path.exists('../weights/weights.safetensors'):\n"
    "    os.makedirs(os.environ['TORCHINDUCTOR_CACHE_DIR'], exist_ok=True)\n"
    "    open(os.environ['TORCHINDUCTOR_CACHE_DIR'] + '/told', 'w').close()\n"
)


@pytest.fixture
def began(monkeypatch) -> list[bool]:
    """Whether the training was still to come to its end, each time that processes of scoring began."""
    seen: list[bool] = []
    begin = Scoring._begin

    def _begin(self: Scoring):
        seen.append(bool(self._site._homes))
        return begin(self)

    monkeypatch.setattr(Scoring, "_begin", _begin)
    return seen


@full
def test_scoring_gets_ready_beside_the_warm_up(engine, trial, began):
    """The clock, whose phases are what the watch is told, starts when it is."""
    own, names = engine(), []

    def watch(progress):
        if progress.phase == "train" and progress.point:
            names.extend(process.name() for process in psutil.Process(own._server.pid).children(recursive=True))

    slow = TRAIN.replace("run.report(loss)", "time.sleep(0.2), run.report(loss)")
    assert own.measure(trial(slow), watch).outcome == "scored"
    assert began == [True]
    assert {"research-train", "research-score", "research-serve"} <= set(names)


def test_and_not_where_training_could_meddle(engine, trial, began):
    assert engine(sandbox=OFF).measure(trial()).outcome == "scored"
    assert began == [False]


@full
@pytest.mark.parametrize("confined", [True, False])
def test_what_it_waits_for_is_no_training(confined, engine, trial, monkeypatch):
    """A rehearsal that takes its time is no time of training, nor is it taken from the budget."""
    slow = TRAIN + "\nif os.path.basename(os.getcwd()).startswith('open-'): time.sleep(10)\n"
    monkeypatch.setattr("autoresearch.engine.training._LAST_STEP", 8.0)  # a busy machine's is longer
    found = engine(sandbox="auto" if confined else OFF).measure(trial("import os\n" + slow, budget=1.0, max_steps=None))
    assert (found.outcome, found.reason) == ("scored", None)
    assert 1.0 <= found.seconds["train"] < 9.0


@pytest.mark.parametrize("confined", [pytest.param(True, marks=full), False])
def test_a_rehearsal_without_end_is_a_start_up_that_is_too_long(confined, engine, trial):
    endless = TRAIN + "\nif os.path.basename(os.getcwd()).startswith('open-'): time.sleep(600)\n"
    own = engine(sandbox="auto" if confined else OFF, score_limit=3.0)
    found = own.measure(trial("import os\n" + endless, startup_limit=3.0))
    assert found.outcome == "crashed"
    slow = ("getting ready to score", "scoring", "start-up")  # the last on a machine that is busy
    assert found.reason in [f"{what} took longer than 3 s" for what in slow]


@pytest.mark.parametrize(
    ("memory", "limit", "room"), [(24e9, 21e9, 3e9), (24e9, 23e9, None), (24e9, None, None), (24e9, 25e9, None)]
)
def test_on_a_gpu_there_has_to_be_room_for_it(memory, limit, room, engine, trial, monkeypatch):
    asked: list[object] = []
    monkeypatch.setattr(Training, "run", lambda self, others_ready: asked.append(others_ready))
    own = engine()
    bench = replace(own._bench, gpu="GPU-1", memory=int(memory), sandbox="full")
    job = trial(memory_limit=limit and int(limit))
    site = measuring.Site(bench, lambda: own._server, job, lambda _: None)
    home = Path(job.logs)
    one = measuring.Measuring(site, home)
    one._trained(Scoring(site, one._room))
    assert [others_ready is not None for others_ready in asked] == [room is not None]
    assert one._room == room


@full
def test_where_there_is_too_little_room_it_begins_when_the_training_has_ended(engine, trial, monkeypatch):
    monkeypatch.setattr(measuring, "Scoring", lambda site, room: Scoring(site, 10**9))
    own = engine()
    own.measure(trial())  # so that nothing is imported any more
    until = time.time() + 4
    full_until = (
        f"        if time.time() < {until} and os.path.basename(os.getcwd())[:5] == 'open-': raise MemoryError\n"
    )
    source = TRAIN.replace("run.report(loss)", "time.sleep(0.25), run.report(loss)").replace(
        "        return self.table[tokens]", full_until + "        return self.table[tokens]"
    )
    measured = own.measure(trial("import os, time\n" + source))
    assert measured.outcome == "scored", measured.reason
    assert measured.seconds["train"] > 4


def test_what_an_open_process_leaves_is_not_told_to_a_training_by_its_name(engine, trial, tmp_path):
    """Files of other processes cannot be opened, but asked for."""
    first, one = kept(tmp_path / "first"), engine()
    assert one.measure(replace(trial(NOSY), keep=first)).outcome == "scored"
    assert one.measure(replace(trial(NOSY), tip=first)).outcome == "scored"
    assert (tmp_path / "logs" / "train.log").read_text().count("SEEN False") == 1


def test_nor_what_a_killed_measurement_has_left(engine, trial, tmp_path):
    own = engine()
    left = own._bench.compiled / "score" / "inductor"
    left.mkdir(parents=True)
    (left / "told").touch()
    assert own.measure(trial(NOSY)).outcome == "scored"
    assert (tmp_path / "logs" / "train.log").read_text().count("SEEN False") == 1


@full
def test_no_scorer_waits_while_a_training_is_done_again(engine, trial, began, monkeypatch):
    """It would be on the GPU when it is asked who is to blame."""
    own, scorers, train, blame = engine(), [], Training.run, faults.blame

    def scoring() -> bool:
        below = psutil.Process(own._server.pid).children(recursive=True)
        return "research-score" in [process.name() for process in below]

    def run(self, others_ready):
        scorers.append(scoring())
        result = train(self, others_ready)
        if len(scorers) == 1:
            scorers.append(scoring())
            raise Crash(Fault("save", "it was killed"), suspected=True)
        return result

    monkeypatch.setattr(Training, "run", run)
    monkeypatch.setattr(faults, "blame", lambda *args: (scorers.append(scoring()), blame(*args))[1])
    measured = own.measure(trial())
    assert (measured.outcome, measured.interruptions) == ("scored", ("it was killed",))
    assert scorers == [False, True, False, False]
    assert began == [True, True]


@full
def test_a_training_that_fails_ends_the_scorer_too(engine, trial, began):
    own = engine()
    measured = own.measure(trial(TRAIN + "    raise ValueError('late')\n"))
    assert (measured.outcome, measured.phase) == ("crashed", "save")
    assert began == [True]
    assert psutil.Process(own._server.pid).children(recursive=True) == []


@full
def test_files_without_end_of_a_rehearsal_are_a_crash(engine, trial, monkeypatch):
    monkeypatch.setattr("autoresearch.engine.site._DISK", 10**8)
    code = (
        "import os\n"
        "if os.path.basename(os.getcwd()).startswith('open-'):\n"
        "    open('f', 'wb').write(bytes(2 * 10**8))\n"
    )
    found = engine().measure(trial(TRAIN.replace("run.report(loss)", "time.sleep(0.2), run.report(loss)") + code))
    assert found.outcome == "crashed"
    assert "files it has written take more than" in found.reason
