"""What a child writes for the house: whole JSON files, and a stream of events."""

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

from autoresearch.atomic import written


def write_record(path: Path, record: Any) -> None:
    """A dataclass as JSON, there whole or not at all: the house takes it the moment it appears."""
    with written(path) as partial:
        partial.write_text(json.dumps(dataclasses.asdict(record)))


class Events:
    """Phases and curve points as they happen, one JSON object a line."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", buffering=1)

    def write(self, kind: str, **fields: float | int | str | None) -> None:
        self._file.write(json.dumps({"kind": kind, **fields}) + "\n")


class Phases:
    """Which phase it is, and how long each took: import, build, warmup, train, save."""

    def __init__(self, folder: Path) -> None:
        self.events = Events(folder / "events.jsonl")
        self.name = "import"
        self.seconds: dict[str, float] = {}
        self._since = time.perf_counter()
        self.events.write("phase", phase=self.name)

    def enter(self, name: str) -> None:
        self.close()
        self.name = name
        self.events.write("phase", phase=name)

    def close(self) -> None:
        now = time.perf_counter()
        self.seconds[self.name] = self.seconds.get(self.name, 0.0) + now - self._since
        self._since = now
