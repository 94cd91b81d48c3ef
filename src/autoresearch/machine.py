"""What this machine has, where several parts of the program ask it."""

import ctypes
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


def sync(folder: Path) -> None:
    """Returns when all that has been written on the disk where the folder lies would outlast a power cut."""
    syncfs = getattr(ctypes.CDLL(None), "syncfs", None)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if syncfs is None or syncfs(descriptor) != 0:
            os.sync()  # all disks: there is no other way to have it of folders whose content is not known
    finally:
        os.close(descriptor)
