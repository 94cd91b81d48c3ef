"""The knobs: the ALL_CAPS constants at the top of an editable file, read and set without importing it.

One knob a line, a literal with an optional domain and a word for a person:

    MATRIX_LR = 0.04  # [0.01, 0.16] log; Muon step size
    DEPTH = 9  # [2, 16]; number of blocks, and so the size of the model
    PATTERN = "SSSL"  # {"L", "SL", "SSSL"}; windows, layer by layer
    CONTEXT = 2048  # tokens the model sees

No bracket or brace: the knob is not sampled.
"""

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass

Value = float | int | str | bool

_COMMENT = re.compile(r"^\s*(?:(?P<range>\[[^\]]*\])(?P<log>\s*log)?|(?P<choices>\{[^}]*\}))?\s*;?\s*(?P<note>.*)$")


@dataclass(frozen=True, slots=True)
class Domain:
    """Where a knob may be sampled: a closed range (`log` for a log-uniform one) or a list of choices."""

    low: float | int | None = None
    high: float | int | None = None
    log: bool = False
    choices: tuple[Value, ...] = ()


@dataclass(frozen=True, slots=True)
class Knob:
    name: str
    value: Value
    line: int  # from 1
    domain: Domain | None
    note: str


def read(source: str) -> dict[str, Knob]:
    """The knobs of a Python file, in order. A file that does not parse has none (its parse error shows elsewhere)."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    lines = source.splitlines()
    knobs: dict[str, Knob] = {}
    for node in tree.body:
        if not isinstance(node, ast.Assign) or len(node.targets) != 1 or node.end_lineno != node.lineno:
            continue
        target = node.targets[0]
        if not isinstance(target, ast.Name) or not re.fullmatch(r"[A-Z][A-Z0-9_]*", target.id):
            continue
        try:
            value = ast.literal_eval(node.value)
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            continue
        if not isinstance(value, bool | int | float | str):
            continue
        # Offsets of ast are in UTF-8 bytes, not characters.
        tail = lines[node.lineno - 1].encode()[node.end_col_offset :].decode(errors="replace").strip()
        domain, note = _comment(tail[1:]) if tail.startswith("#") else (None, "")
        knobs[target.id] = Knob(target.id, value, node.lineno, domain, note)
    return knobs


def values(source: str) -> dict[str, Value]:
    """Name and value of every knob."""
    return {name: knob.value for name, knob in read(source).items()}


def assign(source: str, changes: Mapping[str, Value]) -> str:
    """The file with some knobs set, everything else kept byte for byte. KeyError names one that is not there."""
    knobs = read(source)
    lines = source.splitlines(keepends=True)
    for name, value in changes.items():
        knob = knobs[name]
        old = lines[knob.line - 1]
        code = ast.parse(old.strip()).body[0]
        assert isinstance(code, ast.Assign)
        raw = old.encode()
        start, end = code.value.col_offset, code.value.end_col_offset or len(raw)
        lines[knob.line - 1] = (raw[:start] + _literal(value, knob.value).encode() + raw[end:]).decode()
    return "".join(lines)


def parse_value(text: str) -> Value:
    """A knob's value as given on a command line: a Python literal, or else the text itself."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return text
    return value if isinstance(value, bool | int | float | str) else text


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
            if low < high and not (match["log"] and low <= 0):
                return Domain(low=low, high=high, log=bool(match["log"])), note
        if match["choices"]:
            inner = ast.literal_eval(f"[{match['choices'][1:-1]}]")
            if len(inner) > 1:
                return Domain(choices=tuple(inner)), note
    except (ValueError, TypeError, SyntaxError):
        pass
    return None, note
