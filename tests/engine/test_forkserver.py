"""An engine and its fork server: one after another, if need be, and none left behind."""

import contextlib
import errno
import os
import time
from pathlib import Path

import psutil
import pytest

from autoresearch.engine.begun import Begun
from autoresearch.engine.sandbox import OFF
from autoresearch.errors import EngineError
from autoresearch.forks import order
from tests.engine.test_local import body, folders, survivors

KILL = "import psutil, time\npsutil.Process().parent().parent().kill()\ntime.sleep(600)"


@pytest.fixture
def engine(own_engine):
    return own_engine


def servers(tmp_path) -> list[psutil.Process]:
    return [process for process in survivors(tmp_path, servers=True) if process.name() == "research-forks"]


def test_a_candidate_that_kills_the_server_has_crashed_and_the_next_is_measured(engine, trial, tmp_path):
    engine = engine(sandbox=OFF)
    killed = engine.measure(trial(body(KILL)))
    assert (killed.outcome, killed.phase) == ("crashed", "warmup")
    assert "was ended by signal 9" in killed.reason
    assert survivors(tmp_path, servers=True) == []
    assert folders(tmp_path / "scratch") == []
    assert engine.measure(trial()).outcome == "scored"


def test_a_server_that_was_killed_between_measurements_is_nobodys_crash(engine, trial, tmp_path):
    engine = engine()
    while not (found := survivors(tmp_path, servers=True)):
        time.sleep(0.01)  # its environment shows a moment after its start
    (server,) = found
    server.kill()
    server.wait()
    assert engine.measure(trial()).outcome == "scored"


def test_a_scoring_that_kills_its_servers_is_a_crash(engine, trial, tmp_path):
    source = body("pass").replace(
        "return self.table[tokens]",
        "import psutil\n"
        "        if torch.is_inference_mode_enabled(): psutil.Process().parent().parent().kill(), time.sleep(600)\n"
        "        return self.table[tokens]",
    )
    engine = engine(sandbox=OFF)
    measurement = engine.measure(trial(source))
    assert (measurement.outcome, measurement.phase, measurement.value) == ("crashed", "score", None)
    assert survivors(tmp_path) == []
    assert len(servers(tmp_path)) == 1  # it was the judge's that was killed


def test_one_server_serves_all_measurements_and_goes_with_its_engine(engine, trial, tmp_path):
    engine = engine()
    assert engine.measure(trial()).outcome == "scored"
    (server,) = servers(tmp_path)
    assert engine.measure(trial()).outcome == "scored"
    assert servers(tmp_path) == [server]
    del engine
    assert survivors(tmp_path, servers=True) == []
    assert list((tmp_path / "scratch" / "run").iterdir()) == []


def test_what_had_begun_before_is_the_server_and_not_another(engine, trial, tmp_path):
    begun = Begun({**os.environ, "OMP_NUM_THREADS": "1"})
    engine = engine(begun=begun)
    assert engine.measure(trial()).outcome == "scored"
    assert [process.pid for process in servers(tmp_path)] == [begun.process.pid]
    engine.close()
    assert begun.process.returncode is not None
    assert survivors(tmp_path, servers=True) == []


def test_what_has_begun_for_nothing_goes_when_it_is_let_go_of():
    begun = Begun(os.environ)
    process = begun.process
    del begun
    assert process.returncode is not None


def test_what_has_begun_leaves_no_file_anywhere(tmp_path):
    """As torch does where it finds no folder for what it compiles."""
    with contextlib.closing(Begun({**os.environ, "TMPDIR": str(tmp_path)})) as begun:
        begun.tell(order({}, Path("/"), ("cpu", "")))
        begun.tell("")
        while not begun.forks.ready:
            assert begun.forks.alive()
            begun.forks.wait(1.0)
    assert list(tmp_path.iterdir()) == []


def test_what_has_begun_goes_if_there_is_no_folder_for_it(engine, tmp_path):
    (tmp_path / "scratch").write_text("a file")
    begun = Begun(os.environ)
    with pytest.raises(EngineError, match="scratch/run cannot be written"):
        engine(begun=begun)
    assert begun.process.returncode is not None


def test_a_full_disk_is_said_at_the_start_and_nothing_is_left(engine, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(EngineError, match=r"No space left on device"):
        engine()
    assert list((tmp_path / "scratch" / "run").iterdir()) == []
    assert survivors(tmp_path, servers=True) == []


def test_python_that_cannot_be_started_is_no_candidates_fault(engine, trial, tmp_path, monkeypatch):
    (tmp_path / "torch.py").write_text("raise ImportError('libcudart.so is missing')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(EngineError, match=r"Python cannot be started: ImportError: libcudart.so is missing"):
        engine().measure(trial())
