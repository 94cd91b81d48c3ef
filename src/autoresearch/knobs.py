"""The knobs: the ALL_CAPS constants at the top of an editable file, read and set without importing it.

One knob a line, a literal with an optional domain and a word for a person:

    MATRIX_LR = 0.04  # [0.01, 0.16] log; Muon step size
    DEPTH = 9  # [2, 16]; number of blocks, and so the size of the model
    PATTERN = "SSSL"  # {"L", "SL", "SSSL"}; windows, layer by layer
    CONTEXT = 2048  # tokens the model sees

No bracket or brace: the knob is not sampled.
"""

import ast
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

Value = float | int | str | bool

_COMMENT = re.compile(r"^\s*(?:(?P<range>\[[^\]]*\])(?P<log>\s*log\b)?|(?P<choices>\{[^}]*\}))?\s*;?\s*(?P<note>.*)$")


@dataclass(frozen=True, slots=True)
class Domain:
    """Where a knob may be sampled: a closed range (`log` for a log-uniform one) or a list of choices."""

    low: float | int | None = None
    high: float | int | None = None
    log: bool = False
    choices: tuple[Value, ...] = ()


@dataclass(frozen=True, slots=True)
class Knob:
    """One constant of an editable file, as it stands."""

    name: str
    value: Value
    line: int  # from 1
    domain: Domain | None
    note: str


def read(source: str) -> dict[str, Knob]:
    """The knobs of a Python file, in order. A file that does not parse has none (its parse error shows elsewhere)."""
    lines = _lines(source)
    knobs: dict[str, Knob] = {}
    for name, node in _assignments(source):
        try:
            value = ast.literal_eval(node)
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            continue
        if not _usable(value):
            continue
        tail = _after(lines[node.lineno - 1], node)
        domain, note = _comment(tail[1:]) if tail.startswith("#") else (None, "")
        knobs[name] = Knob(name, value, node.lineno, domain, note)
    return knobs


def values(source: str) -> dict[str, Value]:
    """Name and value of every knob."""
    return {name: knob.value for name, knob in read(source).items()}


def assign(source: str, changes: Mapping[str, Value]) -> str:
    """The file with some knobs set, everything else kept byte for byte. KeyError names one that is not there."""
    knobs = read(source)
    lines = _lines(source)
    nodes = {name: node for name, node in _assignments(source) if name in knobs}
    # From the back, since a new value moves what stands behind it on its line.
    for name in sorted(changes, key=lambda name: (nodes[name].lineno, nodes[name].col_offset), reverse=True):
        node = nodes[name]
        raw = lines[node.lineno - 1].encode()
        literal = _literal(changes[name], knobs[name].value).encode()
        lines[node.lineno - 1] = (raw[: node.col_offset] + literal + raw[node.end_col_offset :]).decode()
    return "".join(lines)


@lru_cache(maxsize=4)  # a file is asked for its knobs at every stage
def _assignments(source: str) -> tuple[tuple[str, ast.expr], ...]:
    """Name and value of each `NAME = expression` at the top level that stands on one line."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ()
    return tuple(
        (target.id, node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and node.end_lineno == node.lineno
        if isinstance(target := node.targets[0], ast.Name) and re.fullmatch(r"[A-Z][A-Z0-9_]*", target.id)
    )


def _lines(source: str) -> list[str]:
    """Lines with their ends, as the parser counts them: unlike str.splitlines, a form feed does not end one."""
    return re.findall(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+", source)


def _after(line: str, node: ast.expr) -> str:
    """The rest of the line behind an expression and its brackets. Offsets of ast are in UTF-8 bytes, not characters."""
    return line.encode()[node.end_col_offset :].decode(errors="replace").lstrip(" \t)").rstrip()


def _usable(value: object) -> bool:
    return isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value))


def parse_value(text: str) -> Value:
    """A knob's value as given on a command line: a Python literal, or else the text itself."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return text
    return value if _usable(value) else text


def _literal(value: Value, old: Value) -> str:
    """Python source of a value; floats short, and a float stays a float."""
    if isinstance(value, float) or (isinstance(old, float) and isinstance(value, int) and not isinstance(value, bool)):
        return repr(float(f"{float(value):.6g}"))
    return repr(value)


def _comment(text: str) -> tuple[Domain | None, str]:
    match = _COMMENT.match(text)
    assert match  # every part of the pattern is optional
    note = match["note"].strip()
    try:
        if match["range"]:
            low, high = ast.literal_eval(match["range"])
            numbers = all(type(end) in (int, float) and math.isfinite(end) for end in (low, high))
            if numbers and low < high and not (match["log"] and low <= 0):
                return Domain(low=low, high=high, log=bool(match["log"])), note
        if match["choices"]:
            inner = ast.literal_eval(f"[{match['choices'][1:-1]}]")
            if len(inner) > 1 and all(_usable(choice) for choice in inner):
                return Domain(choices=tuple(inner)), note
    except (ValueError, TypeError, SyntaxError):
        pass
    return None, note
