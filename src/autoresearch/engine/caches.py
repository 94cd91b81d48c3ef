"""What compilers leave for the next time, so that an experiment compiles only what it has changed.

Whoever writes into such a folder runs code in every process that reads it. So each process that compiles has a copy of
its own, and there are two chains of them that never meet: from training to training, and from open process to open
process, which have seen held-out text. What a kept experiment leaves is what the next one gets a copy of. All of it is
best effort: without a cache everything is compiled anew.

Compilers write down where their files lie, and find their own choices again only there. So the folders they work in
have the same path in every measurement of a device, of which there is one at a time: emptied before, filled by copying.

Where it is kept, a cache lies in a folder of a name that nobody can guess. A sandbox keeps what lies there from being
opened, but not from being asked for by name: whether it is there, how large it is, and where a link leads. So an open
process could leave held-out text for a later training to find.
"""

import contextlib
import errno
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from autoresearch.engine.files import remove

LARGEST = 2 * 10**9  # bytes of a cache that is worth its copy
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
        _copy(_inside(Path(kept)), partial)
        for group in partial.glob("triton/*/__grp__*.json"):
            _rebase(group, folder / group.parent.relative_to(partial))
        for own in [path for path in partial.iterdir() if path.is_dir()]:  # a compiler's; it may be in use already
            (folder / own.name).mkdir(parents=True, exist_ok=True)
            for entry in list(own.iterdir()):
                entry.rename(folder / own.name / entry.name)
    remove(partial)


def keep(folder: Path, kept: str) -> None:
    """Move what was compiled in `folder`, if anything was, to where the next copies are made from. No process that knew
    it is left."""
    place = Path(kept)
    partial = place.with_name(f"{place.name}.partial")
    remove(place)
    remove(partial)
    with contextlib.suppress(OSError):
        partial.mkdir()
        if set_aside(folder, partial / secrets.token_hex(16)):
            partial.rename(place)
        else:
            remove(partial)


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


def _inside(kept: Path) -> Path:
    """The folder that a cache is kept in. OSError if it is not there, or `kept` is no folder."""
    if not stat.S_ISDIR(kept.lstat().st_mode):
        raise NotADirectoryError(errno.ENOTDIR, "not a folder", str(kept))
    for path in kept.iterdir():
        return path
    raise FileNotFoundError(errno.ENOENT, "no cache", str(kept))


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
