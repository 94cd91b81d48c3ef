"""How full the GPUs are and who works on them, as nvidia-smi says: for a person, and before a run."""

import csv
import shutil
import subprocess
from collections.abc import Mapping
from typing import NamedTuple

from autoresearch.engine.device import visible_gpus
from autoresearch.errors import EngineError

_PATIENCE = 15.0  # seconds: without its daemon a driver takes a while to wake up
_MEBI = 2**20


class Card(NamedTuple):
    """A GPU that a run would see; memory in bytes, None where the driver does not say."""

    uuid: str
    name: str
    driver: str
    total: int | None
    free: int | None


class Tenant(NamedTuple):
    """A process that works on a GPU. In a container its number is that outside."""

    card: str  # UUID
    pid: int | None
    name: str
    memory: int | None  # bytes


def cards(environ: Mapping[str, str]) -> list[Card]:
    """The GPUs that a program started with this environment sees, the one it takes first; none without nvidia-smi.
    EngineError if that fails."""
    rows = _query("--query-gpu=uuid,name,driver_version,memory.total,memory.free")
    found = {
        row[0]: Card(row[0], ", ".join(row[1:-3]), row[-3], _bytes(row[-2]), _bytes(row[-1]))
        for row in rows
        if len(row) >= 5
    }
    return [found[gpu.uuid] for gpu in visible_gpus(environ) if gpu.uuid in found]


def tenants() -> list[Tenant]:
    """Who works on any GPU of the machine, as far as the driver tells. EngineError if nvidia-smi fails."""
    rows = _query("--query-compute-apps=gpu_uuid,pid,process_name,used_gpu_memory")
    return [
        Tenant(row[0], int(row[1]) if row[1].isdigit() else None, ", ".join(row[2:-1]), _bytes(row[-1]))
        for row in rows
        if len(row) >= 4
    ]


def _query(what: str) -> list[list[str]]:
    """The rows of its answer; what is written in a cell may hold commas, and the callers allow for it."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    try:
        done = subprocess.run(
            [tool, what, "--format=csv,noheader,nounits"],
            capture_output=True, encoding="utf-8", errors="replace", timeout=_PATIENCE,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        raise EngineError("nvidia-smi does not answer.", "Mend the driver.") from None
    if done.returncode:
        said = " ".join((done.stdout + done.stderr).split())[:200]
        raise EngineError(f"nvidia-smi fails: {said or f'exit code {done.returncode}'}.", "Mend the driver.")
    return [row for row in csv.reader(done.stdout.splitlines(), skipinitialspace=True, quoting=csv.QUOTE_NONE) if row]


def _bytes(mebibytes: str) -> int | None:
    """None for [N/A] and its kin."""
    return int(mebibytes) * _MEBI if mebibytes.strip().isdigit() else None
