"""The loop with everything real: git, processes, a tiny training. Killed where a user's machine would kill it."""

import contextlib
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.conftest import CHEAP, DISCARDED, FAILED, KEPT, Lab, recording
from tests.kills.seen import left_running, nothing_left

PATIENCE = 120.0  # seconds for what is waited for to happen, on a busy machine
RUN = ("run", "--program", "programs/long.md", "--experiments", 3)


def until(look: Callable[[], object], process: subprocess.Popen[str]) -> None:
    """Returns as soon as `look` finds something; the process must be alive until then."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if look():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    raise AssertionError("it never happened")


def children(process: subprocess.Popen[str], task: str) -> list[psutil.Process]:
    """Processes below `process` that work on a task: train, score or serve."""
    try:
        below = psutil.Process(process.pid).children(recursive=True)
        return [child for child in below if child.name() == f"research-{task}"]
    except psutil.Error:
        return []


def measured(lab: Lab) -> dict[int, tuple[str, str, int]]:
    """Of each experiment: stage, status and how many measurements are finished."""
    with sqlite3.connect(lab.ledger) as db:
        if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'experiments'").fetchone():
            return {}  # it is just being made
        rows = db.execute(
            "SELECT number, stage, status, (SELECT COUNT(*) FROM measurements m WHERE m.tag = e.tag"
            " AND m.number = e.number AND m.ended IS NOT NULL) FROM experiments e ORDER BY number"
        )
        return {number: (stage, status, count) for number, stage, status, count in rows}


@pytest.fixture
def own(lab: Lab, tmp_path: Path) -> Lab:
    """A lab with a cache of its own, so that its processes are told from others', and a program that trains a while."""
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "corpora").symlink_to(lab.cache / "corpora")
    mine = lab.at(lab.root, AUTORESEARCH_CACHE=str(cache))
    mine = Lab(mine.root, mine.home, cache, mine.env)
    text = lab.program.read_text().replace("max_steps: 2\n", "max_steps: 100\n")
    (lab.root / "programs" / "long.md").write_text(text)
    return mine


def test_killed_with_its_parent_while_it_works_a_run_goes_on(own: Lab) -> None:
    answers = recording(own.root / ".git" / "replies.jsonl", KEPT, CHEAP)
    command = (*RUN, "--agent", answers)
    for phase in ("train", "score", "serve"):
        process = own.start(*command)
        until(lambda process=process, phase=phase: children(process, phase), process)
        process.kill()
        process.communicate()
        assert nothing_left(own), left_running(own)
        assert measured(own) == {1: ("running", "running", 0)}

    done = own(*command)
    assert done.code == 0, done.err
    found = measured(own)
    assert found.pop(2) in [("done", status, 1) for status in ("kept", "discarded", "stopped")]  # as fast as it was
    assert found == {1: ("done", "kept", 1), 3: ("done", "crashed", 1)}
    assert not left_running(own)
    assert not list((own.cache / "scratch").glob("*/measurement-*"))


@pytest.mark.usefixtures("late")
def test_killed_while_its_agent_thinks_a_run_asks_again(baseline: Lab, tmp_path: Path) -> None:
    own = baseline.copy(tmp_path / "own")
    asked, answer = tmp_path / "asked", tmp_path / "answer"
    answer.write_text(CHEAP)
    script = tmp_path / "agent.sh"
    script.write_text(
        f'#!/bin/sh\ncat > /dev/null\necho x >> "{asked}"\n[ $(wc -l < "{asked}") -gt 1 ] || sleep 600\n'
        f'cat "{answer}"\n'
    )
    script.chmod(0o755)
    command = ("run", "--program", "programs/quick.md", "--experiments", 2, "--agent", f"command:{script}")
    process = own.start(*command)
    until(asked.exists, process)
    process.kill()
    process.communicate()
    own_agents = [p for p in psutil.process_iter(["cmdline"]) if str(script) in " ".join(p.info["cmdline"] or [])]
    psutil.wait_procs(own_agents, timeout=20)
    assert not any(p.is_running() for p in own_agents)
    assert measured(own) == {1: ("done", "kept", 1), 2: ("proposing", "running", 0)}

    assert own(*command).code == 0
    assert measured(own) == {1: ("done", "kept", 1), 2: ("done", "crashed", 1)}


def test_a_child_killed_from_outside_does_not_count_against_its_patch(own: Lab) -> None:
    """The baseline first, then an experiment whose child is killed: it is measured once more, and the run goes on."""
    neutral, other = (DISCARDED.replace("0.02", "0.0005").replace("0.0001", rate) for rate in ("0.0001", "0.0002"))
    answers = recording(own.root / ".git" / "replies.jsonl", neutral, other, CHEAP)
    process = own.start(*RUN[:-1], 4, "--agent", answers)
    killed = {"train": "the training process was ended by signal 9", "score": "the scorer ended with code 137"}
    for number, task in enumerate(killed, 2):
        until(lambda n=number: own.ledger.exists() and measured(own).get(n, ("",))[0] == "running", process)
        until(lambda t=task: children(process, t), process)
        for child in children(process, task):
            with contextlib.suppress(psutil.NoSuchProcess):  # it went with the one before
                child.send_signal(signal.SIGKILL)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    found = measured(own)
    for number, task in enumerate(killed, 2):
        assert found[number][0] == "done" and found[number][1] in ("kept", "discarded") and found[number][2] == 1
        assert killed[task] in own("show", number).out.replace("\n", " ")
    assert found[4] == ("done", "crashed", 1)
    assert not left_running(own)


@pytest.mark.usefixtures("late")
def test_a_deadline_is_kept(own: Lab) -> None:
    """An experiment that cannot finish is not started, and what runs at the deadline waits for the next start."""
    done = own(*RUN, "--hours", 0.0001)
    assert done.code == 0, done.err
    assert "left" in done.out
    assert measured(own) == {}


def test_a_try_that_was_interrupted_is_finished_and_not_run_twice(own: Lab) -> None:
    text = own.train_core.read_text()
    own.train_core.write_text(text.replace("FINAL_LR = 0.05", "FINAL_LR = 0.1"))
    command = ("try", "--program", "programs/long.md", "-m", "a higher end")
    process = own.start(*command)
    until(lambda: own.ledger.exists() and measured(own).get(2, ("",))[0] == "running", process)
    process.send_signal(signal.SIGINT)
    assert "The same command again" in "".join(process.communicate(timeout=PATIENCE))
    assert process.returncode == 130

    done = own(*command)
    assert done.code == 0, done.err
    found = measured(own)
    assert sorted(found) == [1, 2] and found[2][0] == "done" and found[2][2] == 1


@pytest.mark.usefixtures("late")
def test_an_agent_that_never_makes_a_patch_is_not_asked_for_ever(ran: Lab) -> None:
    """The run in `ran` has used seven replies of its recording."""
    answers = recording(ran.root / ".git" / "replies.jsonl", *[FAILED] * 60)
    done = ran("run", "--program", "programs/quick.md", "--experiments", 50, "--agent", answers)
    assert done.code == 1
    assert "the last 5 proposals had no patch that applies" in done.err and done.err.count("\n") == 1
    assert [status for _, status, _ in measured(ran).values()][5:] == ["failed"] * 5
    assert ran("status", "--json").json["state"] == "interrupted"
