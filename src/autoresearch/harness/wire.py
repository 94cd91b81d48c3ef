"""What the judge and a serving process say to each other: fixed-size frames over two pipes, no pickles, no text.

A server says by a byte of status that it has begun, before the candidate's code is let in. An open one says when it is
ready, by a byte of status and, if that is OK, one of whether there was room for the model; a sealed one is given what
is compiled already. Judge to server: one byte to go; then how many frames will come, and the frames. Server to judge:
one byte of status when the weights are there, then one byte of status and, if that is OK, a payload for each frame. The
server reads a frame ahead of the one it answers. The judge believes sizes and nothing else.
"""

import os
import selectors
import time
from collections import deque
from dataclasses import dataclass
from typing import Literal

GO = b"g"
ROOM, NO_ROOM = b"r", b"n"  # after a rehearsal: whether there was
BROKEN = "the scoring process broke its protocol"
OK = 0
COUNT = 4  # bytes of a number, little-endian: of frames, or of bytes
FAILED = "=== the candidate has failed ==="  # a line before what it has failed with, and where
AHEAD = 3  # frames without a reply: one is computed, one is launched behind it, one is on its way
FAILURES = {
    1: "the file could not be imported for scoring",
    2: "build_model failed in scoring",
    3: "the saved weights do not fit build_model",
    4: "out of memory in scoring",
    5: "the model failed on rows of tokens, in eval mode and without gradients",
    6: "the logits have the wrong shape: model(tokens[B, T]) must return [B, T, V]",
    7: "the logits have the wrong vocabulary: their last dimension must be VOCAB_SIZE",
    8: "the logits are no floating-point tensor",
    9: "the GPU failed in scoring",
}
GPU_FAILED = 9


class Refused(Exception):
    """The candidate cannot be scored. Once there is text, the message is one of ours, never the candidate's words."""

    def __init__(self, message: str, suspected: bool = False, said: str | None = None) -> None:
        """suspected: it may have been the machine, as with a signal that has ended a process. said: what was printed by
        one that knew no text."""
        super().__init__(message)
        self.suspected, self.said = suspected, said


@dataclass(frozen=True, slots=True)
class ServeTask:
    """What a serving process is told, as JSON: no path to text, and no target.

    An open server first runs the model once on made-up rows, which it may do on a GPU while a training warms up there.
    Then it gets rows with their targets, uint16[rows, context + 1], and returns float32[rows, context] losses.
    A sealed one gets uint16[rows, context + 1], cut rows and a place in each as the last column; it returns
    float32[rows, vocab_size] logits.
    """

    mode: Literal["open", "sealed"]
    source: str
    weights: str
    device: str
    rows: int
    context: int
    vocab_size: int
    bos: int  # that every row begins with
    room: int | None  # bytes of the GPU's memory that it may take until it is told to go; None: all
    read: int  # file descriptors
    write: int

    @property
    def reply_size(self) -> int:
        return self.rows * (self.context if self.mode == "open" else self.vocab_size) * 4


def read_into(fd: int, view: memoryview) -> bool:
    """Fill the view; False if the other side has closed first."""
    while view:
        size = os.readv(fd, [view])
        if not size:
            return False
        view = view[size:]
    return True


def write_all(fd: int, data: bytes | memoryview) -> None:
    """All of it, however little the pipe takes at a time."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


class Line:
    """The judge's end: writes and reads at once, and never waits past the deadline (time.monotonic)."""

    def __init__(self, read: int, write: int, deadline: float) -> None:
        self._read, self._write, self._deadline = read, write, deadline
        self._out: deque[memoryview] = deque()
        os.set_blocking(read, False)
        os.set_blocking(write, False)

    def send(self, data: bytes) -> None:
        """Queue bytes; they leave while replies are awaited."""
        self._out.append(memoryview(data))

    def receive(self, payload: int) -> bytes:
        """The payload of one reply. Raises Refused by its status, TimeoutError, EOFError."""
        status = self._receive(1)[0]
        if status != OK:
            raise Refused(FAILURES.get(status, BROKEN), suspected=status == GPU_FAILED)
        return self._receive(payload) if payload else b""

    def _receive(self, size: int) -> bytes:
        parts = []
        with selectors.DefaultSelector() as selector:
            selector.register(self._read, selectors.EVENT_READ)
            if self._out:
                selector.register(self._write, selectors.EVENT_WRITE)
            while size:
                left = self._deadline - time.monotonic()
                ready = selector.select(left) if left > 0 else []
                if not ready:
                    raise TimeoutError
                for key, _ in ready:
                    if key.fd == self._read:
                        part = os.read(self._read, min(size, 1 << 20))
                        if not part:
                            raise EOFError
                        parts.append(part)
                        size -= len(part)
                    elif not self._push():
                        selector.unregister(self._write)
        return b"".join(parts)

    def _push(self) -> bool:
        """Write what the pipe takes; False once all is written, or nobody listens."""
        try:
            sent = os.write(self._write, self._out[0])
        except BlockingIOError:
            return True
        except BrokenPipeError:
            self._out.clear()
            return False
        self._out[0] = self._out[0][sent:]
        if not self._out[0]:
            self._out.popleft()
        return bool(self._out)
