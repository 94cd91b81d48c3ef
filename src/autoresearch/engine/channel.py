"""How the scorer answers: over descriptors that it inherits and the candidate's processes do not, nor by any path."""

import os
from pathlib import Path
from types import TracebackType

from autoresearch.engine.files import RECORD, link, nameless, parse_record
from autoresearch.tasks import ScoreResult


class Channel:
    """A pipe for the word to go, one for the answer, and two files without names: what was compiled, and the losses."""

    def __init__(self, folder: Path) -> None:
        """folder: on the disk that is to hold the losses."""
        self._losses, self._compiled = nameless(folder), nameless(folder)
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        self._told, self._tell = os.pipe()
        self._data = b""

    def __enter__(self) -> "Channel":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._losses.close()
        self._compiled.close()
        for descriptor in (self._read, self._write, self._told, self._tell):
            os.close(descriptor)

    @property
    def ends(self) -> tuple[int, int, int, int]:
        """The scorer's descriptors: for its answer, for the losses, for the word to go, for what was compiled."""
        return self._write, self._losses.fileno(), self._told, self._compiled.fileno()

    def go(self, compiled: bytes | None) -> None:
        """Tell the scorer that the weights are there. Once. compiled: what compilers left when it was ready."""
        if compiled:
            self._compiled.write(compiled)
            self._compiled.flush()
        os.write(self._tell, b"g")

    def ready(self) -> bool:
        """Whether it waits for weights, or has answered."""
        self._listen()
        return b"\n" in self._data

    def result(self) -> ScoreResult | None:
        """What was said, once it is said in full. ValueError if it makes no sense."""
        self._listen()
        line, end, _ = self._data.removeprefix(b"\n").partition(b"\n")
        return parse_record(ScoreResult, line) if end else None

    def _listen(self) -> None:
        try:
            self._data += os.read(self._read, RECORD)
        except BlockingIOError:
            return

    def save_losses(self, path: Path) -> None:
        """Give the losses a name."""
        link(self._losses, path)
