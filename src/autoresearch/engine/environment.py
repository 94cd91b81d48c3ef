"""What processes of a measurement have in their environment."""

import site
from collections.abc import Mapping
from pathlib import Path

from autoresearch import compilers
from autoresearch.forks import MARKER

_PASSED_ON = (
    "PATH",
    "USER",
    "LOGNAME",
    "LANG",
    "LANGUAGE",
    "TZ",
    "TMPDIR",
    "LD_LIBRARY_PATH",
    "PYTHONPATH",
    "VIRTUAL_ENV",
)
_PASSED_ON_FAMILIES = ("LC_", "CUDA_", "NVIDIA_", "OMP_", "MKL_", "OPENBLAS_", "PYTORCH_", "TORCH", "TRITON_", "NCCL_")
_SECRET = ("KEY", "TOKEN", "SECRET", "PASSWORD", "CREDENTIAL")


def passed_on(caller: Mapping[str, str]) -> dict[str, str]:
    """What a child gets of the caller's environment: an allow-list, and what suits it."""
    allowed = {
        name: value
        for name, value in caller.items()
        if (name in _PASSED_ON or name.startswith(_PASSED_ON_FAMILIES)) and not any(word in name for word in _SECRET)
    }
    defaults = {
        "PYTHONHASHSEED": "0",
        "PYTHONUNBUFFERED": "1",
        "PYTHONUSERBASE": site.getuserbase(),  # else it would be looked for in the new home
        "TRITON_STORE_BINARY_ONLY": "1",  # what it compiles through is read by nobody, copied and loaded with the rest
        "OMP_WAIT_POLICY": "PASSIVE",  # spinning threads on a shared processor cost ten times the speed
    }
    return defaults | allowed | {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}  # as nvidia-smi counts, whose word on GPUs is taken


def own(home: Path, compiled: Path) -> dict[str, str]:
    """And what it has for itself. home: the measurement's folder. compiled: for compiler caches."""
    return {"HOME": str(home), MARKER: str(home), **compilers.variables(compiled)}
