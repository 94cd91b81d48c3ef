"""Preparing a corpus: fetch, read, split, learn tokenizers, encode. Each stage is finished, noted in the manifest and
kept."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from autoresearch.corpus import hub, shards, sources, tokenizer
from autoresearch.corpus.files import FULL, has_size, remove_partial, replacing
from autoresearch.corpus.manifest import (
    SPLITS,
    Layout,
    Manifest,
    Split,
    SplitTokens,
    Vocabulary,
    load,
    save,
    text_files,
    tokenizer_files,
)
from autoresearch.corpus.parallel import in_order
from autoresearch.corpus.progress import Progress, silent
from autoresearch.corpus.split import read_batches, split_source
from autoresearch.corpus.store import Corpus, folder, prepare_command, prepared
from autoresearch.errors import CorpusError, Misuse
from autoresearch.units import format_size

_BATCH = 1 << 19  # bytes of text encoded in one go, by one thread


def prepare(
    spec: str,
    vocab_sizes: Sequence[int],
    cache: Path,
    progress: Progress = silent,
    *,
    tokens: int = 0,
    endpoint: str = hub.ENDPOINT,
    tell: Callable[[str], None] = lambda line: None,
) -> Corpus:
    """Read the source, split it and encode it with every vocabulary, below `cache`; what is done already is kept.

    Of a dataset of the hub as much is fetched, from `endpoint`, as gives `tokens` to train on, and `tell` is told first
    what that takes; if as much is prepared already, nothing is fetched. A folder or stdlib is taken whole.

    May be interrupted at any point and called again, and called by several processes at once. CorpusError: the source
    cannot be fetched or read, is too small, or the disk is full. Misuse: a vocabulary size outside 256 to 65536.
    """
    for size in vocab_sizes:
        _check_size(size)
    if spec not in hub.DATASETS:
        return _build(sources.find(spec), vocab_sizes, cache, progress)
    corpus = next((there for there in prepared(spec, cache) if _has_text(there)), None)
    while corpus is None or shards.is_short(corpus, vocab_sizes, tokens):
        listing = hub.listing(hub.DATASETS[spec], endpoint)
        plan = shards.plan(listing, vocab_sizes, tokens, corpus)
        shards.check_disk(plan, cache)
        tell(shards.describe(plan))
        corpus = _build(shards.fetch(plan, progress), vocab_sizes, cache, progress)
    for size in vocab_sizes:
        corpus = ensure(corpus, size, progress)
    return corpus


def ensure(corpus: Corpus, vocab_size: int, progress: Progress = silent) -> Corpus:
    """The corpus with one more vocabulary, encoded now if it is not yet; from its own text, not from the source."""
    _check_size(vocab_size)
    text = sum(entry.bytes for entry in corpus.manifest.splits.values())
    with _working(corpus.layout, corpus.manifest.spec, text, [vocab_size], progress):
        manifest = _prepare_vocabulary(corpus.layout, load(corpus.layout) or corpus.manifest, vocab_size, progress)
    return Corpus(corpus.root, corpus.name, manifest.fingerprint, manifest)


def _build(source: sources.Source, vocab_sizes: Sequence[int], cache: Path, progress: Progress) -> Corpus:
    layout = Layout(folder(source, cache))
    with _working(layout, source.spec, source.text, vocab_sizes, progress):
        manifest = _prepare_text(source, layout, progress)
        for size in vocab_sizes:
            manifest = _prepare_vocabulary(layout, manifest, size, progress)
    return Corpus(layout.root, source.name, manifest.fingerprint, manifest)


def _has_text(corpus: Corpus) -> bool:
    return all(has_size(path, record) for path, record in text_files(corpus.layout, corpus.manifest))


def _check_size(vocab_size: int) -> None:
    if not 256 <= vocab_size <= 65536:
        raise Misuse(f"A vocabulary of {vocab_size} cannot be.", "Choose 256 (bytes) to 65536.")


@contextmanager
def _working(layout: Layout, spec: str, text: float, vocab_sizes: Sequence[int], progress: Progress) -> Iterator[None]:
    """Hold the corpus's folder alone; say what a failing disk means."""
    try:
        layout.root.mkdir(parents=True, exist_ok=True)
        with _alone(layout, progress):
            remove_partial(layout.root)
            yield
    except OSError as error:
        again = f"then run {prepare_command(spec)} again: what is finished is kept."
        if error.errno in FULL:
            need = format_size(_bytes_needed(layout, text, vocab_sizes))
            raise CorpusError(
                f"The disk is full: preparing {spec} in {layout.root} needs about {need} more.",
                f"Free as much or choose another cache folder, {again}",
            ) from error
        raise CorpusError(
            f"{layout.root} cannot be written: {error.strerror or error}.", f"Repair that, {again}"
        ) from error


