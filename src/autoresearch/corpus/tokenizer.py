"""Tokenizers: byte pairs learned from the train split by rustbpe and applied by tiktoken, or bytes as they are.

A vocabulary of V has V - 1 ranks and, as id V - 1, BOS. V = 256 means bytes: 0xFF occurs in no UTF-8 text, so 256 ids
are enough for the bytes and BOS. Special tokens are never looked for in text: `<|bos|>` there is seven characters.
"""

import base64
import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from autoresearch.corpus.files import write
from autoresearch.corpus.manifest import Layout, Vocabulary
from autoresearch.corpus.progress import Progress
from autoresearch.corpus.split import npy, read_batches
from autoresearch.errors import CorpusError

if TYPE_CHECKING:
    import tiktoken

BYTES = 256
SAMPLE = (
    100_000_000  # bytes of text that byte pairs are learned from; the split's order makes any prefix a random sample
)

# GPT-4's way of cutting text, with at most two digits in a piece, which suits small vocabularies. Runs of white space
# are bounded and the others possessive, or the regular expression engine overflows its stack on a megabyte of blanks.
PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,2}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
    r"|\s{0,512}[\r\n]|\s{1,512}(?!\S)|\s"
)

_BATCH = 1 << 22  # bytes of text in memory at once
_SPARE = 64  # ranks learned in excess, since two merges can give the same bytes and the later one is then dropped

Encoder = Callable[[list[bytes]], NDArray[np.uint16]]


def learn(layout: Layout, vocab_size: int, train_bytes: int, progress: Progress) -> Vocabulary:
    """Make the tokenizer of one size and write its files. CorpusError if the text has too few byte pairs for it."""
    if vocab_size == BYTES:
        ranks = [bytes([value]) for value in range(BYTES - 1)]
        ranks_record = pattern_record = None
    else:
        ranks = _learn_ranks(layout, vocab_size, train_bytes, progress)
        lines = (b"%b %d\n" % (base64.b64encode(token), rank) for rank, token in enumerate(ranks))
        ranks_record = write(layout.ranks(vocab_size), b"".join(lines))
        pattern_record = write(layout.pattern(vocab_size), json.dumps({"pattern": PATTERN}).encode() + b"\n")
    sizes = np.array([*map(len, ranks), 0], "<i4")
    return Vocabulary(
        bos=vocab_size - 1,
        ranks=ranks_record,
        pattern=pattern_record,
        token_bytes=write(layout.token_bytes(vocab_size), npy(sizes)),
    )


def encoder(layout: Layout, vocab_size: int) -> Encoder:
    """A function from documents (UTF-8) to tokens (uint16, BOS after each); it checks that they decode to the same.

    It may be called from many threads at once: what takes time is done by tiktoken and numpy without the interpreter's
    lock. (tiktoken's own decoding takes lists of ints, which it makes and reads under that lock.)"""
    if vocab_size == BYTES:
        return _encode_as_bytes
    encoding = load(layout, vocab_size)
    decoder = _Decoder.of([encoding.decode_single_token_bytes(rank) for rank in range(vocab_size - 1)])
    return lambda documents: _encode(encoding, decoder, documents)


def load(layout: Layout, vocab_size: int) -> "tiktoken.Encoding":
    """The tokenizer of one size (not 256) for use: what `decode` and `encode_ordinary` need. CorpusError if damaged."""
    import tiktoken

    try:
        lines = layout.ranks(vocab_size).read_bytes().splitlines()
        ranks = {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines)}
        pattern = json.loads(layout.pattern(vocab_size).read_bytes())["pattern"]
        return tiktoken.Encoding(
            f"autoresearch-{vocab_size}",
            pat_str=pattern,
            mergeable_ranks=ranks,
            special_tokens={"<|bos|>": vocab_size - 1},
            explicit_n_vocab=vocab_size,
        )
    except (OSError, ValueError, KeyError, AssertionError) as error:
        folder = layout.ranks(vocab_size).parent
        raise CorpusError(
            f"The tokenizer in {folder} is damaged ({type(error).__name__}).",
            "Delete that folder and run autoresearch prepare again.",
        ) from error


