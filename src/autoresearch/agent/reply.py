"""What a model wrote -> header fields and edits. Tolerant of form, strict about meaning; the text is untrusted.

Three ways to give an edit are read, the first one found in this order (the order of how often models get them right
when they edit part of a file): SEARCH/REPLACE blocks, hunks of a unified diff, fenced code blocks with a whole file.
"""

import math
import re
from dataclasses import dataclass

from autoresearch.records import FAMILIES

MAX_REPLY = 1_000_000  # characters
MAX_EDITS = 200
MAX_TITLE = 120
MAX_HYPOTHESIS = 1_000


class PatchError(Exception):
    """A reply whose edits cannot be used as they stand. The first line says why; the rest helps to repair it."""

    @property
    def summary(self) -> str:
        return str(self).partition("\n")[0]


@dataclass(frozen=True, slots=True)
class Header:
    """Title, family, hypothesis and expectation; what is missing or senseless is empty, `other` or None."""

    title: str = ""
    family: str = "other"
    hypothesis: str = ""
    expect: float | None = None


@dataclass(frozen=True, slots=True)
class Edit:
    """Replace the lines `search` by the lines `replace`; `search` is None where `replace` is the whole file.

    `path` is as the reply gave it, None if it did not. `label` names the edit in messages: `block 2`, `hunk 1`.
    """

    label: str
    path: str | None
    search: str | None
    replace: str


_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|.?)|\x9b[0-?]*[ -/]*[@-~]", re.DOTALL)
_FIELD = re.compile(r"[\s>*_#`-]*(TITLE|FAMILY|HYPOTHESIS|EXPECT)[\s*_`]*[:=](.*)", re.IGNORECASE)
_NUMBER = re.compile(r"[~≈\s]*([+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)(?![\d.%])\s*([A-Za-z_]*)\.?", re.IGNORECASE)
_PATH = re.compile(r"[\w.~/\\-]*\w\.\w{1,8}")
_OPEN = re.compile(r"\s*(<{5,9})\s*SEARCH\b(.*)")
_MIDDLE = re.compile(r"\s*(={5,9})\s*")
_CLOSE = re.compile(r"\s*>{5,9}\s*REPLACE\b.*")
_FENCE = re.compile(r"\s*(`{3,}|~{3,})\s*([^`]*)")


def clean(text: str, limit: int) -> str:
    """One line that is safe in a terminal and a commit message: no escapes, no control or format characters."""
    text = "".join(c if c.isprintable() else " " if c.isspace() else "" for c in _ESCAPE.sub("", text[: 4 * limit]))
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def well_formed(text: str) -> str:
    """Text that can be written as UTF-8: JSON may hold half a character, which no file can."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


# ------------------------------------------------------------------------------------------------ the header


def read_header(text: str) -> Header:
    """The header fields of a reply, wherever outside the edits they stand; the first of each counts. Never raises."""
    fields: dict[str, str] = {}
    current: str | None = None  # the field that a following line continues
    for line in _outside_blocks(_lines(text[:MAX_REPLY])):
        match = _FIELD.match(line[:2000])
        if match:
            name = match[1].upper()
            current = name if name not in fields else None
            fields.setdefault(name, match[2].strip(" \t*_`"))
        elif not line.strip() or _FENCE.match(line) or _path_of(line) or line.startswith(("--- ", "+++ ", "@@")):
            current = None
        elif current == "HYPOTHESIS" and len(fields[current]) < MAX_HYPOTHESIS:
            fields[current] += " " + line[:2000]
    hypothesis = clean(fields.get("HYPOTHESIS", ""), MAX_HYPOTHESIS)
    title = clean(fields.get("TITLE", ""), MAX_TITLE) or clean(hypothesis.partition(". ")[0], MAX_TITLE)
    words = re.findall(r"[a-z]+", fields.get("FAMILY", "").lower())
    family = words[0] if words and words[0] in FAMILIES else "other"
    return Header(title, family, hypothesis, _number(fields.get("EXPECT", "")))


def _number(text: str) -> float | None:
    """A single number, perhaps with a unit; a range, a percentage or prose is None."""
    match = _NUMBER.fullmatch(text[:80].replace("−", "-").strip(" *`"))
    if not match:
        return None
    value = float(match[1])
    return value if math.isfinite(value) and abs(value) < 1e9 else None


# ------------------------------------------------------------------------------------------------ the edits


def read_edits(text: str) -> tuple[Edit, ...]:
    """The edits of a reply, in order, at least one. PatchError if there are none or a block is malformed."""
    if len(text) > MAX_REPLY:
        raise PatchError(f"the reply is longer than {MAX_REPLY:,} characters")
    lines = _lines(text)
    edits = _blocks(lines) or _hunks(lines) or _whole_files(lines)
    if not edits:
        raise PatchError("the reply contains no edit: no SEARCH/REPLACE block was found in it")
    if len(edits) > MAX_EDITS:
        raise PatchError(f"the reply contains {len(edits)} edits, more than {MAX_EDITS}")
    return tuple(edits)


def _lines(text: str) -> list[str]:
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def _blocks(lines: list[str]) -> list[Edit]:
    edits: list[Edit] = []
    path: str | None = None
    at = 0
    while at < len(lines):
        opened = _OPEN.fullmatch(lines[at])
        if not opened:
            at += 1
            continue
        label = f"block {len(edits) + 1}"
        path = _path_of(opened[2]) or _path_before(lines, at) or path
        end = next((i for i in range(at + 1, len(lines)) if _CLOSE.fullmatch(lines[i])), None)
        if end is None or any(_OPEN.fullmatch(line) for line in lines[at + 1 : end]):
            raise PatchError(f"{label} is not ended: a line `>>>>>>> REPLACE` is missing")
        middle = _divider(lines, at, end, len(opened[1]), label)
        search, replace = _unfence(lines[at + 1 : middle]), _unfence(lines[middle + 1 : end])
        edits.append(Edit(label, path, "\n".join(search), "\n".join(replace)))
        at = end + 1
    return edits


def _divider(lines: list[str], start: int, end: int, width: int, label: str) -> int:
    """The line between SEARCH and REPLACE. Text may hold such lines itself: then the marker's own width decides."""
    found = [(i, len(match[1])) for i in range(start + 1, end) if (match := _MIDDLE.fullmatch(lines[i]))]
    if len(found) > 1:
        found = [(i, length) for i, length in found if length == width]
    if len(found) != 1:
        many = "several lines" if found else "no line"
        raise PatchError(f"{label} has {many} `{'=' * width}` between SEARCH and REPLACE: exactly one must stand there")
    return found[0][0]