@contextmanager
def _alone(layout: Layout, progress: Progress) -> Iterator[None]:
    lock = FileLock(layout.lock)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        progress("waiting for another prepare", 0, 1)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _bytes_needed(layout: Layout, text: float, vocab_sizes: Sequence[int]) -> float:
    """What the stages still to do will write."""
    manifest = load(layout)
    if manifest is None:
        return shards.space(text, vocab_sizes).work
    needed = 0.0
    for size in vocab_sizes:
        done = vocabulary.splits if (vocabulary := manifest.vocabularies.get(size)) else {}
        needed += sum(
            shards.encoded(entry.bytes, size) for split, entry in manifest.splits.items() if split not in done
        )
    return needed


def _prepare_text(source: sources.Source, layout: Layout, progress: Progress) -> Manifest:
    old = load(layout)
    if old and all(has_size(path, record) for path, record in text_files(layout, old)):
        return old
    new = split_source(source, layout, progress)
    if source.origin is None and sources.find(source.spec).identity != source.identity:
        raise CorpusError(
            f"The corpus {source.spec} changed while it was read.", "Run prepare again when it is at rest."
        )
    if old and old.splits == new.splits:  # text was damaged and is as it was: so are the tokens
        new = new.model_copy(update={"vocabularies": old.vocabularies})
    save(layout, new)
    return new


def _prepare_vocabulary(layout: Layout, manifest: Manifest, size: int, progress: Progress) -> Manifest:
    vocabulary = manifest.vocabularies.get(size)
    if not vocabulary or not all(has_size(*file) for file in tokenizer_files(layout, manifest, size)):
        vocabulary = tokenizer.learn(layout, size, manifest.splits["train"].bytes, progress)
        manifest = _note(layout, manifest, size, vocabulary)
    encode: tokenizer.Encoder | None = None
    for split in SPLITS:
        entry = vocabulary.splits.get(split)
        if entry and has_size(layout.tokens(split, size), entry.file):
            continue
        encode = encode or tokenizer.encoder(layout, size)
        entry = _encode_split(layout, manifest, split, size, encode, progress)
        vocabulary = vocabulary.model_copy(update={"splits": {**vocabulary.splits, split: entry}})
        manifest = _note(layout, manifest, size, vocabulary)
    return manifest


def _note(layout: Layout, manifest: Manifest, size: int, vocabulary: Vocabulary) -> Manifest:
    manifest = manifest.model_copy(update={"vocabularies": {**manifest.vocabularies, size: vocabulary}})
    save(layout, manifest)
    return manifest


def _encode_split(
    layout: Layout, manifest: Manifest, split: Split, size: int, encode: tokenizer.Encoder, progress: Progress
) -> SplitTokens:
    def work(documents: list[bytes]) -> tuple[int, bytes]:
        return sum(map(len, documents)), encode(documents).tobytes()

    stage, done, total = f"encoding {split} with {size}", 0, manifest.splits[split].bytes
    with replacing(layout.tokens(split, size)) as out:
        for passed, tokens in in_order(work, read_batches(layout, split, _BATCH)):
            out.write(tokens)
            done += passed
            progress(stage, done, total)
    return SplitTokens(tokens=out.size // 2, file=out.record)
