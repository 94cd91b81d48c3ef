"""NVIDIA GPUs as nvidia-smi tells of them: what they are, how full, and who works on them. Without importing torch."""

import csv
import shutil
import subprocess
from collections.abc import Collection, Mapping
from typing import NamedTuple

from autoresearch.errors import EngineError

VISIBLE = "CUDA_VISIBLE_DEVICES"
_PATIENCE = 30.0  # seconds: without its daemon a driver takes a while to wake up


class Gpu(NamedTuple):
    """An NVIDIA GPU; bytes, None where the driver does not say (a GB10 has no memory of its own)."""

    uuid: str
    name: str
    driver: str
    memory: int | None
    free: int | None


class GpuProcess(NamedTuple):
    """A process that works on a GPU. In a container its number is that outside."""

    gpu: str  # UUID
    pid: int | None
    name: str
    memory: int | None  # bytes


def all_gpus() -> list[Gpu]:
    """Every NVIDIA GPU of the machine; none without nvidia-smi. EngineError if that fails."""
    rows = _query("--query-gpu=uuid,name,driver_version,memory.total,memory.free")
    return [
        Gpu(row[0], ", ".join(row[1:-3]), row[-3], _bytes(row[-2]), _bytes(row[-1]))
        for row in rows
        if len(row) >= 5 and row[0].startswith("GPU-")
    ]


def visible_gpus(environ: Mapping[str, str]) -> list[Gpu]:
    """Those that a program started with this environment sees, the one it takes first. EngineError if nvidia-smi
    fails."""
    gpus = all_gpus()
    if VISIBLE not in environ:
        return gpus
    chosen: list[Gpu] = []
    for entry in map(str.strip, environ[VISIBLE].split(",")):
        meant = [gpu for place, gpu in enumerate(gpus) if _names(entry, place, gpu)]
        if len(meant) != 1:  # as CUDA reads it: what follows an entry that names nothing is hidden
            break
        chosen += meant
    return chosen


def first_alone(environ: Mapping[str, str], visible: Collection[Gpu]) -> dict[str, str]:
    """What hides all GPUs but the one that a program takes first, as it is to be set beside this environment; nothing
    where no more are visible."""
    return {VISIBLE: environ.get(VISIBLE, "0").split(",")[0].strip()} if len(visible) > 1 else {}


def gpu_processes() -> list[GpuProcess]:
    """Who works on any GPU of the machine, as far as the driver tells. EngineError if nvidia-smi fails."""
    rows = _query("--query-compute-apps=gpu_uuid,pid,process_name,used_gpu_memory")
    return [
        GpuProcess(row[0], int(row[1]) if row[1].isdecimal() else None, ", ".join(row[2:-1]), _bytes(row[-1]))
        for row in rows
        if len(row) >= 4
    ]


def utilization(uuid: str) -> int | None:
    """Percent of the last moment in which a GPU did something; None where the driver does not tell. EngineError if
    nvidia-smi fails."""
    rows = _query("--query-gpu=uuid,utilization.gpu")
    return next((int(row[1]) for row in rows if len(row) == 2 and row[0] == uuid and row[1].isdecimal()), None)


def _names(entry: str, place: int, gpu: Gpu) -> bool:
    """Whether an entry of CUDA_VISIBLE_DEVICES means this GPU: its place, or the beginning of its UUID."""
    if entry.startswith("MIG-"):  # a slice of one; nvidia-smi does not say here of which, unless in the old form
        return entry.startswith(f"MIG-{gpu.uuid}") or ("GPU-" not in entry and place == 0)
    return entry == str(place) or (entry.startswith("GPU-") and gpu.uuid.startswith(entry))


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
        said = " ".join((done.stdout + done.stderr).split())[:200].rstrip(".")
        raise EngineError(f"nvidia-smi fails: {said or f'exit code {done.returncode}'}.", "Mend the driver.")
    return [row for row in csv.reader(done.stdout.splitlines(), skipinitialspace=True, quoting=csv.QUOTE_NONE) if row]


def _bytes(mebibytes: str) -> int | None:
    """None for [N/A] and its kin."""
    return int(mebibytes) * 2**20 if mebibytes.strip().isdecimal() else None
