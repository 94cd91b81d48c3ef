"""Files that are there whole or not at all, and what is remembered of them."""

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from pydantic import BaseModel, ConfigDict

from autoresearch.atomic import PARTIAL, written

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})  # a disk that takes no more


class FileRecord(BaseModel):
    """What a finished file must be."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int
    sha256: str


class Writer:
    """A file being written, hashed and counted on the way."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes | memoryview) -> None:
        """Append; OSError if the disk is full."""
        self._file.write(data)
        self._digest.update(data)
        self.size += len(data)

    @property
    def record(self) -> FileRecord:
        return FileRecord(size=self.size, sha256=self._digest.hexdigest())


@contextmanager
def replacing(path: Path) -> Iterator[Writer]:
    """Write a file which is under `path` once it is on the disk; an exception leaves `path` alone.

    Only one process may do this to one path at a time: callers hold the corpus folder's lock.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with written(path) as partial, partial.open("wb") as file:
        yield Writer(file)
        file.flush()
        os.fsync(file.fileno())
    _sync_folder(path.parent)


def write(path: Path, data: bytes) -> FileRecord:
    """A whole small file at once."""
    with replacing(path) as out:
        out.write(data)
    return out.record


def remove_partial(folder: Path) -> None:
    """Sweep what a killed process left half-written."""
    for path in folder.rglob(f"*{PARTIAL}"):
        path.unlink(missing_ok=True)


def has_size(path: Path, record: FileRecord) -> bool:
    """Whether the file is there and as long as it should be: cheap, and enough to notice a truncated one."""
    try:
        return path.stat().st_size == record.size
    except OSError:
        return False


def is_intact(path: Path, record: FileRecord) -> bool:
    """Whether the file is, byte for byte, what was written. Reads all of it."""
    if not has_size(path, record):
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == record.sha256


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut, where the system lets a folder be synced."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
