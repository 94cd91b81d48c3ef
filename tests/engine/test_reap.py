"""SIGKILL of the process that runs experiments, in each phase: nothing stays behind."""

import os
import pickle
import subprocess
import sys
import time

import psutil
import pytest

from autoresearch.engine import children
from autoresearch.forks import MARKER
from tests.engine.conftest import TRAIN
from tests.engine.test_local import body, survivors

PARENT = """
import os, pickle, sys
from pathlib import Path
from autoresearch.engine.local import LocalEngine
from autoresearch.engine.sandbox import choose
trial = pickle.loads(Path(sys.argv[1]).read_bytes())
LocalEngine(Path(sys.argv[2]), os.environ, "run", "cpu", sandbox=choose(sys.argv[3], os.environ)).measure(trial)
"""

STALL = "open('flag', 'w').close(), time.sleep(600)"
PHASES = {
    "import": TRAIN.replace("VOCAB_SIZE = 256", f"{STALL}\nVOCAB_SIZE = 256"),
    "warmup": body(STALL),
    "train": TRAIN.replace("run.report(loss)", STALL),
    "score": TRAIN.replace(
        "return self.table", f"torch.is_inference_mode_enabled() and ({STALL})\n        return self.table"
    ),
}


def wait_until(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.02)


def alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize(
    ("phase", "sandbox"),
    [("import", "auto"), ("warmup", "off"), ("train", "auto"), ("score", "auto"), ("score", "off")],
)
def test_kill_of_the_parent_takes_everything_with_it(phase, sandbox, trial, tmp_path):
    (tmp_path / "trial").write_bytes(pickle.dumps(trial(PHASES[phase])))
    command = [sys.executable, "-c", PARENT, str(tmp_path / "trial"), str(tmp_path / "scratch"), sandbox]
    parent = subprocess.Popen(command)
    wait_until(lambda: list((tmp_path / "scratch").rglob("flag")))
    working = survivors(tmp_path, servers=True)
    assert len(working) >= 3  # the worker, its supervisor and their server
    parent.kill()
    parent.wait()
    wait_until(lambda: not any(map(alive, working)) and not survivors(tmp_path, servers=True), 20)
    assert list((tmp_path / "scratch" / "run").iterdir())  # files are left ...
    assert children.reap(tmp_path / "scratch" / "run") == 0
    assert list((tmp_path / "scratch" / "run").iterdir()) == []  # ... until the next start


def sleeper(home) -> subprocess.Popen:
    process = subprocess.Popen(["sleep", "600"], env={**os.environ, MARKER: str(home)}, start_new_session=True)
    wait_until(lambda: MARKER in psutil.Process(process.pid).environ(), 20)  # a moment later, on a busy machine
    return process


def test_reaping_finds_what_outlived_its_supervisor(tmp_path):
    """All that is known of the sleeper is its mark; its measurement's owner is gone."""
    home = tmp_path / "measurement-1-1"
    home.mkdir()
    dead = subprocess.Popen(["true"])
    dead.wait()
    record = f'{{"boot": "{children._boot_id()}", "processes": [[{dead.pid}, 1.0]]}}'
    (home / "children.json").write_text(record)
    left = sleeper(home)
    other = sleeper(tmp_path / "measurement-1-2")
    try:
        assert children.reap(tmp_path) == 1
        left.wait(60)
        assert other.poll() is None  # another measurement's
        assert not home.exists()
    finally:
        for process in (left, other):
            process.kill()
            process.wait()


def test_reaping_spares_a_measurement_under_way(tmp_path):
    with children.home_for(tmp_path) as home:
        running = sleeper(home)
        assert children.reap(tmp_path) == 0
        assert home.exists()
        assert running.poll() is None
    running.wait(60)  # but its end is the sleeper's


def test_a_reused_process_id_is_not_mistaken(tmp_path):
    home = tmp_path / "measurement-1-1"
    home.mkdir()
    me = psutil.Process()
    record = f'{{"boot": "{children._boot_id()}", "processes": [[1, 1.0], [{me.pid}, {me.create_time() - 500}]]}}'
    (home / "children.json").write_text(record)
    assert children.reap(tmp_path) == 0  # and we are still here
