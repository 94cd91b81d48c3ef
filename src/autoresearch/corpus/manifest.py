"""What is prepared, where it lies, and how far preparing has come.

The manifest is the one truth: a file that it does not list does not count, and it is written after the file. Files
of the train split and of the held-out splits lie in two trees, so that only the first need be shown to a training
child.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from autoresearch.corpus.files import FileRecord, write
from autoresearch.errors import CorpusError, first_line

SCHEMA: Literal[1] = 1
Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Origin(_Record):
    """What of a published dataset a corpus was made of."""

    repo: str
    commit: str
    files: int  # to train on, the first of them
    of: int  # that the dataset has


class SplitText(_Record):
    """The text of one split: documents end to end in UTF-8, and where each begins."""

    documents: int
    bytes: int
    text: FileRecord
    offsets: FileRecord  # .npy of int64[documents + 1]


class SplitTokens(_Record):
    """One split encoded with one vocabulary."""

    tokens: int
    file: FileRecord


class Vocabulary(_Record):
    """One vocabulary, and the splits encoded with it so far."""

    bos: int
    ranks: FileRecord | None  # tiktoken's base64 form; None: tokens are bytes
    pattern: FileRecord | None  # JSON: how text is cut before byte pairs are merged
    token_bytes: FileRecord
    splits: dict[Split, SplitTokens] = {}


class Manifest(_Record):
    """All that is known of a prepared corpus: what it was made of, and what is finished."""

    schema_version: Literal[1] = SCHEMA
    spec: str
    identity: str
    documents: int  # of the source, empty and skipped ones not counted
    duplicates: int  # removed before splitting
    skipped: int  # files or rows that are not text
    splits: dict[Split, SplitText]
    vocabularies: dict[int, Vocabulary] = {}
    fingerprint: str  # of the documents and their split, whatever the vocabulary
    origin: Origin | None = None  # None: it was not fetched


class Layout:
    """Where the files of one prepared corpus lie below its folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.manifest = root / "manifest.json"
        self.lock = root / ".lock"
        self.spool = root / "source.txt"  # only while the source is read

    def text(self, split: Split) -> Path:
        return self._tree(split) / f"{split}.txt"

    def offsets(self, split: Split) -> Path:
        return self._tree(split) / f"{split}.offsets.npy"

    def tokens(self, split: Split, vocab_size: int) -> Path:
        return self._tree(split) / str(vocab_size) / f"{split}.bin"

    def ranks(self, vocab_size: int) -> Path:
        return self._tree("train") / str(vocab_size) / "ranks.tiktoken"

    def pattern(self, vocab_size: int) -> Path:
        return self._tree("train") / str(vocab_size) / "pattern.json"

    def token_bytes(self, vocab_size: int) -> Path:
        return self._tree("train") / str(vocab_size) / "token_bytes.npy"

    def _tree(self, split: Split) -> Path:
        return self.root / ("train" if split == "train" else "held_out")


def text_files(layout: Layout, manifest: Manifest) -> Iterator[tuple[Path, FileRecord]]:
    """The files of the split text, each with what it must be."""
    for split, entry in manifest.splits.items():
        yield layout.text(split), entry.text
        yield layout.offsets(split), entry.offsets


def tokenizer_files(layout: Layout, manifest: Manifest, vocab_size: int) -> Iterator[tuple[Path, FileRecord]]:
    """The files of one tokenizer, each with what it must be."""
    vocabulary = manifest.vocabularies[vocab_size]
    if vocabulary.ranks:
        yield layout.ranks(vocab_size), vocabulary.ranks
    if vocabulary.pattern:
        yield layout.pattern(vocab_size), vocabulary.pattern
    yield layout.token_bytes(vocab_size), vocabulary.token_bytes


def all_files(layout: Layout, manifest: Manifest) -> Iterator[tuple[Path, FileRecord]]:
    """Every file the manifest lists."""
    yield from text_files(layout, manifest)
    for size, vocabulary in manifest.vocabularies.items():
        yield from tokenizer_files(layout, manifest, size)
        for split, entry in vocabulary.splits.items():
            yield layout.tokens(split, size), entry.file


def fingerprint(splits: dict[Split, SplitText]) -> str:
    """Hex digest of what the documents are and which split each is in."""
    parts = (f"{split} {splits[split].text.sha256} {splits[split].offsets.sha256}\n" for split in SPLITS)
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def save(layout: Layout, manifest: Manifest) -> None:
    """Write the manifest, whole or not at all."""
    write(layout.manifest, manifest.model_dump_json(indent=1).encode() + b"\n")


def load(layout: Layout) -> Manifest | None:
    """The manifest, or None if nothing is prepared. CorpusError if it is damaged."""
    try:
        return Manifest.model_validate_json(layout.manifest.read_bytes())
    except FileNotFoundError:
        return None
    except (ValidationError, OSError) as error:
        raise CorpusError(
            f"{layout.manifest} cannot be read: {first_line(error)}.",
            f"Delete the folder {layout.root} and run autoresearch prepare again.",
        ) from error
