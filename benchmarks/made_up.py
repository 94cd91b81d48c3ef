"""Token files for benchmarks that need no text: what is in them changes no time and no memory."""

from pathlib import Path

import numpy as np

from autoresearch.records import TokenFile

DOCUMENT = 500  # tokens
TOKEN = 4  # bytes of text that a token stands for


def token_file(path: Path, count: int, vocab_size: int) -> TokenFile:
    """Whole documents of random tokens, at most `count` tokens in all. What it needs lies at `path` and beside it."""
    count, bos = count // DOCUMENT * DOCUMENT, vocab_size - 1
    stream = np.random.default_rng(0).integers(bos, size=count, dtype=np.uint16)
    stream[DOCUMENT - 1 :: DOCUMENT] = bos
    stream.astype("<u2", copy=False).tofile(path)
    sizes = path.with_suffix(".npy")
    np.save(sizes, np.where(np.arange(vocab_size) == bos, 0, TOKEN).astype(np.int32))
    return TokenFile(str(path), vocab_size, bos, count, TOKEN * (count - count // DOCUMENT), str(sizes))
