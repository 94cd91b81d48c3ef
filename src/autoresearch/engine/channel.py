"""How the scorer answers: over descriptors that it inherits and the candidate's processes do not, nor by any path."""

import os
import shutil
import tempfile
from pathlib import Path
from types import TracebackType

from autoresearch.engine.files import RECORD, parse_record
from autoresearch.tasks import ScoreResult


class Channel:
    """A pipe for the word to go, one for the result, and a file without a name for the losses (.npz)."""

    def __init__(self, folder: Path) -> None:
        """folder: on the disk that is to hold the losses."""
        self._losses = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        self._told, self._tell = os.pipe()
        self._data = b""

    def __enter__(self) -> "Channel":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._losses.close()
        for descriptor in (self._read, self._write, self._told, self._tell):
            os.close(descriptor)

    @property
    def ends(self) -> tuple[int, int, int]:
        """The scorer's descriptors: for the result, for the losses, for the word to go."""
        return self._write, self._losses.fileno(), self._told

    def go(self) -> None:
        """Tell the scorer that the weights are there. Once."""
        os.write(self._tell, b"g")

    def result(self) -> ScoreResult | None:
        """What was said, once it is said in full. ValueError if it makes no sense."""
        try:
            self._data += os.read(self._read, RECORD)
        except BlockingIOError:
            return None
        line, end, _ = self._data.partition(b"\n")
        return parse_record(ScoreResult, line) if end else None

    def save_losses(self, path: Path) -> None:
        """Copy the losses to a file."""
        self._losses.seek(0)
        with path.open("wb") as file:
            shutil.copyfileobj(self._losses, file)
