"""Folders where compilers keep what they make, and a copy of them as one archive, which travels without a name.

Whoever wrote into such a folder runs code in every process that reads it: who may get which is for the engine to say
(`engine.caches`).
"""

import json
import shutil
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

_GROUP = 10**6  # bytes: a list of files is never as long
VARIABLES = {"TORCHINDUCTOR_CACHE_DIR": "inductor", "TRITON_CACHE_DIR": "triton"}


def variables(folder: Path) -> dict[str, str]:
    """Environment of processes that keep in `folder` what they compile."""
    return {name: str(folder / own) for name, own in VARIABLES.items()}


def folders(environ: Mapping[str, str]) -> list[Path]:
    """Where processes with this environment do."""
    return [Path(environ[name]) for name in VARIABLES if name in environ]


def unpack(packed: BinaryIO, folder: Path) -> None:
    """Put an archive's files into `folder`, where nothing is yet; or nothing, if it is not whole. All of it is best
    effort: without a cache everything is compiled anew."""
    try:
        with tarfile.open(fileobj=packed, mode="r:") as archive:
            for member in archive:
                if content := archive.extractfile(member):
                    place = folder / member.name
                    place.parent.mkdir(parents=True, exist_ok=True)
                    with place.open("xb") as copy:
                        shutil.copyfileobj(content, copy)
        for group in folder.glob("triton/*/__grp__*.json"):
            _rebase(group)
    except (OSError, tarfile.TarError):
        shutil.rmtree(folder, ignore_errors=True)


def _rebase(group: Path) -> None:
    """Triton writes down the files of a kernel by where they lay when it was compiled: now they lie beside this list,
    and nothing is to be loaded from anywhere else."""
    try:
        if group.stat().st_size > _GROUP:
            raise ValueError
        names = [Path(name).name for name in json.loads(group.read_bytes())["child_paths"]]
        group.write_text(json.dumps({"child_paths": {name: str(group.with_name(name)) for name in names}}))
    except (ValueError, LookupError, TypeError, RecursionError):
        group.unlink()
