"""The events a training child writes, as the house reads them: bounded, validated, and believed only as a hint."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field, TypeAdapter

from autoresearch.engine.files import read_plain
from autoresearch.records import Point

PHASES = ("import", "build", "warmup", "train", "save")
COUNT = 2**53  # of anything, at most: so that what is made up can be reckoned with all the same
MOST = 1e9  # seconds, or nats

_MOST_AT_ONCE = 1 << 20  # bytes read in one look
_SHORTEST = 30  # bytes of an event: what is shorter is none, and a megabyte of empty lines would take seconds
_MOST_POINTS = 4096  # kept; beyond that every other one goes


class _Phase(BaseModel):
    kind: Literal["phase"]
    phase: Literal["import", "build", "warmup", "train", "save"]


class _Point(BaseModel):
    kind: Literal["point"]
    step: Annotated[int, Field(ge=0, le=COUNT)]
    seconds: Annotated[float, Field(ge=0, le=MOST)]
    progress: Annotated[float, Field(ge=0, le=1)]
    loss: Annotated[float, Field(allow_inf_nan=False)]  # nats per token
    tokens: Annotated[int, Field(ge=0, le=COUNT)]
    memory: Annotated[int, Field(ge=0, le=COUNT)] | None = None


_EVENT: TypeAdapter[_Phase | _Point] = TypeAdapter(Annotated[_Phase | _Point, Field(discriminator="kind")])


class Tail:
    """Follows events.jsonl. What is no event is passed over."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._rest = b""
        self.phase = PHASES[0]
        self.points: list[Point] = []
        self.tokens: int | None = None
        self.memory: int | None = None

    def read(self) -> bool:
        """Take in what is new; whether anything is other than before."""
        try:
            data = read_plain(self._path, _MOST_AT_ONCE, self._offset)
        except OSError:
            return False
        self._offset += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._rest = self._rest[-4096:]
        news = [self._take(line) for line in lines if len(line) >= _SHORTEST]
        return any(news)

    @property
    def tokens_per_second(self) -> float | None:
        if not self.points or not self.tokens or not self.points[-1].seconds:
            return None
        return self.tokens / self.points[-1].seconds

    def curve(self, most: int) -> tuple[Point, ...]:
        """At most so many points, evenly taken, the last one among them."""
        stride = -(-len(self.points) // most) or 1
        return tuple(reversed(self.points[::-1][::stride]))

    def _take(self, line: bytes) -> bool:
        try:
            event = _EVENT.validate_json(line[:4096])
        except ValueError:
            return False
        if isinstance(event, _Phase):
            before, self.phase = self.phase, max(self.phase, event.phase, key=PHASES.index)  # the clock starts once
            return self.phase != before
        self.tokens, self.memory = event.tokens, event.memory
        self.points.append(Point(event.step, event.seconds, event.progress, min(max(event.loss, -MOST), MOST)))
        if len(self.points) > _MOST_POINTS:
            del self.points[1::2]  # the first and the last stay
        return True