def _unfence(lines: list[str]) -> list[str]:
    """A side of a block without the Markdown fence that some models put round it."""
    fenced = len(lines) >= 2 and _FENCE.fullmatch(lines[0]) and lines[-1].strip() in ("```", "~~~")
    return lines[1:-1] if fenced else lines


def _path_before(lines: list[str], at: int) -> str | None:
    """The file name on the line above, blank lines and an opening fence between them not counted."""
    for line in reversed(lines[max(0, at - 4) : at]):
        if not line.strip() or (_FENCE.fullmatch(line) and not _path_of(line)):
            continue
        return _path_of(line)
    return None


def _path_of(line: str) -> str | None:
    """The file name that a line consists of, decoration aside; None for prose."""
    if len(line) > 300:
        return None
    bare = line.strip().strip("`*#<>|[]():, \t").removeprefix("python").strip()
    bare = re.sub(r"(?i)^(?:file(?:name|path)?|path)\s*[:=]\s*", "", bare).strip("`*\"': ")
    return bare if _PATH.fullmatch(bare) else None


def _outside_blocks(lines: list[str]) -> list[str]:
    outside: list[str] = []
    inside = False
    for line in lines:
        if not inside and _OPEN.fullmatch(line):
            inside = True
        elif inside and _CLOSE.fullmatch(line):
            inside = False
        elif not inside:
            outside.append(line)
    return outside


def _hunks(lines: list[str]) -> list[Edit]:
    """Hunks of a unified diff as edits: context and removed lines by context and added ones.

    Line numbers and counts are not read at all: models get them wrong. So a hunk ends where the next one, the next
    file or the fence begins, and its place is found by its text alone, like that of any other edit.
    """
    edits: list[Edit] = []
    path: str | None = None
    fenced = False
    at = 0
    while at < len(lines):
        line = lines[at]
        at += 1
        if _FENCE.fullmatch(line):
            fenced = not fenced
        elif line.startswith("+++ "):
            path = re.sub(r"^[ab]/", "", line[4:].partition("\t")[0].strip().strip('"')) or None
        elif line.startswith("@@"):
            body: list[str] = []
            while at < len(lines) and not _ends_hunk(lines, at, fenced):
                body.append(lines[at])
                at += 1
            edits += _hunk(body, f"hunk {len(edits) + 1}", path)
    return edits


def _ends_hunk(lines: list[str], at: int, fenced: bool) -> bool:
    line = lines[at]
    if line.startswith(("@@", "diff --git ", "```", "~~~")):
        return True
    if line.startswith("--- ") and at + 1 < len(lines) and lines[at + 1].startswith("+++ "):
        return True
    # Inside a fence a line without its leading space is context that lost it; outside, prose begins.
    return not fenced and line != "" and line[0] not in " +-\\"


def _hunk(body: list[str], label: str, path: str | None) -> list[Edit]:
    body = [line for line in body if not line.startswith("\\")]
    while body and body[-1] == "":
        body.pop()
    old = [line[1:] if line[:1] in (" ", "-") else line for line in body if not line.startswith("+")]
    new = [line[1:] if line[:1] in (" ", "+") else line for line in body if not line.startswith("-")]
    return [Edit(label, path, "\n".join(old), "\n".join(new))] if body else []


def _whole_files(lines: list[str]) -> list[Edit]:
    """Fenced code blocks, each a whole file. A fence within the file is longer or shorter than the one around it."""
    edits: list[Edit] = []
    at = 0
    while at < len(lines):
        opened = _FENCE.fullmatch(lines[at])
        if not opened:
            at += 1
            continue
        end = next((i for i in range(at + 1, len(lines)) if lines[i].strip() == opened[1]), None)
        if end is None:
            raise PatchError("the code block is not ended: the reply seems to be cut off")
        path = _path_of(opened[2]) or _path_before(lines, at)
        edits.append(Edit(f"code block {len(edits) + 1}", path, None, "\n".join(lines[at + 1 : end])))
        at = end + 1
    return edits
