"""Standard output whose reader may go away."""

import contextlib
import io
import os
import sys
from typing import TextIO


class Unbreakable(io.TextIOBase):
    """A text stream: a closed pipe, a lost terminal or a full disk behind it must not end a night's run.

    From the first failure on, which is said on standard error, what is written goes nowhere. Characters that the
    stream's encoding lacks are replaced.
    """

    def __init__(self, stream: TextIO) -> None:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
        self._stream = stream
        self.broken = False

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """Of the stream behind it."""
        return self._stream.encoding

    def write(self, text: str) -> int:
        """Never raises OSError."""
        try:
            return self._stream.write(text)
        except OSError as error:
            self._give_up(error)
            return len(text)

    def flush(self) -> None:
        """Never raises OSError."""
        try:
            self._stream.flush()
        except OSError as error:
            self._give_up(error)

    def isatty(self) -> bool:
        """False once it is broken."""
        return not self.broken and self._stream.isatty()

    def fileno(self) -> int:
        """Of the stream behind it."""
        return self._stream.fileno()

    def _give_up(self, error: OSError) -> None:
        if not self.broken:
            self.broken = True
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
            with contextlib.suppress(OSError):  # the same terminal, most likely
                print(
                    f"autoresearch: standard output is gone ({error.strerror}): the rest of it is lost, nothing else.",
                    file=sys.stderr,
                )
