"""What was typed, as values. Misuse if it cannot be one."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from autoresearch.errors import Misuse
from autoresearch.units import parse_duration

if TYPE_CHECKING:
    from autoresearch.agent.calls import Terms
    from autoresearch.knobs import Value


def terms(max_cost: float | None, price: str | None, environ: Mapping[str, str]) -> "Terms":
    """How a model is asked. The two variables are for servers that are slow to begin, and for tests."""
    from autoresearch.agent import calls, prices

    return calls.Terms(
        max_cost,
        prices.given(price) if price else None,
        _number(environ, "AUTORESEARCH_LLM_WAIT", calls.LONGEST_WAIT),
        _number(environ, "AUTORESEARCH_LLM_TIMEOUT", calls.SILENCE),
    )


def _number(environ: Mapping[str, str], variable: str, default: float) -> float:
    """Seconds in a variable of the environment."""
    text = environ.get(variable, "")
    try:
        number = float(text or default)
    except ValueError:
        number = -1.0
    if not 0 < number < float("inf"):
        raise Misuse(f"{variable}={text} is not a number of seconds.")
    return number


def changes(pairs: list[str]) -> "dict[str, Value]":
    """Constants by name, from `NAME=VALUE` each."""
    from autoresearch.knobs import parse_value

    found: dict[str, Value] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise Misuse(f"--set {pair} is not NAME=VALUE.", "Write, for example, --set DEPTH=24.")
        found[name.strip()] = parse_value(text.strip())
    return found


def budget(text: str) -> float:
    """Seconds of training, from `10m` and the like."""
    try:
        seconds = parse_duration(text)
    except ValueError as error:
        raise Misuse(f"--budget: {error}.") from None
    if seconds <= 0:
        raise Misuse("--budget must be more than 0.")
    return seconds


def patch(path: Path) -> str:
    """The text of a patch in a file; `-` is standard input."""
    try:
        return sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Misuse(f"cannot read the patch {path}: {error}.") from None
