"""What the machine has, found out without importing torch."""

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import psutil

from autoresearch.errors import EngineError
from autoresearch.settings import Device
from autoresearch.units import format_size

# Dense bf16 matrix products, FLOP/s, by the vendors' data sheets. The first name found in the device's counts.
_PEAKS = {
    "B300": 2250e12, "B200": 2250e12, "B100": 1750e12, "GH200": 989e12, "H200": 989e12, "H100 PCIe": 756e12,
    "H100": 989e12, "H800": 989e12, "H20": 148e12, "A100": 312e12, "A800": 312e12, "A40": 150e12, "A30": 165e12,
    "A10G": 70e12, "A10": 125e12, "L40S": 362e12, "L40": 181e12, "L4": 121e12, "RTX 6000 Ada": 364e12,
    "RTX A6000": 155e12, "RTX 5090": 209e12, "RTX 4090": 165e12, "RTX 4080": 97e12, "RTX 3090": 71e12,
}  # fmt: skip

_VISIBLE = "CUDA_VISIBLE_DEVICES"
_NOTHING: Mapping[str, str] = MappingProxyType({})


class Gpu(NamedTuple):
    """An NVIDIA GPU as nvidia-smi lists it."""

    uuid: str
    name: str
    memory: int  # bytes


def peak_flops(device_name: str) -> float | None:
    """Of a device by the name torch gives it; None if it is not in the table."""
    return next((peak for name, peak in _PEAKS.items() if name in device_name), None)


def resolve_device(device: Device, environ: Mapping[str, str] = _NOTHING) -> str:
    """cpu, cuda or mps. `environ` may hide GPUs (CUDA_VISIBLE_DEVICES). EngineError if one is asked for that is not
    there."""
    if device == "cpu":
        return device
    if device == "mps" or (device == "auto" and _is_apple()):
        if not _is_apple():
            raise EngineError("This machine has no Apple GPU.", "Set device: auto in the program.")
        return "mps"
    if visible_gpus(environ):
        return "cuda"
    if device == "cuda":
        hidden = environ.get(_VISIBLE) is not None and visible_gpus()
        why = f"{_VISIBLE}={environ[_VISIBLE]} hides them all" if hidden else "nvidia-smi lists none"
        raise EngineError(
            f"No NVIDIA GPU is seen: {why}.", "Mend the driver or the variable; programs/tiny.md needs no GPU."
        )
    return "cpu"


def describe_hardware(device: str, environ: Mapping[str, str] = _NOTHING) -> str:
    """One line for a prompt or a header: the GPU and its memory, or the processor and its cores."""
    if device == "cuda" and (gpus := visible_gpus(environ)):
        return f"{gpus[0].name}, {gpus[0].memory / 2**30:.0f} GiB memory"
    memory = format_size(psutil.virtual_memory().total)
    if device == "mps":
        return f"Apple GPU, {memory} shared memory"
    return f"{_cpu_name()}, {cores()} cores, {memory} memory"


def visible_gpus(environ: Mapping[str, str] = _NOTHING) -> list[Gpu]:
    """The NVIDIA GPUs that a program started with this environment sees, the one it takes first."""
    gpus = _gpus()
    if _VISIBLE not in environ:
        return gpus
    chosen: list[Gpu] = []
    for entry in map(str.strip, environ[_VISIBLE].split(",")):
        meant = [gpu for place, gpu in enumerate(gpus) if _names(entry, place, gpu)]
        if len(meant) != 1:  # as CUDA reads it: what follows an entry that names nothing is hidden
            break
        chosen += meant
    return chosen


def cores() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _names(entry: str, place: int, gpu: Gpu) -> bool:
    """Whether an entry of CUDA_VISIBLE_DEVICES means this GPU: its place, or the beginning of its UUID."""
    if entry.startswith("MIG-"):  # a slice of one; nvidia-smi does not say here of which, unless in the old form
        return entry.startswith(f"MIG-{gpu.uuid}") or ("GPU-" not in entry and place == 0)
    return entry == str(place) or (entry.startswith("GPU-") and gpu.uuid.startswith(entry))


def _gpus() -> list[Gpu]:
    """Every NVIDIA GPU of the machine."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    query = [tool, "--query-gpu=uuid,name,memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True)
        rows = [line.split(", ") for line in done.stdout.splitlines() if line.count(", ") == 2]
        return [Gpu(uuid, name, int(mebibytes) * 2**20) for uuid, name, mebibytes in rows]
    except (OSError, ValueError, subprocess.SubprocessError):
        return []


def _is_apple() -> bool:
    return sys.platform == "darwin" and platform.machine() == "arm64"


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
