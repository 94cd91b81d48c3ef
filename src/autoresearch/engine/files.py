"""Files where a candidate can write, read with care: whatever it makes of them, it can only hurt itself by it. And what
is laid by, written whole or not at all."""

import contextlib
import dataclasses
import errno
import math
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from pydantic import TypeAdapter

from autoresearch import atomic
from autoresearch.errors import EngineError
from autoresearch.tasks import Fault, ScoreResult, TrainResult

T = TypeVar("T", TrainResult, Fault, ScoreResult)

_ENTRY = 2**15  # bytes that a name counts with
RECORD = 1_000_000  # bytes; a longer record is none
_LARGEST = 2**63  # no whole number in a record is as large


def open_plain(path: Path | str, folder: int | None = None) -> BinaryIO:
    """A plain file for reading. OSError for all else: a pipe would be waited for, and a link leads who knows where.

    folder: the descriptor of the one that a relative path starts in."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW, dir_fd=folder)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a plain file", str(path))
    return os.fdopen(descriptor, "rb")


def remove(path: Path) -> None:
    """Whatever is there, if it can be: a link and not what it leads to, folders however deep, and against their modes.

    Nothing else may be at work in it.
    """
    with contextlib.suppress(OSError):
        path.unlink()
        return
    waiting = [path]
    while waiting:
        folder = waiting.pop()
        with contextlib.suppress(OSError):
            folder.chmod(0o700)
            for entry in list(os.scandir(folder)):
                with contextlib.suppress(OSError):
                    if entry.is_dir(follow_symlinks=False):
                        Path(entry.path).chmod(0o700)  # or it could not be moved
                        waiting.append(Path(entry.path).rename(path / os.urandom(8).hex()))  # no path grows too long
                    else:
                        Path(entry.path).unlink()
            if folder != path:
                folder.rmdir()
    with contextlib.suppress(OSError):
        path.rmdir()


def size(folders: Iterable[Path], most: int) -> int:
    """Bytes on the disk of all that lies below some folders. It is not counted further than to `most`, and an entry
    counts with at least 32 KB, so that many small ones are no longer to count than to make."""
    found, waiting = 0, [*folders]
    while waiting and found <= most:
        with contextlib.suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                found += _ENTRY
                with contextlib.suppress(OSError):
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(Path(entry.path))
                    else:
                        found += entry.stat(follow_symlinks=False).st_blocks * 512
                if found > most:
                    break
    return found


def read_plain(path: Path, size: int, offset: int = 0) -> bytes:
    """At most `size` bytes of a plain file, from `offset` on. OSError if it is not there, or no plain file."""
    with open_plain(path) as file:
        file.seek(offset)
        return file.read(size)


def read_record(kind: type[T], path: Path) -> T | None:
    """A record that a child left, if it is there. One that makes no sense is none."""
    try:
        return parse_record(kind, read_plain(path, RECORD))
    except (OSError, ValueError):
        return None


def parse_record(kind: type[T], data: bytes) -> T:
    """ValueError if it is no such record, or if a number in it is not finite."""
    record = TypeAdapter(kind).validate_json(data)
    if not _sound(dataclasses.asdict(record)):
        raise ValueError("a number that is not finite")
    return record


def _sound(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(map(_sound, value.values()))
    if isinstance(value, float):
        return math.isfinite(value)
    return not isinstance(value, int) or abs(value) < _LARGEST


def nameless(folder: Path) -> BinaryIO:
    """A new file without a name, on that folder's disk. It can be given one, where the system has that."""
    with contextlib.suppress(OSError, AttributeError):
        return os.fdopen(os.open(folder, os.O_RDWR | os.O_TMPFILE, 0o600), "w+b")
    return tempfile.TemporaryFile(dir=folder)


def link(file: BinaryIO, path: Path) -> None:
    """Give an open file one more name, whatever has become of its first; a copy where that cannot be."""
    path.unlink(missing_ok=True)
    try:
        # Without src_dir_fd, which an absolute path makes meaningless, Python would link the link itself.
        os.link(f"/proc/self/fd/{file.fileno()}", path, src_dir_fd=file.fileno(), follow_symlinks=True)
    except OSError:  # another disk, no /proc, or no name is left to link
        file.seek(0)
        with path.open("wb") as copy:
            shutil.copyfileobj(file, copy, 1 << 20)


@contextlib.contextmanager
def written(path: Path) -> Iterator[Path]:
    """As `atomic.written`, in a folder that is made for it. EngineError if it cannot be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic.written(path) as partial:
            yield partial
    except OSError as error:
        raise EngineError(
            f"{error.filename or path} cannot be written: {error.strerror}.", "Free some space and start again."
        ) from error
