"""Files to train, as benchmarks name them: `shipped`, `reference` (the yardstick) or a path, and `+NAME=VALUE` for each
constant, as in `shipped+DEPTH=8+ASPECT=96`."""

from collections.abc import Iterable
from pathlib import Path

from autoresearch import arguments, knobs, trial

_FILES = {
    "shipped": Path(trial.__file__).with_name("train_core.py"),
    "reference": Path(__file__).with_name("reference_core.py"),
}


def source(variant: str, common: Iterable[str] = ()) -> str:
    """Its text. `common`: constants of every variant, NAME=VALUE. OSError or Misuse if there is no such thing."""
    name, *changes = variant.split("+")
    return knobs.assign(_FILES.get(name, Path(name)).read_text(), arguments.changes([*common, *changes]))
