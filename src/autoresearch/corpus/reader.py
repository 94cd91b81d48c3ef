"""Token files as child processes read them: numpy alone, nothing else of this package."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from autoresearch.errors import CorpusError
from autoresearch.records import TokenFile

Tokens = NDArray[np.uint16]
TokenBytes = NDArray[np.int32]

_CHUNK = 1 << 20  # tokens looked at in one go: a few megabytes, whatever the file's size


class Prefix(NamedTuple):
    """The beginning of a token file: whole documents, each with the BOS after it."""

    tokens: int
    bytes: int  # of the text itself, the same for every vocabulary


def open_tokens(token_file: TokenFile) -> Tokens:
    """The file as uint16[tokens], memory-mapped and read-only. CorpusError if it is missing or of another length."""
    path = Path(token_file.path)
    _check_size(path, token_file.tokens * 2)
    return np.memmap(path, dtype="<u2", mode="r", shape=(token_file.tokens,))


def open_token_bytes(token_file: TokenFile) -> TokenBytes:
    """int32[vocab_size]: UTF-8 bytes each token stands for, 0 for BOS. CorpusError if the file is not that."""
    path = Path(token_file.token_bytes)
    try:
        array: TokenBytes = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise _broken(path, str(error)) from error
    if array.dtype != np.dtype("<i4") or array.shape != (token_file.vocab_size,):
        raise _broken(path, f"it holds {array.dtype}{list(array.shape)}, not int32[{token_file.vocab_size}]")
    return array


def whole_documents(tokens: Tokens, token_bytes: TokenBytes, bos: int, limit: int) -> Prefix:
    """The longest prefix of whole documents with at most `limit` bytes of text; one document at least.

    tokens: uint16[n], every document followed by `bos`; token_bytes: int32[vocab_size]. CorpusError if no
    document ends in `tokens`.
    """
    best: Prefix | None = None
    before = 0  # bytes of the chunks already passed
    for start in range(0, len(tokens), _CHUNK):
        chunk = np.asarray(tokens[start : start + _CHUNK])
        sizes = before + np.cumsum(token_bytes[chunk], dtype=np.int64)
        ends = np.flatnonzero(chunk == bos)
        fits = int(np.searchsorted(sizes[ends], limit, side="right"))
        if fits == 0 and best is None and len(ends):
            fits = 1  # the first document, however long
        if fits:
            last = int(ends[fits - 1])
            best = Prefix(start + last + 1, int(sizes[last]))
        before = int(sizes[-1])
        if best is not None and before > limit:
            break
    if best is None:
        raise CorpusError("No document ends in this token file.", "Prepare the corpus again: autoresearch prepare.")
    return best


def _check_size(path: Path, expected: int) -> None:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise _broken(path, error.strerror or "it cannot be read") from error
    if size != expected or size == 0:
        raise _broken(path, f"it has {size} bytes, not {expected}")


def _broken(path: Path, why: str) -> CorpusError:
    return CorpusError(f"{path} is not whole: {why}.", "Run autoresearch prepare again: it redoes what is damaged.")
