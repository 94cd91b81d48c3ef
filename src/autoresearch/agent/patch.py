"""Edits applied to files in memory: each exactly where it was meant, or not at all. Nothing is written to disk.

Pure functions. A SEARCH must match exactly once, as whole lines; trailing whitespace does not count, and the block may
be indented otherwise than the file if the difference is the same in every line (REPLACE is then shifted with it).
There is no first-match rule and no line number that decides: where a place is not certain, PatchError says why and
shows the nearest lines, since a model repairs an edit well once it sees them.
"""

import difflib
import re
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import islice

from autoresearch.agent.reply import Edit, PatchError
from autoresearch.records import Patch

MAX_FILE = 400_000  # characters of a file after the edits
_SHOWN = 12  # lines of the file shown in a message
_OMISSION = re.compile(r"\s*#.*(?:\.\.\.|…).*\b(?:rest|existing|unchanged|remain|same|before|omitted)", re.IGNORECASE)


def apply(edits: Sequence[Edit], files: Mapping[str, str]) -> Patch:
    """The files as the edits leave them, in order; only those that changed.

    `files` holds the current text of every editable file. PatchError if any edit cannot be applied, if nothing
    changes or if a resulting Python file does not compile: then nothing of the reply is used.
    """
    texts = dict(files)
    edits = _only_whole(edits, files) if all(edit.search is None for edit in edits) else edits
    for edit in edits:
        path = resolve(edit, files)
        texts[path] = _replace_file(edit, texts[path]) if edit.search is None else _replace_lines(edit, texts[path])
        if len(texts[path]) > MAX_FILE:
            raise PatchError(f"{edit.label}: {path} would be longer than {MAX_FILE:,} characters")
    changed = {path: text for path, text in texts.items() if text != files[path]}
    if not changed:
        raise PatchError("the edit changes nothing: the file would be the same as before")
    for path, text in changed.items():
        _check(path, text, files[path])
    return Patch(changed)


def resolve(edit: Edit, files: Mapping[str, str]) -> str:
    """The editable file an edit is for: named by its path or the end of it, or the only one there is."""
    if edit.path is None:
        if len(files) == 1:
            return next(iter(files))
        raise PatchError(f"{edit.label} names no file: put one of {_names(files)} on the line above it")
    wanted = edit.path.replace("\\", "/").removeprefix("./")
    if wanted in files:
        return wanted
    found = [path for path in files if path.endswith("/" + wanted) or wanted.endswith("/" + path)]
    if len(found) == 1:
        return found[0]
    why = "fits several editable files" if found else "is not an editable file"
    raise PatchError(f"{edit.label}: {edit.path} {why}; a patch may touch only {_names(files)}")


def _names(files: Mapping[str, str]) -> str:
    return ", ".join(sorted(files))


# ------------------------------------------------------------------------------------------------ a part of a file


def _replace_lines(edit: Edit, text: str) -> str:
    """One SEARCH/REPLACE. Untouched lines keep their endings; new ones get the file's, and so does its end."""
    search = [line.rstrip() for line in (edit.search or "").split("\n")]
    replace = edit.replace.split("\n") if edit.replace else []
    if not any(search):
        raise PatchError(f"{edit.label}: SEARCH is empty; give the lines to replace, or lines next to an insertion")
    final = text.endswith("\n")
    lines = text.split("\n")[: -1 if final else None]
    bare = [line.rstrip() for line in lines]
    found = _positions(search, bare)
    if not found:
        found, replace = _shifted(edit, search, replace, bare)
    if len(found) != 1:
        raise PatchError(_several(edit, found) if found else _nowhere(edit, search, bare))
    ending = "\r" if text.count("\r\n") * 2 > text.count("\n") else ""
    lines[found[0] : found[0] + len(search)] = [line.rstrip("\r") + ending for line in replace]
    result = "\n".join(lines)
    return result + "\n" if final and lines else result if final else result.removesuffix("\r")


def _positions(part: list[str], whole: list[str]) -> list[int]:
    """Where `part` occurs in `whole` as consecutive items."""
    size = len(part)
    return [i for i in range(len(whole) - size + 1) if whole[i] == part[0] and whole[i : i + size] == part]


def _shifted(edit: Edit, search: list[str], replace: list[str], bare: list[str]) -> tuple[list[int], list[str]]:
    """Places where `search` fits once every line is indented alike, and `replace` indented the same way."""
    places = _positions([line.lstrip() for line in search], [line.lstrip() for line in bare])
    fits = [(at, shift) for at in places if (shift := _shift(search, bare[at : at + len(search)])) is not None]
    if len(fits) != 1:
        return [at for at, _ in fits], replace
    at, (remove, add) = fits[0]
    if any(line.strip() and not line.startswith(remove) for line in replace):
        raise PatchError(f"{edit.label}: SEARCH is indented deeper than lines {at + 1} ff., and REPLACE less than that")
    return [at], [add + line[len(remove) :] if line.strip() else line for line in replace]


def _shift(search: list[str], found: list[str]) -> tuple[str, str] | None:
    """What to take from the front of each line and what to put there instead, if one answer fits all lines."""
    pairs = [(_indent(a), _indent(b)) for a, b in zip(search, found, strict=True) if a]
    old, new = pairs[0]
    remove, add = (
        (old[len(new) :], "") if old.endswith(new) else ("", new[len(old) :]) if new.endswith(old) else (old, new)
    )
    alike = all(a.startswith(remove) and add + a[len(remove) :] == b for a, b in pairs)
    return (remove, add) if alike else None


