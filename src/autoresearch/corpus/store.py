"""Corpora that are prepared: opened without building anything."""

import shlex
from dataclasses import dataclass
from pathlib import Path

from autoresearch.corpus import hub, sources
from autoresearch.corpus.files import has_size, is_intact
from autoresearch.corpus.manifest import SPLITS, Layout, Manifest, Split, all_files, load, tokenizer_files
from autoresearch.errors import CorpusError
from autoresearch.records import CorpusView, TokenFile


@dataclass(frozen=True, slots=True)
class Corpus:
    """A prepared corpus: text in three splits, and the vocabularies it is encoded with."""

    root: Path
    name: str
    fingerprint: str  # of the documents and their split; the same wherever and with whatever vocabulary it is prepared
    manifest: Manifest

    @property
    def layout(self) -> Layout:
        return Layout(self.root)

    @property
    def train_bytes(self) -> int:
        """Text to train on."""
        return self.manifest.splits["train"].bytes

    def view(self, vocab_size: int) -> CorpusView:
        """What an experiment with this vocabulary reads. CorpusError if it is not encoded, or a file is not whole."""
        return CorpusView(
            fingerprint=self.fingerprint,
            train=self.token_file("train", vocab_size),
            validation=self.token_file("validation", vocab_size),
            test=self.token_file("test", vocab_size),
        )

    def token_file(self, split: Split, vocab_size: int) -> TokenFile:
        """One split encoded with one vocabulary. CorpusError if it is not encoded, or a file is not whole."""
        vocabulary = self.manifest.vocabularies.get(vocab_size)
        entry = vocabulary.splits.get(split) if vocabulary else None
        if vocabulary is None or entry is None:
            raise CorpusError(
                f"The corpus {self.name} is not encoded with a vocabulary of {vocab_size}.",
                f"Run {prepare_command(self.manifest.spec)} with {vocab_size} among the vocabulary sizes.",
            )
        path = self.layout.tokens(split, vocab_size)
        for file, record in [(path, entry.file), *tokenizer_files(self.layout, self.manifest, vocab_size)]:
            if not has_size(file, record):
                raise CorpusError(
                    f"{file} is missing or not whole: it should have {record.size} bytes.",
                    f"Run {prepare_command(self.manifest.spec)}: it redoes what is damaged.",
                )
        return TokenFile(
            path=str(path),
            vocab_size=vocab_size,
            bos=vocabulary.bos,
            tokens=entry.tokens,
            bytes=self.manifest.splits[split].bytes,
            token_bytes=str(self.layout.token_bytes(vocab_size)),
        )


def folder(source: sources.Source, cache: Path) -> Path:
    """Where a source is prepared: a folder of its own for each state of the source."""
    return _corpora(cache) / f"{source.name}-{source.identity[:12]}"


def _corpora(cache: Path) -> Path:
    return cache.absolute() / "corpora"


def open(spec: str, cache: Path, fingerprint: str | None = None) -> Corpus:
    """The corpus of this name: the one with this fingerprint, whatever its source is now; else as its source is now, or
    the largest of those fetched from the hub. CorpusError if it is not prepared; nothing is built, and no network is
    needed."""
    there = prepared(spec, cache) if fingerprint or spec in hub.DATASETS else []
    begun = [corpus for corpus in there if corpus.fingerprint == fingerprint]
    if len(begun) > 1:  # of one text, at several times
        begun.sort(key=lambda corpus: not is_as_it_was(corpus, cache))
    if begun:
        return begun[0]
    if spec in hub.DATASETS:
        if not there:
            raise CorpusError(f"The corpus {spec} is not prepared.", f"{_prepare_first(spec)}: it is fetched then.")
        return there[0]
    source = sources.find(spec)
    root = folder(source, cache)
    manifest = load(Layout(root))
    if manifest is None:
        raise CorpusError(f"The corpus {spec} is not prepared as it is now.", f"{_prepare_first(spec)}.")
    return Corpus(root, source.name, manifest.fingerprint, manifest)


def is_as_it_was(corpus: Corpus, cache: Path) -> bool:
    """Whether preparing its source now would give this very corpus; of what was fetched, that is so."""
    try:
        return corpus.manifest.spec in hub.DATASETS or folder(sources.find(corpus.manifest.spec), cache) == corpus.root
    except CorpusError:
        return False


def prepared(spec: str, cache: Path) -> list[Corpus]:
    """What was prepared under this name, whatever its source was then: the finished first, the largest first."""
    found: list[Corpus] = []
    try:
        spec, name = sources.canonical(spec), sources.name(spec)
    except (OSError, RuntimeError, ValueError):
        return []
    for root in sorted(_corpora(cache).glob(f"{name}-*")):
        try:
            manifest = load(Layout(root))
        except CorpusError:
            if spec in hub.DATASETS:
                raise
            continue  # perhaps another folder's; `open` raises for this one's
        if manifest is not None and manifest.spec == spec:
            found.append(Corpus(root, name, manifest.fingerprint, manifest))
    return sorted(found, key=lambda corpus: (_is_finished(corpus.manifest), corpus.train_bytes), reverse=True)


def _is_finished(manifest: Manifest) -> bool:
    return all(len(vocabulary.splits) == len(SPLITS) for vocabulary in manifest.vocabularies.values())


def verify(corpus: Corpus) -> None:
    """Read every file and compare it with what was written. CorpusError names the first that differs."""
    for path, record in all_files(corpus.layout, corpus.manifest):
        try:
            intact = is_intact(path, record)
        except OSError as error:
            raise CorpusError(f"{path} cannot be read: {error.strerror}.", "Check the disk.") from error
        if not intact:
            raise CorpusError(
                f"{path} is missing or not what was written.",
                f"Delete the file and run {prepare_command(corpus.manifest.spec)}: it redoes what is missing.",
            )


def _prepare_first(spec: str) -> str:
    return f"Run {prepare_command(spec)}, with the --program that is to run"


def prepare_command(spec: str) -> str:
    """What a person types to prepare a corpus."""
    return f"`autoresearch prepare --corpus {shlex.quote(spec)}`"
