"""What the machine has, found out without importing torch."""

import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import psutil

from autoresearch.engine.gpus import VISIBLE, all_gpus, visible_gpus
from autoresearch.errors import EngineError
from autoresearch.machine import cores
from autoresearch.settings import Device
from autoresearch.units import format_size

# Dense bf16 matrix products, FLOP/s, by the vendors' data sheets. The first name found in the device's counts.
_PEAKS = {
    "B300": 2250e12, "B200": 2250e12, "B100": 1750e12, "GH200": 989e12, "H200": 989e12, "H100 PCIe": 756e12,
    "H100": 989e12, "H800": 989e12, "H20": 148e12, "A100": 312e12, "A800": 312e12, "A40": 150e12, "A30": 165e12,
    "A10G": 70e12, "A10": 125e12, "L40S": 362e12, "L40": 181e12, "L4": 121e12, "RTX 6000 Ada": 364e12,
    "RTX A6000": 155e12, "RTX 5090": 209e12, "RTX 4090": 165e12, "RTX 4080": 97e12, "RTX 4070": 58e12,
    "RTX 4060 Ti": 44e12, "RTX 4060": 30e12, "RTX 3090": 71e12, "RTX 3080": 60e12, "RTX 3070": 41e12,
    "RTX 3060 Ti": 32e12, "RTX 3060": 25e12,
}  # fmt: skip

_NOTHING: Mapping[str, str] = MappingProxyType({})


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
    try:
        if visible_gpus(environ):
            return "cuda"
        hidden = VISIBLE in environ and all_gpus()
        why = f"{VISIBLE}={environ[VISIBLE]} hides them all" if hidden else "nvidia-smi is not here, or lists none"
    except EngineError as error:
        why = error.message.rstrip(".")
    if device == "cuda":
        raise EngineError(
            f"No NVIDIA GPU is seen: {why}.", "Mend the driver or the variable; programs/tiny.md needs no GPU."
        )
    return "cpu"


def describe_hardware(device: str, environ: Mapping[str, str] = _NOTHING) -> str:
    """One line for a prompt or a header: the GPU and its memory, or the processor and its cores."""
    if device == "cuda" and (gpus := visible_gpus(environ)):
        own = gpus[0].memory
        return f"{gpus[0].name}, {'memory unknown' if own is None else f'{own / 2**30:.0f} GiB memory'}"
    memory = format_size(psutil.virtual_memory().total)
    if device == "mps":
        return f"Apple GPU, {memory} shared memory"
    return f"{cpu_name()}, {cores()} cores, {memory} memory"


def _is_apple() -> bool:
    return sys.platform == "darwin" and platform.machine() == "arm64"


def cpu_name() -> str:
    """The processor's, as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
