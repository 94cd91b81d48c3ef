"""When the processes of scoring begin: while weights are saved, where a sandbox parts them from whoever saves them."""

import os
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
from tests.engine.test_caches import packed

full = pytest.mark.skipif(choose("auto", os.environ).missing != (), reason="this machine has no whole sandbox")
SLOW = TRAIN + "    import time\n    time.sleep(1)\n"  # to save
NOSY = (
    TRAIN.replace("def main(run):", "import glob, os\n\n\ndef main(run):").replace(
        "    run.save(model)",
        "    import time\n"
        "    time.sleep(1)  # in which scoring gets ready\n"
        "    place = os.environ['TORCHINDUCTOR_CACHE_DIR'].replace('/train/', '/score/')\n"
        "    print('SEEN', os.path.exists(place + '/told'), flush=True)\n"
        "    run.save(model)",
    )
    + "import os\n"
    "if os.path.basename(os.getcwd()).startswith('open-'):\n"
    "    os.makedirs(os.environ['TORCHINDUCTOR_CACHE_DIR'], exist_ok=True)\n"
    "    open(os.environ['TORCHINDUCTOR_CACHE_DIR'] + '/told', 'w').close()\n"
)


@pytest.fixture
def began(monkeypatch) -> list[bool]:
    """Whether the training was still there, each time that processes of scoring began."""
    seen: list[bool] = []
    begin = Scoring.get_ready

    def get_ready(self: Scoring) -> None:
        seen.append("train.log" not in self._site.logs)
        begin(self)

    monkeypatch.setattr(Scoring, "get_ready", get_ready)
    return seen


@full
def test_scoring_gets_ready_while_weights_are_saved(engine, trial, began):
    assert engine().measure(trial(SLOW)).outcome == "scored"
    assert began == [True]


def test_and_not_where_whoever_saves_them_could_meddle(engine, trial, began):
    assert engine(sandbox=OFF).measure(trial(SLOW)).outcome == "scored"
    assert began == [False]


@pytest.mark.parametrize(("memory", "limit", "ready"), [(24e9, 21e9, True), (24e9, 23e9, False), (24e9, None, False)])
def test_on_a_gpu_there_has_to_be_room_for_it(memory, limit, ready, engine, trial, monkeypatch):
    asked: list[object] = []
    monkeypatch.setattr(Training, "run", lambda self, on_end: asked.append(on_end))
    own = engine()
    bench = replace(own._bench, gpu="GPU-1", memory=int(memory), sandbox="full")
    job = trial(memory_limit=limit and int(limit))
    site = measuring.Site(bench, lambda: own._server, job, lambda _: None)
    home = Path(job.logs)
    measuring.Measuring(site, home)._trained(Scoring(site))
    assert [on_end is not None for on_end in asked] == [ready]


@full
def test_what_an_open_process_has_left_is_not_told_to_a_training_by_its_name(engine, trial, tmp_path):
    """Files of other processes cannot be opened, but asked for."""
    first, one = kept(tmp_path / "first"), engine()
    assert one.measure(replace(trial(NOSY), keep=first)).outcome == "scored"
    assert packed(first.open_cache) == ["inductor/told"]
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
    """It would be on the GPU when it is asked who is to blame, and while the clock runs."""
    own, scorers, train, blame = engine(), [], Training.run, faults.blame

    def names() -> list[str]:
        return [process.name() for process in psutil.Process(own._server.pid).children(recursive=True)]

    def run(self, on_end):
        scorers.append(names().count("research-score"))
        result = train(self, on_end)
        if len(scorers) == 1:
            scorers.append(names().count("research-score"))
            raise Crash(Fault("save", "it was killed"), killed=True)
        return result

    monkeypatch.setattr(Training, "run", run)
    monkeypatch.setattr(
        faults, "blame", lambda *args: (scorers.append(names().count("research-score")), blame(*args))[1]
    )
    measured = own.measure(trial(SLOW))
    assert (measured.outcome, measured.interruptions) == ("scored", ("it was killed",))
    before, waiting, blamed, again = scorers
    assert (before, waiting > 0, blamed, again) == (0, True, 0, 0)
    assert len(began) == 2


@full
def test_a_training_that_fails_while_scoring_is_ready_ends_that_too(engine, trial, began):
    own = engine()
    failing = SLOW + "    raise ValueError('late')\n"
    measured = own.measure(trial(failing))
    assert (measured.outcome, measured.phase) == ("crashed", "save")
    assert began == [True]
    assert psutil.Process(own._server.pid).children(recursive=True) == []
