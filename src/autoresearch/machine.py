"""What this machine has, where several parts of the program ask it."""

import os
import sys
from pathlib import Path


def cores() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def existing(folder: Path) -> Path:
    """The folder, or else the nearest above it that is there: it tells of the disk that the folder would lie on."""
    return next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
