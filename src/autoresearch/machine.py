"""What this machine has, where several parts of the program ask it."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import platformdirs


def cores() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def cache_folder(environ: Mapping[str, str]) -> Path:
    """Where corpora lie: AUTORESEARCH_CACHE, or the user's cache directory."""
    named = environ.get("AUTORESEARCH_CACHE")
    return Path(named).expanduser() if named else Path(platformdirs.user_cache_dir("autoresearch"))


def existing(folder: Path) -> Path:
    """The folder, or else the nearest above it that is there: it tells of the disk that the folder would lie on."""
    return next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
