"""Files that are there whole or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PARTIAL = ".partial"  # ends the name of what is being written


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """Where to write what is to lie under `path`: it is renamed in the end, and removed if something is raised.

    Only one process at a time may write one path. What one leaves that is killed is written over by the next."""
    partial = path.with_name(path.name + PARTIAL)
    try:
        yield partial
        partial.replace(path)
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
