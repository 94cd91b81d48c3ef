"""Durations and sizes as people write them (`5m`, `75GB`), and back."""

import math
import re

_LONGEST = 40  # characters
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def parse_duration(text: str | float) -> float:
    """Seconds in `90`, `90s`, `5m`, `1.5h` or `1h30m`; ValueError says what is accepted."""
    compact = _compact(text)
    if compact and isinstance(text, int | float) and not isinstance(text, bool) and math.isfinite(text):
        return float(text)
    if re.fullmatch(r"\d+(\.\d+)?", compact):
        return float(compact)
    if not re.fullmatch(r"(\d+(\.\d+)?\s*[smhd]\s*)+", compact):
        raise ValueError(f"{text!r} is not a duration: write 90s, 5m or 1h30m")
    return sum(float(number) * _SECONDS[unit] for number, unit in re.findall(r"(\d+(?:\.\d+)?)\s*([smhd])", compact))


def parse_size(text: str | int) -> int:
    """Bytes in `75GB`, `64 MB` or `1000`; decimal units. ValueError says what is accepted."""
    compact = _compact(text)
    if compact and isinstance(text, int) and not isinstance(text, bool):
        return text
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?B)?", compact, re.IGNORECASE)
    if not match:
        raise ValueError(f"{text!r} is not a size: write 75GB or 64MB")
    return int(float(match[1]) * _BYTES[(match[2] or "B").upper()])


def _compact(text: str | float) -> str:
    """Without spaces around it; nothing if it is longer than any number that is meant."""
    compact = str(text).strip()
    return compact if len(compact) <= _LONGEST else ""


def format_duration(seconds: float | None) -> str:
    """`None` as a dash, then `8.3s`, `5m 02s`, `7h 59m`."""
    if seconds is None:
        return "–"
    if seconds < 59.95:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m {rest:02d}s"
    return f"{minutes // 60}h {minutes % 60:02d}m"


def format_size(size: float | None) -> str:
    """`None` as a dash, then `512 B`, `1.4 GB`; decimal units."""
    if size is None:
        return "–"
    for unit in ("B", "KB", "MB", "GB"):
        if size < 999.5 if unit == "B" else size < 999.95:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
