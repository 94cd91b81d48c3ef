"""How much of a dataset of the hub is wanted, what that takes, and fetching it."""

import hashlib
import math
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from autoresearch.corpus import hub, tokenizer
from autoresearch.corpus.manifest import Origin
from autoresearch.corpus.progress import Progress
from autoresearch.corpus.sources import Source
from autoresearch.corpus.split import HELD_OUT_SHARE
from autoresearch.corpus.store import Corpus
from autoresearch.errors import CorpusError
from autoresearch.machine import cores, existing
from autoresearch.units import format_duration, format_size

_MARGIN = 1.02  # more text than is reckoned: tokens are counted exactly only once all is encoded

# Bytes a second on one core of a server, measured by benchmarks/prepare.py: to say how long it will take.
_READING = 60e6
_ENCODING = 10e6
_LEARNING = 8.0  # seconds for a vocabulary, from tokenizer.SAMPLE
_LINE = 12.5e6  # bytes a second of a line of 100 Mbit/s


class Space(NamedTuple):
    """Bytes of a disk, the shards apart."""

    kept: float  # text and tokens, in the end
    work: float  # at most, while it is at work: when it is split, the text is there twice


def space(text: float, vocab_sizes: Iterable[int]) -> Space:
    """What is written to prepare so many bytes of text with these vocabularies."""
    kept = text + sum(encoded(text, size) for size in vocab_sizes)
    return Space(kept, max(2 * text, kept))


def encoded(text: float, vocab_size: int) -> float:
    """Bytes of the tokens of so many bytes of text."""
    return 2 * text / _bytes_per_token(vocab_size)


class Plan(NamedTuple):
    """What is to be fetched and prepared, as far as it is known before."""

    listing: hub.Listing
    least: int  # files to train on that are fetched at least
    text: float  # bytes to train on that are wanted
    files: tuple[hub.Shard, ...]  # that this is reckoned to need
    vocab_sizes: tuple[int, ...]

    @property
    def download(self) -> int:
        """Bytes of them that are not in the cache."""
        return sum(shard.record.size for shard in self.files if not hub.is_here(self.listing, shard))

    @property
    def whole(self) -> float:
        """Of text in all of them."""
        return sum(shard.record.size for shard in self.files) * self.listing.dataset.expansion

    @property
    def space(self) -> Space:
        """That the corpus takes."""
        return space(self.whole, self.vocab_sizes)

    @property
    def seconds(self) -> float:
        """To split and encode it, once it is here."""
        learned = [size for size in self.vocab_sizes if size != tokenizer.BYTES]
        encoding = len(learned) * self.whole / (_ENCODING * cores())
        return self.whole / _READING + _LEARNING * len(learned) + encoding


def is_short(corpus: Corpus, vocab_sizes: Sequence[int], tokens: int) -> bool:
    """Whether a prepared corpus has less to train on than `tokens` in one of the vocabularies, and there is more."""
    origin = corpus.manifest.origin
    return (origin is None or origin.files < origin.of) and corpus.train_bytes < _text(vocab_sizes, tokens, corpus)


def plan(listing: hub.Listing, vocab_sizes: Sequence[int], tokens: int, corpus: Corpus | None) -> Plan:
    """What is needed for so many tokens. `corpus`: what is prepared of it and falls short, so at least a file more."""
    origin = corpus.manifest.origin if corpus else None
    least = min(origin.files + 1 if origin else 1, len(listing.training))
    text = _MARGIN * _text(vocab_sizes, tokens, corpus)
    sizes = (shard.record.size * listing.dataset.expansion * _train_share(listing) for shard in listing.training)
    return Plan(
        listing,
        least,
        text,
        (*listing.held_out, *listing.training[: _enough(sizes, text, least)]),
        tuple(vocab_sizes),
    )


def check_disk(plan: Plan, cache: Path) -> None:
    """CorpusError if it will not fit, before hours are spent on it."""
    here, there = existing(hub.cache_folder()), existing(cache)
    if here.stat().st_dev == there.stat().st_dev:
        needs = [(there, plan.download + plan.space.work)]
    else:
        needs = [(here, plan.download), (there, plan.space.work)]
    for folder, need in needs:
        free = shutil.disk_usage(folder).free
        if free < need:
            raise CorpusError(
                f"The disk is too small: {plan.listing.dataset.name} needs about {format_size(need)} on that of "
                f"{folder}, and {format_size(free)} are free.",
                "Free some; or set HF_HOME and AUTORESEARCH_CACHE to folders on a larger disk; or take less, with "
                "--tokens.",
            )


