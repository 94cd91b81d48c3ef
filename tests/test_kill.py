"""A run that is killed at any point goes on from there: nothing is lost, and nothing is counted twice.

Every write to the ledger and every call of git is a point to be killed at. The engine is scripted here, since what is
tested is what the parent does between measurements; tests/test_loop.py kills real ones.
"""

import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from autoresearch import machine
from autoresearch.ledger import Ledger
from autoresearch.workspace import Workspace
from tests.conftest import contents
from tests.nights import Night


class Trap:
    """Kills its process, at once and for good, at the n-th point."""

    def __init__(self, at: int) -> None:
        self.left = at

    def __call__(self) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


class Camera:
    """Copies what is on the disk at every point: what a process that is killed there leaves."""

    def __init__(self, state: Path, copies: Path) -> None:
        self.state, self.copies, self.taken = state, copies, 0

    def __call__(self) -> None:
        self.taken += 1
        shutil.copytree(self.state, self.copies / f"{self.taken:04}")


def in_a_process(action: Callable[[], None]) -> int:
    """The wait status of a process that does it: 0 if it went well, 9 if it was killed."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            action()
            code = 0
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1]


def worked(night: Night, at_each: Callable[[], None]) -> int:
    """The wait status of a process that works and does something at each point: when a transaction has been committed,
    or git called."""
    write, call = Ledger._write, Workspace._git

    @contextmanager
    def writing(self: Ledger) -> Iterator[object]:
        with write(self) as db:
            yield db
        at_each()

    def calling(self: Workspace, *command: str, env: Mapping[str, str] | None = None) -> str:
        result = call(self, *command, env=env)
        at_each()
        return result

    def action() -> None:
        Ledger._write = writing  # type: ignore[method-assign]
        Workspace._git = calling  # type: ignore[method-assign]
        night.work()

    return in_a_process(action)


def test_a_run_killed_at_any_point_ends_as_if_nothing_had_happened(night: Night) -> None:
    state, copies = night.folder / ".git", night.folder.parent / "copies"
    assert worked(night, Camera(state, copies)) == 0
    night.check()
    points = sorted(copies.iterdir())
    assert len(points) > night.story.points
    before = None
    for point in points:
        if (left := contents(point)) == before:
            continue  # git was asked something, and what is on the disk has been gone on from
        before = left
        shutil.rmtree(state)
        point.rename(state)
        assert in_a_process(night.work) == 0, f"after point {point.name}"
        night.check()


def test_a_run_killed_again_and_again_still_ends(night: Night) -> None:
    kills = 0
    for point in [3, 9, 14, 11, 17, 23, 12, 19, 13, 16, 21, 15] * 5:
        status = worked(night, Trap(point))
        if status == 0:
            break
        assert status == signal.SIGKILL
        kills += 1
    assert kills >= 5
    assert in_a_process(night.work) == 0
    night.check()


def test_what_a_keep_leaves_is_on_the_disk_before_the_ledger_says_so(
    night: Night, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a power cut could leave a tip whose caches are half there, and each experiment on it would crash."""
    synced: list[tuple[int, str] | None] = []

    def sync(place: Path) -> None:
        ledger = Ledger(place, create=False)
        waiting = ledger.unfinished("night")
        synced.append((waiting.number, waiting.stage) if waiting else None)
        ledger.close()

    monkeypatch.setattr(machine, "sync", sync)
    night.work()
    kept = [number for number, status, *_ in night.story.expected if status == "kept"]
    assert [at for at in synced if at] == [(number, "running") for number in kept]
    assert synced.count(None) == sum(purposes.count("noise") for purposes in night.story.again.values())