def _indent(line: str) -> str:
    return line[: len(line) - len(line.lstrip())]


# ------------------------------------------------------------------------------------------------ a whole file


def _only_whole(edits: Sequence[Edit], files: Mapping[str, str]) -> list[Edit]:
    """The code blocks meant as whole files: one for a file, and not an excerpt, for an excerpt would erase the rest."""
    named = [edit for edit in edits if edit.path is not None and _editable(edit, files)]
    chosen = named or [edit for edit in edits if edit.path is None]
    large = [edit for edit in chosen if 2 * edit.replace.count("\n") >= files[resolve(edit, files)].count("\n") - 1]
    if not large:
        size = max((edit.replace.count("\n") + 1 for edit in chosen), default=0)
        raise PatchError(
            f"no SEARCH/REPLACE block was found, and a code block of {size} lines is too short to be a whole file"
        )
    targets = Counter(resolve(edit, files) for edit in large)
    for path, count in targets.items():
        if count > 1:
            raise PatchError(f"{count} code blocks could each be the whole of {path}: give exactly one")
    return large


def _editable(edit: Edit, files: Mapping[str, str]) -> bool:
    try:
        return bool(resolve(edit, files))
    except PatchError:
        return False


def _replace_file(edit: Edit, text: str) -> str:
    body = edit.replace.strip("\n") + ("\n" if text.endswith("\n") or not text else "")
    return body.replace("\n", "\r\n") if text.count("\r\n") * 2 > text.count("\n") else body


# ------------------------------------------------------------------------------------------------ the result


def _check(path: str, text: str, before: str) -> None:
    """PatchError unless the new text compiles and no comment stands in for code that was left out."""
    known = set(before.split("\n"))
    for number, line in enumerate(text.split("\n"), 1):
        if line not in known and _OMISSION.match(line[:200]):
            raise PatchError(f"{path} line {number}: `{line.strip()[:80]}` stands for code that was left out; write it")
    if not path.endswith(".py"):
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(text, path, "exec", dont_inherit=True)
    except SyntaxError as error:
        at = error.lineno or 1
        lines = text.split("\n")
        shown = _numbered(lines, max(0, at - 4), min(len(lines), at + 2))
        raise PatchError(f"{path} would not compile: {error.msg} (line {at})\nAs edited:\n{shown}") from None
    except (ValueError, RecursionError, MemoryError, OverflowError) as error:
        raise PatchError(f"{path} would not compile: {error or type(error).__name__}") from None


# ------------------------------------------------------------------------------------------------ the messages


def _several(edit: Edit, found: list[int]) -> str:
    places = ", ".join(str(at + 1) for at in found[:8]) + (", ..." if len(found) > 8 else "")
    return (
        f"{edit.label}: SEARCH matches {len(found)} times, at lines {places}\n"
        "Take more of the lines around the place you mean into SEARCH and REPLACE, until it matches once."
    )


def _nowhere(edit: Edit, search: list[str], bare: list[str]) -> str:
    first = next(line.strip() for line in search if line)[:100]
    head = f"{edit.label}: SEARCH matches nowhere in the file (it begins `{first}`)"
    at = _nearest(search, bare)
    if at is None:
        return head + "\nNo line of the file is like it. Copy whole lines from the file as it was given."
    start = max(0, at - 1)
    shown = _numbered(bare, start, min(len(bare), start + min(len(search) + 2, _SHOWN)))
    message = f"{head}\nThe nearest lines of the file are:\n{shown}"
    for wanted, real in zip(search, bare[at:], strict=False):
        if wanted != real:
            return f"{message}\nThe first that differs: SEARCH has\n{_short(wanted)}\nand the file has\n{_short(real)}"
    return message


def _nearest(search: list[str], bare: list[str]) -> int | None:
    """The line of the file where `search` fits best: by votes of equal lines, or else by its most similar line.

    Bounded: at most 200 lines of SEARCH, 50 places for each, 5,000 lines and 200 characters of a line are looked at.
    """
    places: dict[str, list[int]] = {}
    for i, line in enumerate(bare[:5000]):
        places.setdefault(line.strip()[:200], []).append(i)
    wanted = list(islice(((j, line.strip()[:200]) for j, line in enumerate(search) if line), 200))
    votes: Counter[int] = Counter()
    for j, line in wanted:
        for i in places.get(line, [])[:50]:
            votes[i - j] += len(line)
    if votes:
        return max(0, max(votes, key=lambda at: (votes[at], -at)))
    j, probe = max(wanted, key=lambda item: len(item[1]))
    real = [line for line in places if line]
    close = [line for line in real if probe in line] or difflib.get_close_matches(probe, real, n=1, cutoff=0.5)
    return max(0, places[close[0]][0] - j) if close else None


def _numbered(lines: Sequence[str], start: int, stop: int) -> str:
    return "\n".join(f"{number + 1:5d} | {_short(lines[number])}" for number in range(start, stop))


def _short(line: str) -> str:
    return line.rstrip()[:160]
