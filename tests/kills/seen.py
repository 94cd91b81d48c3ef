"""What is seen of a run from outside: its processes, its experiments, and what it is at."""

import json
import os
import sqlite3
import time
from contextlib import closing, suppress
from dataclasses import dataclass

import psutil

from tests.conftest import Lab

PARENT = "autoresearch"
CTRL_C = "autoresearch, by Ctrl-C"
TRAINER, TRAIN_SUPERVISOR = "training process", "supervisor of training"
JUDGE, JUDGE_SUPERVISOR = "judge", "supervisor of the judge"
SERVER, SERVE_SUPERVISOR = "serving process", "supervisor of serving"
FORKS, JUDGE_FORKS = "fork server", "the judge's fork server"
NAMESPACE = "first process of a namespace"
CHILDREN = (TRAINER, JUDGE, SERVER, FORKS, TRAIN_SUPERVISOR, JUDGE_SUPERVISOR, SERVE_SUPERVISOR, JUDGE_FORKS, NAMESPACE)


def left_running(lab: Lab) -> list[str]:
    """Processes that belong to this lab, by its folders in their command line or environment."""
    found = []
    for process in psutil.process_iter():
        try:
            command, where = process.cmdline(), process.environ().values()
        except psutil.Error:
            continue
        if process.pid != os.getpid() and any(
            str(lab.cache) in text or str(lab.root) in text for text in (*command, *where)
        ):
            found.append(" ".join(command))
    return found


def nothing_left(lab: Lab) -> bool:
    """Whether all processes of a killed run go by themselves, within a few seconds."""
    deadline = time.monotonic() + 20
    while left_running(lab) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not left_running(lab)


def below(parent: int) -> dict[str, list[psutil.Process]]:
    """The processes below a run, by what they are."""
    names: dict[int, str] = {}
    above: dict[int, int] = {}
    processes: list[psutil.Process] = []
    with suppress(psutil.Error):
        processes = psutil.Process(parent).children(recursive=True)
    for process in processes:
        with suppress(psutil.Error):
            names[process.pid], above[process.pid] = process.name(), process.ppid()
            if above[process.pid] == parent and "autoresearch.harness.child" in process.cmdline():
                names[process.pid] = "research-forks"  # still at its imports
    found: dict[str, list[psutil.Process]] = {}
    for process in processes:
        if kind := _kind(process.pid, names, above):
            found.setdefault(kind, []).append(process)
    return found


def _kind(pid: int, names: dict[int, str], above: dict[int, int]) -> str | None:
    name, over = names.get(pid), names.get(above.get(pid, 0), "")
    if name == "research-forks":
        return JUDGE_FORKS if over == "research-score" else FORKS
    if name not in ("research-train", "research-score", "research-serve"):
        return None
    kinds = {
        "research-train": (TRAIN_SUPERVISOR, TRAINER),
        "research-score": (JUDGE_SUPERVISOR, JUDGE),
        "research-serve": (SERVE_SUPERVISOR, SERVER),
    }[name]
    if over != name:
        return kinds[0]
    # The judge's fork server has its name for a moment; what is below a process of the same name is the worker.
    return NAMESPACE if any(names[child] == name for child, up in above.items() if up == pid) else kinds[1]


@dataclass(frozen=True)
class Row:
    """An experiment."""

    number: int
    stage: str
    status: str
    standing: str | None
    title: str
    commit: str | None
    parent: str | None
    value: float | None
    firsts: tuple[float | None, ...]  # values of finished measurements that were to decide about it

    @property
    def holds(self) -> bool:
        return self.status == "kept" and self.standing != "rolled_back"

    @property
    def fixed(self) -> tuple[object, ...]:
        """What no restart may change once it is done."""
        return self.status, self.title, self.commit, self.parent, self.value, self.firsts


def rows(lab: Lab) -> list[Row]:
    """All experiments, oldest first; none before there is a ledger."""
    with suppress(sqlite3.OperationalError), closing(opened(lab)) as db:  # it is just being made
        firsts: dict[int, list[float | None]] = {}
        query = "SELECT number, value FROM measurements WHERE purpose = 'first' AND ended IS NOT NULL ORDER BY id"
        for number, value in db.execute(query):
            firsts.setdefault(number, []).append(value)
        query = (
            "SELECT number, stage, status, standing, title, commit_id, parent, value FROM experiments ORDER BY number"
        )
        return [Row(*(*found, tuple(firsts.get(found[0], ())))) for found in db.execute(query)]
    return []


def opened(lab: Lab) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{lab.ledger}?mode=ro", uri=True, timeout=30)


def where(lab: Lab, alive: dict[str, list[psutil.Process]]) -> str:
    """What a run is at: the stage of its experiment, or what is measured again; and how far a measurement is."""
    found = rows(lab)
    at = next((row.stage for row in found if row.stage != "done"), None)
    if at not in (None, "running"):
        return str(at)
    if at is None:
        with suppress(sqlite3.OperationalError), closing(opened(lab)) as db:
            begun = db.execute("SELECT purpose FROM measurements WHERE ended IS NULL").fetchone()
            at = begun[0] if begun else None
    phase = _phase(lab, alive)
    if at is None or FORKS not in alive:
        return "between two" if FORKS in alive else "start"
    return "/".join(filter(None, (at, phase)))


def _phase(lab: Lab, alive: dict[str, list[psutil.Process]]) -> str | None:
    for process in alive.get(SERVER, []):
        with suppress(psutil.Error):
            if process.cwd().rpartition("/")[2].startswith("open-"):
                return "open"
    if SERVER in alive:
        return "sealed"
    if JUDGE_SUPERVISOR in alive:
        return "judge"
    phases = []
    for path in (lab.cache / "scratch").glob("*/measurement-*/train/events.jsonl"):
        with suppress(OSError, ValueError, IndexError):
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            phases.append([line["phase"] for line in lines if line["kind"] == "phase"][-1])
    if phases and TRAIN_SUPERVISOR in alive:
        return str(phases[-1])
    return "fork" if TRAIN_SUPERVISOR in alive else None
