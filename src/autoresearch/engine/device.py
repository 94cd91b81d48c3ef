"""What the machine has, found out without importing torch."""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

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


def peak_flops(device_name: str) -> float | None:
    """Of a device by the name torch gives it; None if it is not in the table."""
    return next((peak for name, peak in _PEAKS.items() if name in device_name), None)


def resolve_device(device: Device) -> str:
    """cpu, cuda or mps. EngineError if a GPU is asked for that is not there."""
    if device == "cpu":
        return device
    if device == "mps" or (device == "auto" and _is_apple()):
        if not _is_apple():
            raise EngineError("This machine has no Apple GPU.", "Set device: auto in the program.")
        return "mps"
    if _gpus():
        return "cuda"
    if device == "cuda":
        raise EngineError("No NVIDIA GPU is seen: nvidia-smi lists none.", "Set device: auto, or mend the driver.")
    return "cpu"


def describe_hardware(device: str) -> str:
    """One line for a prompt or a header: the GPU and its memory, or the processor and its cores."""
    if device == "cuda" and (gpus := _gpus()):
        return gpus[0]
    memory = format_size(psutil.virtual_memory().total)
    if device == "mps":
        return f"Apple GPU, {memory} shared memory"
    return f"{_cpu_name()}, {cores()} cores, {memory} memory"


def cores() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _gpus() -> list[str]:
    """Name and memory of each NVIDIA GPU."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    query = [tool, "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True)
        pairs = [line.rsplit(",", 1) for line in done.stdout.splitlines() if "," in line]
        return [f"{name.strip()}, {int(mebibytes) / 1024:.0f} GiB memory" for name, mebibytes in pairs]
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
