"""What compilers leave for the next time, so that an experiment compiles only what it has changed.

Whoever writes into such a folder runs code in every process that reads it. So each process that compiles has a copy of
its own, and there are two chains of them that never meet: from training to training, and from open process to open
process, which have seen held-out text. What a kept experiment leaves is what the next one gets a copy of. All of it is
best effort: without a cache everything is compiled anew.

Compilers write down where their files lie, and find their own choices again only there. So the folders they work in
have the same path in every measurement of a device, of which there is one at a time: emptied before, filled by copying.

Where it is kept, a cache is one file, of a name that nobody can guess, written when the files that it is made of are
gone. A sandbox keeps files from being opened, but not from being asked for by name: whether they are there, how large,
and where a link leads. Nor does it keep a process from seeing which places on the disk are taken, by those that its own
files get. In either way an open process could leave held-out text for a later training to find.
"""

import contextlib
import errno
import io
import json
import os
import secrets
import shutil
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from autoresearch.engine.files import open_plain, remove

LARGEST = 5 * 10**8  # bytes of a cache that is worth its copy, and is held in memory for that
_ENTRY = 2**15  # bytes that a file or folder counts with at least
_DEEPEST = 32  # folders in one another; compilers need few, and who removes a kept cache may not bear many
_GROUP = 10**6  # bytes: a list of files is never as long


def variables(folder: Path) -> dict[str, str]:
    """Environment of processes that keep in `folder` what they compile."""
    return {"TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"), "TRITON_CACHE_DIR": str(folder / "triton")}


def lend(kept: str | None, folder: Path) -> None:
    """Put a copy of what was kept into `folder`, in which is nothing yet but folders of compilers: plain files alone,
    and no link is followed."""
    if kept is None:
        return
    partial = folder.with_name(f"{folder.name}.partial")
    with contextlib.suppress(OSError):
        partial.parent.mkdir(parents=True, exist_ok=True)
        remove(partial)
        _unpack(Path(kept), partial)
        for group in partial.glob("triton/*/__grp__*.json"):
            _rebase(group, folder / group.parent.relative_to(partial))
        for own in [path for path in partial.iterdir() if path.is_dir()]:  # a compiler's; it may be in use already
            (folder / own.name).mkdir(parents=True, exist_ok=True)
            for entry in list(own.iterdir()):
                entry.rename(folder / own.name / entry.name)
    remove(partial)


def keep(folder: Path, kept: str) -> None:
    """Take what was compiled in `folder`, if anything was, to where the next copies are made from. No process that knew
    it is left."""
    place = Path(kept)
    partial = place.with_name(f"{place.name}.partial")
    remove(place)
    remove(partial)
    with contextlib.suppress(OSError):
        packed = _packed(folder)
        remove(folder)
        if packed:
            partial.mkdir()
            (partial / secrets.token_hex(16)).write_bytes(packed)
            partial.rename(place)


def set_aside(folder: Path, place: Path) -> bool:
    """Move what was compiled in `folder` to a place where nothing is yet; whether it is there. No process that knew it
    is left."""
    with contextlib.suppress(OSError):
        if all(is_folder for _, is_folder in list(_content(folder))):  # or else it is not too large
            return False
        try:
            folder.rename(place)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            _copy(folder, place)
        return True
    return False


def _packed(folder: Path) -> bytes | None:
    """The plain files below a folder, as a tar archive; None if there are none. OSError as of `_content`."""
    buffer, names = io.BytesIO(), [path for path, is_folder in _content(folder) if not is_folder]
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in sorted(names):
            with open_plain(folder / name) as file:
                member = tarfile.TarInfo(str(name))
                member.size = os.fstat(file.fileno()).st_size
                archive.addfile(member, file)
    return buffer.getvalue() if names else None


def _unpack(kept: Path, target: Path) -> None:
    """OSError if no cache is kept there."""
    if not stat.S_ISDIR(kept.lstat().st_mode):
        raise NotADirectoryError(errno.ENOTDIR, "not a folder", str(kept))
    for packed in kept.iterdir():
        with open_plain(packed) as file, _opened(file) as archive:
            for member in archive:
                if content := archive.extractfile(member):
                    place = target / member.name
                    place.parent.mkdir(parents=True, exist_ok=True)
                    with place.open("xb") as copy:
                        shutil.copyfileobj(content, copy)


@contextlib.contextmanager
def _opened(file: BinaryIO) -> Iterator[tarfile.TarFile]:
    """OSError if it is no archive, or not whole."""
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            yield archive
    except tarfile.TarError as error:
        raise OSError(errno.EINVAL, str(error)) from None


def _copy(source: Path, target: Path) -> None:
    for path, is_folder in _content(source):
        if is_folder:
            (target / path).mkdir()
        else:
            shutil.copyfile(source / path, target / path, follow_symlinks=False)


def _rebase(group: Path, place: Path) -> None:
    """Triton writes down the files of a kernel by where they lay when it was compiled: now they lie beside this list,
    in `place`, and nothing is to be loaded from anywhere else."""
    try:
        if group.stat().st_size > _GROUP:
            raise ValueError
        names = [Path(name).name for name in json.loads(group.read_bytes())["child_paths"]]
        group.write_text(json.dumps({"child_paths": {name: str(place / name) for name in names}}))
    except (ValueError, LookupError, TypeError, RecursionError):
        group.unlink()


def _content(root: Path) -> Iterator[tuple[Path, bool]]:
    """The folders, the root first, and plain files below a folder, relative to it, and whether each is a folder.
    OSError if it is no folder, too large, or too deep."""
    left = LARGEST
    if not stat.S_ISDIR(root.lstat().st_mode):
        raise NotADirectoryError(errno.ENOTDIR, "not a folder", str(root))
    waiting = [Path()]
    while waiting:
        folder = waiting.pop()
        if len(folder.parts) > _DEEPEST:
            raise OSError(errno.EFBIG, "too deep", str(root))
        yield folder, True
        with os.scandir(root / folder) as entries:
            for entry in entries:
                path, is_file = folder / entry.name, entry.is_file(follow_symlinks=False)
                left -= max(_ENTRY, entry.stat(follow_symlinks=False).st_size if is_file else 0)
                if left < 0:
                    raise OSError(errno.EFBIG, "too large", str(root))
                if is_file:
                    yield path, False
                elif entry.is_dir(follow_symlinks=False):
                    waiting.append(path)
