"""A folder of text becomes splits and token files, the same every time."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from autoresearch.corpus import store, tokenizer
from autoresearch.corpus.manifest import SPLITS, Split
from autoresearch.corpus.prepare import ensure, prepare
from autoresearch.corpus.reader import open_token_bytes, open_tokens
from autoresearch.corpus.split import read_batches
from autoresearch.corpus.store import Corpus
from autoresearch.errors import CorpusError, Misuse
from tests.corpus.conftest import EMOJI, SIZES, SPECIAL, files_below, write_documents


def documents(corpus: Corpus, split: Split) -> list[bytes]:
    return [document for batch in read_batches(corpus.layout, split, 1000) for document in batch]


def decoded(corpus: Corpus, split: Split, size: int) -> list[bytes]:
    """The documents of a token file, from tokens alone."""
    file = corpus.token_file(split, size)
    tokens = open_tokens(file)
    ends = np.flatnonzero(tokens == file.bos)
    parts = [part[:-1].tolist() for part in np.split(tokens, ends + 1)[:-1]]
    return [bytes(p) for p in parts] if size == 256 else tokenizer.load(corpus.layout, size).decode_bytes_batch(parts)


@pytest.mark.parametrize("size", SIZES)
def test_tokens_decode_to_the_documents_and_count_their_bytes(prepared: Corpus, size: int) -> None:
    for split in SPLITS:
        file = prepared.token_file(split, size)
        tokens, token_bytes = open_tokens(file), open_token_bytes(file)
        assert decoded(prepared, split, size) == documents(prepared, split)
        assert token_bytes[file.bos] == 0 and tokens[-1] == file.bos == size - 1
        assert token_bytes[tokens].sum() == file.bytes == prepared.manifest.splits[split].bytes


def test_every_distinct_document_is_in_one_split_and_copies_are_dropped(prepared: Corpus, folder: Path) -> None:
    found = [document for split in SPLITS for document in documents(prepared, split)]
    assert sorted(found) == sorted({path.read_bytes() for path in folder.iterdir()})
    assert prepared.manifest.duplicates == 1
    assert [prepared.manifest.splits[split].documents for split in SPLITS] == [
        len(documents(prepared, split)) for split in SPLITS
    ]


def test_documents_lie_in_the_order_of_their_hash(prepared: Corpus) -> None:
    for split in SPLITS:
        digests = [hashlib.sha256(document).digest() for document in documents(prepared, split)]
        assert digests == sorted(digests)


def test_splits_have_their_share_and_do_not_move_when_documents_are_added(tmp_path: Path) -> None:
    rows = [f"document {number}" for number in range(4000)]
    for name, count in (("few", 3000), ("many", 4000)):
        (tmp_path / name).mkdir()
        pq.write_table(pa.table({"text": rows[:count]}), tmp_path / name / "x.parquet")
    few, many = (prepare(str(tmp_path / name), [256], tmp_path / "cache") for name in ("few", "many"))
    for split, share in (("train", 0.9), ("validation", 0.05), ("test", 0.05)):
        assert abs(many.manifest.splits[split].documents / 4000 - share) < 0.02
        assert set(documents(few, split)) <= set(documents(many, split))


def test_special_tokens_in_the_text_are_text(prepared: Corpus) -> None:
    encode = tokenizer.encoder(prepared.layout, 512)
    tokens = encode([SPECIAL.encode()])
    assert (tokens == 511).sum() == 1 and tokens[-1] == 511
    assert sum(len(SPECIAL) for split in SPLITS for d in documents(prepared, split) if d == SPECIAL.encode()) == len(
        SPECIAL
    )


def test_a_character_cut_into_tokens_counts_its_true_bytes(prepared: Corpus) -> None:
    encode, file = tokenizer.encoder(prepared.layout, 300), prepared.token_file("train", 300)
    tokens = encode(["🦔".encode()])  # not in the corpus, so no token is all of it; some begin like it
    assert open_token_bytes(file)[tokens].tolist() == [2, 1, 1, 0]
    assert open_token_bytes(file)[encode([EMOJI.encode()])].sum() == len(EMOJI.encode())


def test_an_encoding_that_loses_something_is_noticed(prepared: Corpus) -> None:
    encoding = tokenizer.load(prepared.layout, 300)
    tokens = [encoding.decode_single_token_bytes(token) for token in range(299)]
    documents = [b"the first", b"the second"]
    right = tokenizer._encode(encoding, tokenizer._Decoder.of(tokens), documents)
    assert b"".join([*tokens, b"\0"][token] for token in right) == b"the first\0the second\0"
    for wrong in (tokens[1:] + tokens[:1], [token[:1] for token in tokens], [token * 2 for token in tokens]):
        with pytest.raises(CorpusError, match="does not survive encoding"):
            tokenizer._encode(encoding, tokenizer._Decoder.of(wrong), documents)


def test_long_runs_of_one_character_encode(tmp_path: Path) -> None:
    write_documents(tmp_path / "runs")
    for number, run in enumerate((" ", "\t \n", "a", "=", "7", "\u200d")):
        (tmp_path / "runs" / f"run{number}").write_text(run * 1_000_000, encoding="utf-8")
    corpus = prepare(str(tmp_path / "runs"), [300], tmp_path / "cache")
    store.verify(corpus)


def test_two_preparations_are_the_same_files(prepared: Corpus, folder: Path, tmp_path: Path) -> None:
    again = prepare(str(folder), SIZES, tmp_path)
    assert again.fingerprint == prepared.fingerprint
    assert files_below(again.root) == files_below(prepared.root)
    assert again.root.name == prepared.root.name


def test_a_vocabulary_added_later_is_the_same_as_one_made_at_once(
    prepared: Corpus, folder: Path, tmp_path: Path
) -> None:
    corpus = prepare(str(folder), [256], tmp_path)
    with pytest.raises(CorpusError, match="not encoded with a vocabulary of 300"):
        corpus.view(300)
    for size in SIZES:
        corpus = ensure(corpus, size)
    assert files_below(corpus.root) == files_below(prepared.root)
    assert store.open(str(folder), tmp_path).view(300) == corpus.view(300)


def test_preparing_again_does_nothing(folder: Path, tmp_path: Path) -> None:
    stages: list[str] = []
    corpus = prepare(str(folder), [256, 300], tmp_path, lambda stage, done, total: stages.append(stage))
    assert {stage.split()[0] for stage in stages} == {"reading", "splitting", "learning", "encoding"}
    before = {path: path.stat().st_mtime_ns for path in corpus.root.rglob("*") if path.is_file()}
    stages.clear()
    prepare(str(folder), [256, 300], tmp_path, lambda stage, done, total: stages.append(stage))
    assert stages == []
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_progress_reaches_its_total_in_every_stage(folder: Path, tmp_path: Path) -> None:
    last: dict[str, tuple[int, int]] = {}

    def note(stage: str, done: int, total: int) -> None:
        assert last.get(stage, (0, total)) <= (done, total)
        last[stage] = (done, total)

    prepare(str(folder), [256, 300], tmp_path, note)
    assert all(done == total for done, total in last.values()) and len(last) == 9


def test_held_out_text_lies_in_another_tree(prepared: Corpus) -> None:
    view = prepared.view(300)
    train = prepared.root / "train"
    assert Path(view.train.path).is_relative_to(train) and Path(view.train.token_bytes).is_relative_to(train)
    names = {path.name for path in train.rglob("*") if path.is_file()}
    assert not any(name.startswith(("validation", "test")) for name in names)


def test_a_changed_folder_is_another_corpus(tmp_path: Path) -> None:
    write_documents(tmp_path / "words")
    first = prepare(str(tmp_path / "words"), [256], tmp_path / "cache")
    (tmp_path / "words" / "new.txt").write_text("something new")
    with pytest.raises(CorpusError, match=r"is not prepared as it is now\..*autoresearch prepare --corpus"):
        store.open(str(tmp_path / "words"), tmp_path / "cache")
    second = prepare(str(tmp_path / "words"), [256], tmp_path / "cache")
    assert first.root != second.root and first.fingerprint != second.fingerprint
    store.verify(first)
    cache = tmp_path / "cache"
    for corpus, is_now in ((first, False), (second, True)):
        found = store.open(str(tmp_path / "words"), cache, corpus.fingerprint)
        assert (found.root, store.is_as_it_was(found, cache)) == (corpus.root, is_now)


def test_of_two_of_one_text_that_is_opened_which_would_be_prepared_now(tmp_path: Path) -> None:
    """A copy or a checkout gives files other times, and so the corpus another folder."""
    words, cache = tmp_path / "words", tmp_path / "cache"
    write_documents(words)
    for moment in range(1, 6):
        for path in words.rglob("*.txt"):
            os.utime(path, (moment, moment))
        now = prepare(str(words), [256], cache)
        assert store.open(str(words), cache, now.fingerprint).root == now.root
    assert len([*(cache / "corpora").iterdir()]) == 5


def test_what_is_damaged_of_another_folders_corpus_is_in_nobodys_way(tmp_path: Path) -> None:
    words, cache = tmp_path / "words", tmp_path / "cache"
    write_documents(words)
    corpus = prepare(str(words), [256], cache)
    (cache / "corpora" / "words-old-123").mkdir()
    (cache / "corpora" / "words-old-123" / "manifest.json").write_text("{")
    assert store.open(str(words), cache, corpus.fingerprint).root == corpus.root
    corpus.layout.manifest.write_text("{")
    with pytest.raises(CorpusError, match="cannot be read"):
        store.open(str(words), cache, corpus.fingerprint)


def test_a_truncated_file_is_noticed_and_made_again(folder: Path, tmp_path: Path) -> None:
    corpus = prepare(str(folder), [256, 300], tmp_path)
    whole = files_below(corpus.root)
    for name in whole.keys() - {"manifest.json"}:
        path = corpus.root / name
        os.truncate(path, path.stat().st_size - 1)
        if Path(name).name in ("train.bin", "validation.bin", "token_bytes.npy", "ranks.tiktoken"):
            with pytest.raises(CorpusError, match="missing or not whole"):
                [corpus.view(size) for size in (256, 300)]
        with pytest.raises(CorpusError, match="not what was written"):
            store.verify(corpus)
        assert files_below(prepare(str(folder), [256, 300], tmp_path).root) == whole


def test_a_changed_byte_is_found_by_verify_and_its_remedy_works(folder: Path, tmp_path: Path) -> None:
    corpus = prepare(str(folder), [256], tmp_path)
    store.verify(corpus)
    path = Path(corpus.token_file("test", 256).path)
    data = bytearray(path.read_bytes())
    data[10] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorpusError, match=r"test\.bin is missing or not what was written.* Delete the file"):
        store.verify(corpus)
    path.unlink()
    store.verify(prepare(str(folder), [256], tmp_path))


def test_a_damaged_manifest_names_the_folder_to_delete(folder: Path, tmp_path: Path) -> None:
    corpus = prepare(str(folder), [256], tmp_path)
    for text in ("{", '{"schema_version": 2}', ""):
        corpus.layout.manifest.write_text(text)
        for call in (lambda: store.open(str(folder), tmp_path), lambda: prepare(str(folder), [256], tmp_path)):
            with pytest.raises(CorpusError, match="Delete the folder"):
                call()


@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_documents(tmp_path: Path, count: int) -> None:
    (tmp_path / "few").mkdir()
    (tmp_path / "few" / "empty.txt").touch()
    for number in range(count):
        (tmp_path / "few" / f"{number}.txt").write_text(f"{number}")
    with pytest.raises(CorpusError, match=f"too small: {count} different documents"):
        prepare(str(tmp_path / "few"), [256], tmp_path / "cache")


@pytest.mark.parametrize("count", [3, 4, 10])
def test_a_tiny_corpus_has_a_document_in_each_split(tmp_path: Path, count: int) -> None:
    (tmp_path / "tiny").mkdir()
    for number in range(count):
        (tmp_path / "tiny" / f"{number}.txt").write_text(f"{number}")
    corpus = prepare(str(tmp_path / "tiny"), [256], tmp_path / "cache")
    assert all(len(documents(corpus, split)) >= 1 for split in SPLITS)
    assert corpus.view(256).validation.bytes >= 1


def test_text_too_small_for_a_vocabulary_names_the_largest_possible(tmp_path: Path) -> None:
    (tmp_path / "small").mkdir()
    for letter in "abcdefgh":
        (tmp_path / "small" / letter).write_text(letter * 50)
    with pytest.raises(CorpusError, match="too small for a vocabulary of 5000: its text gives at most") as caught:
        prepare(str(tmp_path / "small"), [5000], tmp_path / "cache")
    largest = int(caught.value.message.rstrip(".").split()[-1])
    assert prepare(str(tmp_path / "small"), [largest], tmp_path / "cache").view(largest).train.bos == largest - 1


@pytest.mark.parametrize("size", [0, 255, 65537])
def test_impossible_vocabulary_sizes_are_misuse(prepared: Corpus, folder: Path, tmp_path: Path, size: int) -> None:
    with pytest.raises(Misuse, match=f"A vocabulary of {size} cannot be"):
        prepare(str(folder), [size], tmp_path)
    with pytest.raises(Misuse):
        ensure(prepared, size)
    assert not any(tmp_path.iterdir())
