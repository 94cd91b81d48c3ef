"""What compilers leave for the next time, so that an experiment compiles only what it has changed.

Whoever writes into such a folder runs code in every process that reads it. So each process that compiles has a copy of
its own, and there are two chains of them that never meet: from training to training, which have seen training text; and
from rehearsal to rehearsal of scoring, which have seen no text at all. What a kept experiment leaves is what the next
one gets a copy of. All of it is best effort: without a cache everything is compiled anew.

Compilers write down where their files lie, and find their own choices again only there. So the folders they work in
have the same path in every measurement of a device, of which there is one at a time: emptied before, filled by copying.

Where it is kept, a cache is one file, of a name that nobody can guess. A sandbox keeps files from being opened, but not
from being asked for by name: whether they are there, how large, and where a link leads.
"""

import contextlib
import io
import os
import secrets
import stat
import tarfile
from pathlib import Path

from autoresearch import compilers
from autoresearch.atomic import PARTIAL
from autoresearch.engine.files import open_plain, remove

LARGEST = 2 * 10**8  # bytes of a cache that is worth its copy, and is held in memory for that
_ENTRY = 2**15  # bytes that a file or folder counts with at least
_DEEPEST = 32  # folders in one another; compilers need few


def lend(kept: str | None, folder: Path) -> None:
    """Put a copy of what was kept into `folder`, where nothing is yet: plain files alone, and no link is followed."""
    if kept is None:
        return
    with contextlib.suppress(OSError):
        if not stat.S_ISDIR(Path(kept).lstat().st_mode):
            return
        for packed in Path(kept).iterdir():
            with open_plain(packed) as file:
                compilers.unpack(file, folder)


def packed(folder: Path) -> bytes | None:
    """The plain files below a folder, as a tar archive; None if there are none, or more than it is worth.

    Processes may be at work there: no link is followed, also of none that has just become one.
    """
    left, found, buffer = LARGEST, False, io.BytesIO()
    try:
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for name, folders, files, descriptor in os.fwalk(folder):
                path = Path(name).relative_to(folder)
                left -= _ENTRY * (len(folders) + len(files))
                if left < 0 or len(path.parts) > _DEEPEST:
                    return None
                folders.sort()
                for one in sorted(files):
                    content = _content(one, descriptor, left + 1)
                    if content is None:
                        continue
                    left -= len(content)
                    if left < 0:
                        return None
                    member = tarfile.TarInfo(str(path / one))
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
                    found = True
    except (OSError, ValueError):  # the second: a name that is none
        return None
    return buffer.getvalue() if found else None


def _content(name: str, folder: int, most: int) -> bytes | None:
    """The beginning of a plain file; None if it is none, or gone."""
    with contextlib.suppress(OSError), open_plain(name, folder) as file:
        return file.read(min(most, os.fstat(file.fileno()).st_size))
    return None


def keep(packed: bytes | None, kept: str) -> None:
    """Lay by what was compiled, if anything was, where the next copies are made from."""
    place = Path(kept)
    partial = place.with_name(place.name + PARTIAL)
    remove(place)
    remove(partial)
    if packed:
        with contextlib.suppress(OSError):
            partial.mkdir(parents=True)
            (partial / secrets.token_hex(16)).write_bytes(packed)
            partial.rename(place)
