"""Token files as the harness reads them."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoresearch.corpus.reader import open_token_bytes, open_tokens, whole_documents
from autoresearch.corpus.store import Corpus
from autoresearch.errors import CorpusError
from tests.corpus.conftest import SIZES


@pytest.mark.parametrize("limit", [1, 1000, 3000, 10**9])
def test_a_byte_limited_prefix_is_the_same_text_whatever_the_vocabulary(prepared: Corpus, limit: int) -> None:
    prefixes = {}
    for size in SIZES:
        file = prepared.token_file("train", size)
        prefixes[size] = whole_documents(open_tokens(file), open_token_bytes(file), file.bos, limit)
    assert len({prefix.bytes for prefix in prefixes.values()}) == 1
    first = np.load(prepared.layout.offsets("train"))[1]
    assert prefixes[256].bytes <= limit or prefixes[256].bytes == first > limit
    assert prefixes[256].tokens > prefixes[300].tokens > prefixes[512].tokens
    if limit == 10**9:
        assert prefixes[300] == (prepared.token_file("train", 300).tokens, prepared.manifest.splits["train"].bytes)


@settings(deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=30), st.integers(0, 300))
def test_the_prefix_is_the_longest_that_fits(lengths: list[int], limit: int) -> None:
    bos, token_bytes = 3, np.array([1, 2, 4, 0], np.int32)
    documents = [[(i + n) % 3 for i in range(n)] for n in lengths]
    tokens = np.array([token for document in documents for token in [*document, bos]], np.uint16)
    sizes = np.cumsum([token_bytes[document].sum() for document in documents])
    count = max(1, int((sizes <= limit).sum()))
    expected = (sum(len(document) + 1 for document in documents[:count]), int(sizes[count - 1]))
    assert whole_documents(tokens, token_bytes, bos, limit) == expected


@pytest.mark.parametrize("limit", [10, 2_600_000, 2_600_001, 3_000_000, 10**9])
def test_documents_longer_than_what_is_read_at_once(limit: int) -> None:
    lengths = np.array([2_600_000, 1, 399_999, 700_000])
    tokens = np.zeros(lengths.sum() + len(lengths), np.uint16)
    ends = np.cumsum(lengths + 1)
    tokens[ends - 1] = 255
    token_bytes = np.r_[np.ones(255, np.int32), np.int32(0)]
    count = max(1, int((np.cumsum(lengths) <= limit).sum()))
    assert whole_documents(tokens, token_bytes, 255, limit) == (ends[count - 1], lengths[:count].sum())


def test_a_file_without_an_end_of_document_is_refused() -> None:
    with pytest.raises(CorpusError, match="No document ends"):
        whole_documents(np.zeros(5, np.uint16), np.ones(256, np.int32), 255, 100)


def test_a_file_of_another_length_is_refused(prepared: Corpus, tmp_path: Path) -> None:
    file = prepared.token_file("validation", 256)
    cut = tmp_path / "cut.bin"
    cut.write_bytes(Path(file.path).read_bytes()[:-2])
    for path in (cut, tmp_path / "missing.bin"):
        with pytest.raises(CorpusError, match="not whole"):
            open_tokens(replace(file, path=str(path)))
    with pytest.raises(CorpusError, match=r"int32\[300\]"):
        open_token_bytes(replace(file, vocab_size=300))


def test_tokens_cannot_be_written_to(prepared: Corpus) -> None:
    tokens = open_tokens(prepared.token_file("train", 256))
    with pytest.raises(ValueError, match="read-only"):
        tokens[0] = 1


def test_a_child_that_reads_tokens_loads_no_tokenizer() -> None:
    code = "import sys, autoresearch.corpus.reader; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert [name for name in modules if name.startswith("autoresearch.corpus.")] == ["autoresearch.corpus.reader"]
    assert not {"tiktoken", "rustbpe", "pyarrow", "torch"} & set(modules)
