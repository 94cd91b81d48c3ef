"""Two measurements never share a device."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from autoresearch.errors import DeadlinePassed
from tests.engine.test_local import folders

HOLD = """
import sys, time
from pathlib import Path
from autoresearch.engine.turn import turn
with turn(Path(sys.argv[1]), None, print):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that has its turn on this device."""
    lock = tmp_path / "scratch" / "device-cpu.lock"
    command = [sys.executable, "-c", HOLD, str(lock)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_measurement_waits_for_the_device_and_says_so(engine, trial, holder):
    seen = []

    def watch(progress):
        seen.append(progress)
        if len(seen) == 2:
            holder.kill()  # what dies gives its turn up

    measurement = engine().measure(trial(), watch)
    assert measurement.outcome == "scored"
    assert [p.phase for p in seen[:2]] == ["waiting", "waiting"]
    assert seen[1].seconds - seen[0].seconds > 0.4
    assert measurement.steps == 20


def test_two_at_once_are_one_after_the_other(engine, trial):
    spans = []

    def measure():
        began = []
        engine().measure(trial(), lambda p: began.append(time.monotonic()) if p.phase == "import" else None)
        spans.append((began[0], time.monotonic()))

    threads = [threading.Thread(target=measure) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    first, second = sorted(spans)
    assert first[1] <= second[0] + 0.5  # the first ends within what was done after its lock was given back


def test_waiting_ends_at_the_deadline(engine, trial, holder, tmp_path):
    with pytest.raises(DeadlinePassed):
        engine().measure(trial(deadline=time.time() + 1))
    assert folders(tmp_path / "scratch") == []


def test_waiting_is_interrupted(engine, trial, holder, tmp_path):
    def interrupt(progress):
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        engine().measure(trial(), interrupt)
    assert folders(tmp_path / "scratch") == []
