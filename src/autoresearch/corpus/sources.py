"""Where text comes from: the running Python's own library, or a folder of text or parquet files.

A source is found by what a program's `corpus` key or `--corpus` says. A corpus of the hub becomes one in `shards`, once
it is fetched.
"""

import hashlib
import os
import platform
import re
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from autoresearch.corpus.hub import DATASETS
from autoresearch.corpus.manifest import Origin
from autoresearch.errors import CorpusError, first_line

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

_KNOWN = ("stdlib", *DATASETS)
_CHOICE = f"{', '.join(_KNOWN)}, or a folder of text or parquet files"
_NOT_TEXT = {"__pycache__", "site-packages", "dist-packages"}
_HEAD = 1 << 16  # a binary file shows a NUL this early, so a large one is not read to its end
_ROWS = 1024  # parquet rows held at once


@dataclass(frozen=True, slots=True)
class Source:
    """Files to read, as they are now."""

    spec: str  # canonical
    name: str  # part of the prepared corpus's folder name
    identity: str  # hex: changes when a file is added, removed, resized or touched
    root: Path
    files: tuple[Path, ...]
    size: int  # bytes on the disk
    held_out: frozenset[Path] = frozenset()  # files that are validation and test; none: by hash, of all
    origin: Origin | None = None  # if it was fetched

    @property
    def text(self) -> float:
        """Bytes of text in it: of a fetched one by its dataset's rough expansion, else taken for its files' size."""
        return self.size * DATASETS[self.spec].expansion if self.spec in DATASETS else float(self.size)


class Item(NamedTuple):
    """One document, or None for what is skipped as no text; `size` is how far it moves through the source, in bytes."""

    text: str | None
    size: float
    held_out: bool = False


def canonical(spec: str) -> str:
    """The one spelling of a source that holds wherever a command runs: a known name, or else a folder's absolute path.

    OSError, RuntimeError or ValueError if it cannot be a path."""
    return spec if spec in _KNOWN else str(Path(spec).expanduser().resolve())


def name(spec: str) -> str:
    """What folders of prepared corpora of this source begin with. Raises as `canonical` does."""
    if spec in _KNOWN:
        return spec
    return re.sub(r"[^A-Za-z0-9_-]+", "-", Path(canonical(spec)).name).strip("-")[:40] or "corpus"


def find(spec: str) -> Source:
    """The local source that `spec` names: `stdlib`, or a folder relative to the working directory. CorpusError if
    neither."""
    if spec == "stdlib":
        return _source(spec, "stdlib", Path(sysconfig.get_path("stdlib")), platform.python_version())
    try:
        root = Path(canonical(spec))
        is_folder, exists = root.is_dir(), root.exists()
    except (OSError, RuntimeError, ValueError) as error:
        raise CorpusError(f"The corpus {spec!r} cannot be looked at: {first_line(error)}.") from error
    if not is_folder:
        what = "is a file, not a folder" if exists else "is neither a known name nor a folder"
        raise CorpusError(f"The corpus {spec!r} {what}.", f"Use {_CHOICE}.")
    # The path is part of the identity: folders of one name and equal sizes and times need not be equal.
    return _source(str(root), name(spec), root, str(root))


def documents(source: Source) -> Iterator[Item]:
    """Every document of the source in a fixed order, held one at a time. CorpusError if a file cannot be read.

    A file or row that is not UTF-8, and a file with a NUL in it, comes as an item without text.
    """
    for path in source.files:
        held_out = path in source.held_out
        try:
            if path.suffix.lower() == ".parquet":
                yield from (Item(text, size, held_out) for text, size in _parquet(path))
            else:
                size = path.stat().st_size
                yield Item(_text(path), size, held_out)
        except OSError as error:
            raise CorpusError(f"{path} cannot be read: {error.strerror or error}.", "Repair or remove it.") from error


def _source(spec: str, name: str, root: Path, salt: str) -> Source:
    digest = hashlib.sha256(salt.encode(errors="surrogateescape"))
    files, total = [], 0
    try:
        for path in sorted(_walk(root)):
            stat = path.stat()
            relative = os.fsencode(path.relative_to(root))
            digest.update(b"\0%b\0%d\0%d" % (relative, stat.st_size, stat.st_mtime_ns))
            files.append(path)
            total += stat.st_size
    except OSError as error:
        raise CorpusError(f"The corpus {spec!r} cannot be read: {first_line(error)}.") from error
    if not files:
        raise CorpusError(f"The corpus {spec!r} has no files.", "Put text or parquet files there.")
    return Source(spec, name, digest.hexdigest(), root, tuple(files), total)


def _walk(root: Path) -> Iterator[Path]:
    """Regular files below `root` (links to files too), without hidden ones and what is installed or compiled."""

    def refuse(error: OSError) -> None:
        raise error

    for folder, names, files in os.walk(root, onerror=refuse):
        names[:] = [name for name in names if not name.startswith(".") and name not in _NOT_TEXT]
        for name in files:
            path = Path(folder, name)
            if not name.startswith(".") and path.is_file():
                yield path


def _text(path: Path) -> str | None:
    with path.open("rb") as file:
        head = file.read(_HEAD)
        data = head if b"\0" in head else head + file.read()
    return None if b"\0" in data else _decode(data)


def _decode(data: bytes) -> str | None:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None


def _parquet(path: Path) -> Iterator[tuple[str | None, float]]:
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as file:
            _check_column(path, file)
            share = path.stat().st_size / max(1, file.metadata.num_rows)
            for batch in file.iter_batches(batch_size=_ROWS, columns=["text"]):
                # As bytes, since parquet itself does not check that text is valid UTF-8.
                for row in batch.column(0).cast(pa.large_binary()).to_pylist():
                    yield "" if row is None else _decode(row), share
    except (pa.ArrowException, OSError) as error:
        raise CorpusError(f"{path} cannot be read as parquet: {first_line(error)}.", "Repair or remove it.") from error


def _check_column(path: Path, file: "ParquetFile") -> None:
    import pyarrow as pa

    schema = file.schema_arrow
    if "text" not in schema.names:
        names = ", ".join(schema.names[:8]) or "none"
        raise CorpusError(f"{path} has no column `text` (its columns: {names}).", "Rename the column that holds text.")
    kind = schema.field("text").type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
        raise CorpusError(f"The column `text` of {path} holds {kind}, not strings.", "Convert the column to strings.")
