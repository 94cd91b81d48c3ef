"""The validation text as rows: every token a target, every byte of text counted once."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autoresearch.corpus.reader import open_token_bytes, open_tokens, whole_documents
from autoresearch.records import TokenFile


@dataclass(frozen=True, slots=True)
class Validation:
    """tokens: uint16[R, T + 1], each row BOS and then T tokens of the stream, the last one padded with BOS.

    Column t of a row is the model's input, column t + 1 its target; the first `targets` of all R x T targets count.
    """

    tokens: NDArray[np.uint16]
    targets: int
    bytes: int
    sizes: NDArray[np.uint16]  # [targets]: bytes of text that each stands for, 0 for BOS
    bos: int
    vocab_size: int

    @property
    def context(self) -> int:
        return int(self.tokens.shape[1]) - 1

    @property
    def stream(self) -> NDArray[np.uint16]:
        """uint16[targets]: all targets in the order of the text."""
        return self.tokens[:, 1:].reshape(-1)[: self.targets]


def read(tokens: TokenFile, context: int, limit: int) -> Validation:
    """Whole documents of the file, at most `limit` bytes of text. CorpusError if the file is not what it should be."""
    stream, token_bytes = open_tokens(tokens), open_token_bytes(tokens)
    prefix = whole_documents(stream, token_bytes, tokens.bos, limit)
    targets = np.asarray(stream[: prefix.tokens])
    rows = -(-len(targets) // context)
    table = np.full((rows, context + 1), tokens.bos, dtype=np.uint16)
    whole = len(targets) // context
    table[:whole, 1:] = targets[: whole * context].reshape(whole, context)
    table[whole:, 1 : 1 + len(targets) - whole * context] = targets[whole * context :]
    sizes = token_bytes.astype(np.uint16)[targets]
    return Validation(table, len(targets), prefix.bytes, sizes, tokens.bos, tokens.vocab_size)