def _learn_ranks(layout: Layout, vocab_size: int, train_bytes: int, progress: Progress) -> list[bytes]:
    """The bytes of every rank, in order."""
    import rustbpe

    stage, total = f"learning {vocab_size} tokens", min(train_bytes, SAMPLE)
    tokenizer = rustbpe.Tokenizer()
    tokenizer.train_from_iterator(_sample(layout, total, stage, progress), vocab_size - 1 + _SPARE, pattern=PATTERN)
    ranks = list(dict.fromkeys(bytes(token) for token, _ in tokenizer.get_mergeable_ranks()))[: vocab_size - 1]
    if len(ranks) < vocab_size - 1:
        raise CorpusError(
            f"The corpus is too small for a vocabulary of {vocab_size}: its text gives at most {len(ranks) + 1}.",
            f"Use a vocabulary size of {len(ranks) + 1} or less, or 256 for bytes.",
        )
    return ranks


def _sample(layout: Layout, total: int, stage: str, progress: Progress) -> Iterator[str]:
    done = 0
    for documents in read_batches(layout, "train", _BATCH):
        for document in documents:
            yield document[: total - done].decode(errors="ignore")
            done += len(document)
            if done >= total:
                progress(stage, total, total)
                return
        progress(stage, done, total)


def _encode_as_bytes(documents: list[bytes]) -> NDArray[np.uint16]:
    tokens = np.frombuffer(b"\xff".join([*documents, b""]), np.uint8).astype("<u2")
    if np.count_nonzero(tokens == BYTES - 1) != len(documents):
        raise CorpusError(
            "A document is not UTF-8: it has a byte 0xFF.", "Delete the prepared corpus and prepare again."
        )
    return tokens


class _Decoder(NamedTuple):
    """What every token stands for: the bytes of all of them end to end, and where each begins and how long it is."""

    table: NDArray[np.uint8]
    start: NDArray[np.int32]
    size: NDArray[np.int32]

    @classmethod
    def of(cls, ranks: list[bytes]) -> "_Decoder":
        size = np.array([*map(len, ranks)], np.int32)
        return cls(np.frombuffer(b"".join(ranks), np.uint8), np.cumsum(size, dtype=np.int32) - size, size)

    def __call__(self, tokens: NDArray[np.uint16]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """The bytes of uint16[n] tokens, and where in them each token ends."""
        start, size = self.start[tokens], self.size[tokens]
        ends = np.cumsum(size, dtype=np.int64)
        places = np.ones(ends[-1], np.int32)  # in the table: one on from byte to byte, but from token to token a jump
        places[0] = start[0]
        places[ends[:-1]] = start[1:] - (start[:-1] + size[:-1]) + 1
        return self.table[np.cumsum(places, out=places)], ends


def _encode(encoding: "tiktoken.Encoding", decoder: _Decoder, documents: list[bytes]) -> NDArray[np.uint16]:
    pieces = [encoding.encode_to_numpy(document.decode(), disallowed_special=()) for document in documents]
    tokens = np.concatenate(pieces).astype("<u2")
    stops = np.cumsum([len(piece) for piece in pieces])
    text, ends = decoder(tokens)
    same = np.array_equal(ends[stops - 1], np.cumsum([len(document) for document in documents]))
    if not same or text.tobytes() != b"".join(documents):
        pairs = zip(documents, pieces, strict=True)
        lost = next((whole for whole, piece in pairs if encoding.decode_bytes(piece.tolist()) != whole), b"?")
        start = lost[:60].decode(errors="replace")
        raise CorpusError(f"A document does not survive encoding with {encoding.name}: it begins {start!r}.")
    return np.insert(tokens, stops, encoding.n_vocab - 1)