def describe(plan: Plan) -> str:
    """What it will take, in a line."""
    dataset, download, disk = plan.listing.dataset, plan.download, plan.space
    here = sum(shard.record.size for shard in plan.files) - download
    return (
        f"{dataset.name}: {len(plan.files)} files of {dataset.repo}, {format_size(download)} to download "
        f"({format_size(here)} are here), {format_duration(download / _LINE)} at 100 Mbit/s; then about "
        f"{format_size(disk.kept)} of text and tokens ({format_size(disk.work)} while it is at work), about "
        f"{format_duration(plan.seconds)} on {cores()} cores."
    )


def fetch(plan: Plan, progress: Progress) -> Source:
    """The files, as a source: as many as have the text that is wanted, by what they say of themselves, whatever was
    reckoned. CorpusError if one cannot be fetched; those before it are kept."""
    listing = plan.listing
    stage, total, passed = f"downloading {listing.dataset.name}", sum(shard.record.size for shard in plan.files), 0

    def get(shard: hub.Shard) -> Path:
        nonlocal passed
        before = passed
        path = hub.fetch(listing, shard, lambda size: progress(stage, before + size, max(total, before + size)))
        passed += shard.record.size
        return path

    held_out = [get(shard) for shard in listing.held_out]
    training: list[Path] = []
    text = 0.0
    for shard in listing.training:
        if len(training) >= plan.least and text >= plan.text:
            break
        training.append(get(shard))
        text += _train_share(listing) * _text_in(training[-1])
    return _source(listing, held_out, training, passed)


def _source(listing: hub.Listing, held_out: list[Path], training: list[Path], size: int) -> Source:
    name = listing.dataset.name
    digest = hashlib.sha256(name.encode())
    for shard in (*listing.held_out, *listing.training[: len(training)]):
        digest.update(f"\0{shard.path}\0{shard.record.sha256}".encode())
    return Source(
        spec=name,
        name=name,
        identity=digest.hexdigest(),
        root=hub.cache_folder(),
        files=(*held_out, *training),
        size=size,
        held_out=frozenset(held_out),
        origin=Origin(repo=listing.dataset.repo, commit=listing.commit, files=len(training), of=len(listing.training)),
    )


def _text(vocab_sizes: Sequence[int], tokens: int, corpus: Corpus | None) -> float:
    """Bytes that give so many tokens in each of the vocabularies."""
    return max((tokens * _bytes_per_token(size, corpus) for size in vocab_sizes), default=0.0)


def _bytes_per_token(vocab_size: int, corpus: Corpus | None = None) -> float:
    """As a prepared corpus has it; else what English text has at most: 4.2 with a vocabulary of 8,192."""
    vocabulary = corpus.manifest.vocabularies.get(vocab_size) if corpus else None
    if corpus and vocabulary and "train" in vocabulary.splits:
        return corpus.train_bytes / vocabulary.splits["train"].tokens
    return 1.0 if vocab_size == tokenizer.BYTES else 0.32 * math.log2(vocab_size)


def _train_share(listing: hub.Listing) -> float:
    return 1.0 if listing.held_out else 1 - 2 * HELD_OUT_SHARE


def _enough(sizes: Iterable[float], text: float, least: int) -> int:
    """How many of the first sizes reach `text`; `least` at least."""
    count, have = 0, 0.0
    for size in sizes:
        if count >= least and have >= text:
            break
        count, have = count + 1, have + size
    return count


def _text_in(path: Path) -> float:
    """Bytes of the column `text` of a parquet file, by its own account of its pages."""
    import pyarrow as pa
    from pyarrow.parquet import read_metadata

    try:
        metadata = read_metadata(path)
        columns = (
            metadata.row_group(group).column(column)
            for group in range(metadata.num_row_groups)
            for column in range(metadata.num_columns)
        )
        return float(sum(part.total_uncompressed_size for part in columns if part.path_in_schema == "text"))
    except (pa.ArrowException, OSError):
        return 0.0  # reading it will say what it is
