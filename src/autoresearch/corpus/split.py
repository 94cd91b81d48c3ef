"""Documents into train, validation and test, by a hash of their content.

The documents are ordered by the SHA-256 of their text, and the splits are ranges of that order: of all documents, or,
where the source holds some out, of those alone. So equal documents are neighbours and only one is kept, a held-out one
if there is; what else is in the corpus does not move a document to another split; and any prefix of a split is a random
sample of it, whatever the order of the source.
"""

import hashlib
import io
import os
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
Indices = NDArray[np.intp]


class _Spooled(NamedTuple):
    """The source's documents as they came: text end to end in one file, digests[n] ('S32'), offsets[n + 1], and
    held_out[n], which are not to be trained on."""

    digests: NDArray[np.bytes_]
    offsets: Offsets
    held_out: NDArray[np.bool_]
    skipped: int


def split_source(source: sources.Source, layout: Layout, progress: Progress) -> Manifest:
    """Read the source and write the text of the three splits. CorpusError if there are fewer than three documents.

    Memory: one document, and about 150 bytes for each document there is. Disk: the text twice until it is done.
    """
    try:
        with replacing(layout.spool) as out:
            spooled = _spool(source, out, progress)
        parts = _parts(spooled)
        splits = _write_splits(layout, spooled, parts, progress)
    finally:
        layout.spool.unlink(missing_ok=True)
    return Manifest(
        spec=source.spec,
        identity=source.identity,
        documents=len(spooled.digests),
        duplicates=len(spooled.digests) - sum(map(len, parts.values())),
        skipped=spooled.skipped,
        splits=splits,
        fingerprint=fingerprint(splits),
        origin=source.origin,
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
    digests, offsets, held_out, skipped = bytearray(), array("q", [0]), bytearray(), 0
    passed = 0.0
    stage = f"reading {source.name}"
    for text, size, held in sources.documents(source):
        passed += size
        if text is None:
            skipped += 1
        elif text:
            data = text.encode()
            out.write(data)
            digests += hashlib.sha256(data).digest()
            offsets.append(out.size)
            held_out.append(held)
        progress(stage, int(passed), source.size)
    return _Spooled(
        np.frombuffer(bytes(digests), "S32"),
        np.frombuffer(offsets, np.int64),
        np.frombuffer(bytes(held_out), np.bool_),
        skipped,
    )


def _parts(spooled: _Spooled) -> dict[Split, Indices]:
    """Which documents are in which split, in the order of their digests. CorpusError if there are too few."""
    order = _distinct(spooled)
    held_out = spooled.held_out[order]
    if not held_out.any():
        first, second = _cuts(spooled.digests[order], HELD_OUT_SHARE, 2 * HELD_OUT_SHARE)
        return {"validation": order[:first], "test": order[first:second], "train": order[second:]}
    train, held = order[~held_out], order[held_out]
    if len(held) < 2 or not len(train):
        raise CorpusError(
            f"The corpus is too small: {len(train)} documents to train on, and {len(held)} that are held out.",
            "Validation and test are halves of what is held out: each needs a document.",
        )
    (half,) = _cuts(spooled.digests[held], 0.5)
    return {"validation": held[:half], "test": held[half:], "train": train}


def _distinct(spooled: _Spooled) -> Indices:
    """Indices of the documents in the order of their digests: of equal ones a held-out one if there is, and the first
    of those."""
    order = np.lexsort((~spooled.held_out, spooled.digests))  # by the last key first; stable
    ordered = spooled.digests[order]
    fresh = np.ones(len(order), bool)
    fresh[1:] = ordered[1:] != ordered[:-1]
    kept = order[fresh]
    if len(kept) < len(SPLITS):
        raise CorpusError(
            f"The corpus is too small: {len(kept)} different documents, and each of {', '.join(SPLITS)} needs one.",
            "A file or a parquet row is one document: add some, or cut the text into more files.",
        )
    return kept


def _cuts(digests: NDArray[np.bytes_], *shares: float) -> list[int]:
    """Where ordered digests are cut, at these shares of all that a digest's first 8 bytes can be; every piece gets one
    document at least."""
    heads = digests.view(">u8").reshape(-1, 4)[:, 0]
    cuts: list[int] = []
    for place, share in enumerate(shares, start=1):
        cut = int(np.searchsorted(heads, np.uint64(share * 2**64)))
        least, most = (cuts[-1] if cuts else 0) + 1, len(heads) - (len(shares) + 1 - place)
        cuts.append(min(max(cut, least), most))
    return cuts


def _write_splits(
    layout: Layout, spooled: _Spooled, parts: dict[Split, Indices], progress: Progress
) -> dict[Split, SplitText]:
    starts, sizes = spooled.offsets[:-1], np.diff(spooled.offsets)
    total = sum(int(sizes[part].sum()) for part in parts.values())
    done = 0
    splits: dict[Split, SplitText] = {}
    with layout.spool.open("rb") as file:
        for split in SPLITS:
            part = parts[split]
            with replacing(layout.text(split)) as out:
                for start, size in zip(starts[part].tolist(), sizes[part].tolist(), strict=True):
                    out.write(os.pread(file.fileno(), size, start))  # not mapped: that would count as memory in use
                    progress("splitting", done + out.size, total)
            done += out.size
            offsets = np.concatenate(([0], np.cumsum(sizes[part]))).astype("<i8")
            record = write(layout.offsets(split), npy(offsets))
            splits[split] = SplitText(documents=len(part), bytes=out.size, text=out.record, offsets=record)
    return splits


def npy(values: NDArray[np.generic]) -> bytes:
    """An array as the content of a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=False)
    return buffer.getvalue()
