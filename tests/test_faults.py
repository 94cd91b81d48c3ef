"""What happens to a machine in a night: the run goes on, or stops with one clear line and goes on when it is mended."""

import os
import sqlite3
import subprocess
import threading
import time
from pathlib import Path

import pytest

from autoresearch import ledger as ledgers
from autoresearch import steady
from autoresearch.errors import LedgerError
from autoresearch.ledger import Ledger
from autoresearch.limits import Limits
from autoresearch.workspace import Workspace
from tests.conftest import COMMAND, DISCARDED, KEPT, Done, Lab, recording, reply
from tests.nights import Night

RUN = ("run", "--program", "programs/quick.md", "--experiments", 3)


@pytest.mark.parametrize("jump", [1e7, -1e7], ids=["ahead", "back"])
def test_a_clock_that_jumps_ends_no_night_and_makes_none_longer(
    jump: float, night: Night, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, asked = time.time, []

    def jumping() -> float:
        asked.append(1)
        return real() + jump * (len(asked) // 5 % 2)  # to and fro, all the time

    monkeypatch.setattr(time, "time", jumping)
    night.work(Limits(steady.now() + 3600, len(night.story.expected)))
    assert len(asked) > 20
    night.check()
    night.work(Limits(steady.now() - 1, 99))  # and a deadline is one
    night.check()


def locked(path: Path, seconds: float) -> threading.Thread:
    """Somebody who writes to the ledger, and takes so long; returns when he has begun."""
    begun = threading.Event()

    def hold() -> None:
        with sqlite3.connect(path, isolation_level=None) as other:
            other.execute("BEGIN IMMEDIATE")
            begun.set()
            time.sleep(seconds)
            other.execute("ROLLBACK")

    thread = threading.Thread(target=hold)
    thread.start()
    begun.wait(30)
    return thread


def test_a_ledger_that_is_locked_for_a_while_is_waited_for(night: Night) -> None:
    path = Workspace(night.folder).state / "ledger.db"
    Ledger(path.parent).close()
    other = locked(path, 2.0)
    began = time.monotonic()
    night.work()
    assert time.monotonic() - began > 1.5
    other.join()
    night.check()


def test_one_that_stays_locked_is_said_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledgers, "_PATIENCE", 0.2)
    mine = Ledger(tmp_path)
    other = locked(tmp_path / "ledger.db", 2.0)
    with pytest.raises(LedgerError) as caught:
        mine.enter("t", "search")
    other.join()
    assert "database is locked" in str(caught.value) and "\n" not in str(caught.value)
    assert "other program" in caught.value.remedy


# ------------------------------------------------------------------------------------------ full disks


def on_a_disk_of(size: str, place: Path, lab: Lab, *arguments: object) -> Done:
    """The command where a small disk is mounted on a folder, with what that held."""
    script = (
        'cp -a "$1" "$1.copy" && mount -t tmpfs -o size="$2" none "$1" || exit 77; cp -a "$1.copy/." "$1"; d=$1; '
        'shift 2; "$@"; c=$?; rm -rf "$d.copy"; cp -a "$d" "$d.copy"; umount "$d"; cp -a "$d.copy/." "$d"; exit $c'
    )
    place.mkdir(exist_ok=True)
    command = ["unshare", "--mount", "sh", "-c", script, "sh", place, size, COMMAND, *arguments]
    done = subprocess.run(
        list(map(str, command)), cwd=lab.root, env=lab.environ(), capture_output=True, text=True, timeout=200
    )
    if done.returncode == 77 or "unshare:" in done.stderr:
        pytest.skip("mounting is not permitted here")
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a file system")
@pytest.mark.parametrize("place", ["scratch", "ledger"])
def test_a_disk_that_is_full_stops_a_run_in_a_line_and_it_goes_on_when_there_is_room(place: str, lab: Lab) -> None:
    answers = recording(lab.root / ".git" / "replies.jsonl", KEPT, DISCARDED)
    small = {"scratch": (lab.cache / "scratch", "300k"), "ledger": (lab.ledger.parent, "120k")}[place]
    done = on_a_disk_of(small[1], small[0], lab, *RUN, "--agent", answers)
    assert done.code == 1, done.out
    assert done.err.count("\n") == 1 and "Traceback" not in done.err
    assert "full" in done.err or "No space" in done.err or "cannot be written" in done.err, done.err
    again = lab(*RUN, "--agent", answers)
    assert again.code == 0, again.err
    status = lab("status", "--json").json["experiments"]
    assert (status["total"], status["kept"] + status["discarded"], status["crashed"]) == (3, 3, 0)


FLOOD = """
    import os, time
    file = os.open("flood", os.O_CREAT | os.O_WRONLY)
    {}
    try:
        while os.write(file, bytes(1_000_000)):
            pass
    except OSError:
        time.sleep(100)
    run.start(model)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a file system")
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("os.unlink('flood')", "the disk was full until it was ended"),
        ("pass", "the files it has written take more than"),
    ],
    ids=["without a name", "with a name"],
)
def test_one_that_a_patch_has_filled_is_its_own_fault(name: str, reason: str, lab: Lab) -> None:
    flood = reply(("    run.start(model)", FLOOD.format(name).strip("\n")), title="Fill the disk")
    answers = recording(lab.root / ".git" / "replies.jsonl", flood, KEPT)
    done = on_a_disk_of("200m", lab.cache / "scratch", lab, *RUN, "--agent", answers)
    assert done.code == 0, done.err
    flooding = lab("show", "2", "--json").json
    assert flooding["status"] == "crashed" and flooding["reason"].startswith(reason)
    status = lab("status", "--json").json["experiments"]
    assert (status["total"], status["kept"], status["crashed"]) == (3, 2, 1)
