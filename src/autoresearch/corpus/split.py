"""Documents into train, validation and test, by a hash of their content.

The documents are ordered by the SHA-256 of their text, and the splits are ranges of that order. So equal documents are
neighbours and only one is kept; what else is in the corpus does not move a document to another split; and any prefix
of a split is a random sample of it, whatever the order of the source.
"""

import hashlib
import io
import mmap
from array import array
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from autoresearch.corpus import sources
from autoresearch.corpus.files import Writer, replacing, write
from autoresearch.corpus.manifest import SPLITS, Layout, Manifest, Split, SplitText, fingerprint
from autoresearch.corpus.progress import Progress
from autoresearch.errors import CorpusError

HELD_OUT_SHARE = 0.05  # of the documents, for validation and for test each

Offsets = NDArray[np.int64]


class _Spooled(NamedTuple):
    """The source's documents as they came: text end to end in one file, digests[n] ('S32'), offsets[n + 1]."""

    digests: NDArray[np.bytes_]
    offsets: Offsets
    skipped: int


def split_source(source: sources.Source, layout: Layout, progress: Progress) -> Manifest:
    """Read the source and write the text of the three splits. CorpusError if there are fewer than three documents.

    Memory: one document, and 40 bytes for each document there is. Disk: the text twice until it is done.
    """
    try:
        with replacing(layout.spool) as out:
            spooled = _spool(source, out, progress)
        order = _distinct(spooled.digests)
        splits = _write_splits(layout, spooled, order, progress)
    finally:
        layout.spool.unlink(missing_ok=True)
    return Manifest(
        spec=source.spec,
        identity=source.identity,
        documents=len(spooled.digests),
        duplicates=len(spooled.digests) - len(order),
        skipped=spooled.skipped,
        splits=splits,
        fingerprint=fingerprint(splits),
    )


def read_batches(layout: Layout, split: Split, limit: int) -> Iterator[list[bytes]]:
    """The documents of a split in order, in lists of about `limit` bytes; one document may be longer than that."""
    offsets: Offsets = np.load(layout.offsets(split))
    with layout.text(split).open("rb") as file:
        first = 0
        while first < len(offsets) - 1:
            last = int(np.searchsorted(offsets, offsets[first] + limit, side="right")) - 1
            last = max(last, first + 1)
            bounds = (offsets[first : last + 1] - offsets[first]).tolist()
            data = file.read(bounds[-1])
            yield [data[start:stop] for start, stop in pairwise(bounds)]
            first = last


def _spool(source: sources.Source, out: Writer, progress: Progress) -> _Spooled:
    digests, offsets, skipped = bytearray(), array("q", [0]), 0
    passed = 0.0
    stage = f"reading {source.name}"
    for text, size in sources.documents(source):
        passed += size
        if text is None:
            skipped += 1
        elif text:
            data = text.encode()
            out.write(data)
            digests += hashlib.sha256(data).digest()
            offsets.append(out.size)
        progress(stage, int(passed), source.size)
    return _Spooled(np.frombuffer(bytes(digests), "S32"), np.frombuffer(offsets, np.int64), skipped)


def _distinct(digests: NDArray[np.bytes_]) -> NDArray[np.intp]:
    """Indices of the documents in the order of their digests, the first of equal ones."""
    order = np.argsort(digests, kind="stable")
    ordered = digests[order]
    fresh = np.ones(len(order), bool)
    fresh[1:] = ordered[1:] != ordered[:-1]
    kept = order[fresh]
    if len(kept) < len(SPLITS):
        raise CorpusError(
            f"The corpus is too small: {len(kept)} different documents, and each of {', '.join(SPLITS)} needs one.",
            "A file or a parquet row is one document: add some, or cut the text into more files.",
        )
    return kept


def _bounds(digests: NDArray[np.bytes_]) -> dict[Split, slice]:
    """Which of the ordered documents are in which split: by the digest's first 8 bytes, but at least one in each."""
    heads = digests.view(">u8").reshape(-1, 4)[:, 0]
    n = len(heads)
    cuts = [int(np.searchsorted(heads, np.uint64(share * 2**64))) for share in (HELD_OUT_SHARE, 2 * HELD_OUT_SHARE)]
    first = min(max(cuts[0], 1), n - 2)
    second = min(max(cuts[1], first + 1), n - 1)
    return {"validation": slice(0, first), "test": slice(first, second), "train": slice(second, n)}


def _write_splits(
    layout: Layout, spooled: _Spooled, order: NDArray[np.intp], progress: Progress
) -> dict[Split, SplitText]:
    starts, stops = spooled.offsets[:-1][order], spooled.offsets[1:][order]
    total = int((stops - starts).sum())
    bounds = _bounds(spooled.digests[order])
    done = 0
    splits: dict[Split, SplitText] = {}
    with layout.spool.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        for split in SPLITS:
            part = bounds[split]
            with replacing(layout.text(split)) as out:
                for start, stop in zip(starts[part].tolist(), stops[part].tolist(), strict=True):
                    out.write(text[start:stop])
                    progress("splitting", done + out.size, total)
            done += out.size
            offsets = np.concatenate(([0], np.cumsum(stops[part] - starts[part]))).astype("<i8")
            record = write(layout.offsets(split), npy(offsets))
            splits[split] = SplitText(documents=len(offsets) - 1, bytes=out.size, text=out.record, offsets=record)
    return splits


def npy(values: NDArray[np.generic]) -> bytes:
    """An array as the content of a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=False)
    return buffer.getvalue()
