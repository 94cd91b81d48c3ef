"""Training rows out of one long stream of tokens, as fast as a device can gather them."""

import mmap
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from autoresearch.corpus.reader import open_tokens
from autoresearch.records import TokenFile

Batch = tuple[Tensor, Tensor]


class TrainingData:
    """Rows of a token file. A row is BOS and T tokens of the stream: inputs row[:T], targets row[1:].

    The stream lies on the device if a quarter of its memory holds it, else on the host; the gather is the same code
    for both. Where the file has no path, the text is taken in later, and there are only warm-up batches until then.
    """

    def __init__(self, tokens: TokenFile, seed: int, device: torch.device) -> None:
        fits = device.type == "cpu" or 2 * tokens.tokens <= _device_memory(device) // 4
        self._place = device if fits else torch.device("cpu")
        self._length = tokens.tokens
        self._stream = torch.empty(0, dtype=torch.int16)
        self._device = device
        self._bos = tokens.bos
        self._vocab_size = tokens.vocab_size
        self._seed = seed
        self._starts: dict[int, _RowStarts] = {}
        if tokens.path:
            open_tokens(tokens)  # checks that the file is there and whole
            with Path(tokens.path).open("rb") as file:
                self.take_in(file.fileno())

    def take_in(self, file: int) -> None:
        """Read the text. file: a descriptor of the token file, which may be closed afterwards."""
        # int16, since torch cannot index uint16; a private mapping, since it has no read-only tensors.
        text = mmap.mmap(file, 2 * self._length, access=mmap.ACCESS_COPY)
        self._stream = torch.frombuffer(text, dtype=torch.int16).to(self._place)

    def warmup(self, rows: int, context: int) -> Iterator[Batch]:
        """Random tokens without end: nothing can be learned from them. They are made as real batches are, so that what
        this loads, when it is first done, is loaded."""
        self._rows(context)
        generator = torch.Generator(self._device).manual_seed(self._seed)
        starts = context * torch.arange(rows, device=self._place)
        while True:
            tokens = torch.randint(self._vocab_size, (rows * context,), generator=generator, device=self._device)
            yield self._gathered(tokens.to(self._place, torch.int16), starts, context)

    def batch(self, rows: int, context: int) -> Batch:
        """The next inputs and targets, int64[rows, context] each, on the device."""
        return self._gathered(self._stream, self._rows(context).take(rows), context)

    def _rows(self, context: int) -> "_RowStarts":
        if context not in self._starts:
            self._starts[context] = _RowStarts(self._length, context, self._seed, self._place)
        return self._starts[context]

    def _gathered(self, stream: Tensor, starts: Tensor, context: int) -> Batch:
        places = (starts[:, None] + torch.arange(context, device=starts.device)) % len(stream)
        tokens = stream[places]
        if tokens.device.type != self._device.type:
            tokens = tokens.pin_memory().to(self._device, non_blocking=True)
        targets = tokens.long() & 0xFFFF
        inputs = torch.empty_like(targets)
        inputs[:, 0] = self._bos
        inputs[:, 1:] = targets[:, :-1]
        return inputs, targets


class _RowStarts:
    """Where rows begin. One epoch tiles the stream, a ring, from a random phase and in random order.

    So over epochs each token is a target in every place of a row, and none is thrown away.
    """

    def __init__(self, length: int, context: int, seed: int, device: torch.device) -> None:
        self._length, self._context = length, context
        self._generator = torch.Generator(device).manual_seed(seed)
        self._left = self._epoch()

    def take(self, rows: int) -> Tensor:
        """int64[rows], each in [0, length)."""
        while len(self._left) < rows:
            self._left = torch.cat([self._left, self._epoch()])
        taken, self._left = self._left[:rows], self._left[rows:]
        return taken

    def _epoch(self) -> Tensor:
        device = self._generator.device
        rows = max(1, self._length // self._context)
        phase = torch.randint(self._length, (1,), generator=self._generator, device=device)
        order = torch.randperm(rows, generator=self._generator, device=device)
        return (order * self._context + phase) % self._length


def _device_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return torch.mps.recommended_max_memory() if device.type == "mps" else 0
