"""programs/*.md -> Program: YAML front matter, then prose that goes to the agent verbatim."""

import difflib
import hashlib
import re
from pathlib import Path, PurePosixPath

import frontmatter
import yaml
from pydantic import ValidationError

from autoresearch.errors import Misuse
from autoresearch.records import Program
from autoresearch.schema import Run
from autoresearch.settings import Settings

_PACKAGE = Path(__file__).parent


def shipped() -> Path:
    """The folder of the programs that come with the package (in a source checkout, `programs/` at its root)."""
    installed = _PACKAGE / "programs"
    return installed if installed.is_dir() else _PACKAGE.parent.parent / "programs"


def load(path: Path) -> Program:
    """Read a program from a file. Raises Misuse if it is missing, not UTF-8 text, or not valid."""
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        here = sorted(str(p) for p in path.parent.glob("*.md")) if path.parent.is_dir() else []
        near = difflib.get_close_matches(str(path), here, n=1, cutoff=0.3) or here[:1]
        remedy = (
            f"Did you mean {near[0]}?" if near else "`autoresearch init DIR` makes a lab with programs to start from."
        )
        raise Misuse(f"there is no program at {path}.", remedy) from None
    except (OSError, UnicodeDecodeError) as error:
        raise Misuse(f"cannot read the program {path}: {error}.", "It must be a UTF-8 text file.") from error
    return parse(path.stem, text)


def parse(name: str, text: str) -> Program:
    """A program from its text. Raises Misuse, which names the key and, for an unknown one, the nearest known."""
    try:
        post = frontmatter.loads(text.removeprefix("\ufeff"))
    except (yaml.YAMLError, ValueError, TypeError, AttributeError) as error:  # such as a date that is none
        where = getattr(error, "problem_mark", None)
        line = f" (line {where.line + 2})" if where else ""
        raise Misuse(f"the front matter of program {name} is not valid YAML{line}.", _between_dashes()) from error
    if not post.metadata and not re.match(r"\ufeff?\s*---\s*(#.*\n\s*)*---", text):
        raise Misuse(f"program {name} has no front matter.", _between_dashes())
    try:
        settings = Settings.model_validate(post.metadata)
    except ValidationError as error:
        raise Misuse(f"program {name}: {_explain(error)}") from error
    for path in settings.edit:
        if not _inside(path):
            raise Misuse(
                f"program {name}: edit: {path!r} is outside the repository.",
                "Give a path relative to the repository's root, such as train_core.py.",
            )
    if len(settings.edit) != 1:
        raise Misuse(f"program {name}: edit names {len(settings.edit)} files.", "Name one: the file that is trained.")
    return Program(name, settings, post.content.strip(), hashlib.sha256(text.encode()).hexdigest())


def program_of(run: Run) -> Program:
    """The program of a run, as the run has recorded it."""
    return parse(run.program, run.program_text)


def describe_settings() -> str:
    """A Markdown table of every key, its default and its meaning; docs/programs.md holds it."""
    rows = ["| key | default | meaning |", "|---|---|---|"]
    for name, info in Settings.model_fields.items():
        rows.append(f"| `{name}` | {_shown(name, info.default)} | {info.description} |")
    return "\n".join(rows) + "\n"


def _shown(name: str, default: object) -> str:
    """A default as a person would write it."""
    if default is None or default == {}:
        return "none"
    if name in ("budget", "startup_limit") and isinstance(default, float):
        return f"`{default / 60:g}m`"
    if name == "validation" and isinstance(default, int):
        return f"`{default / 10**6:g}MB`"
    if isinstance(default, tuple):
        return f"`{default[0]}`" if name == "edit" else f"`{list(default)}`"
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def _between_dashes() -> str:
    return "Begin the file with `---`, one `key: value` a line, and `---` again."


def _inside(path: str) -> bool:
    pure = PurePosixPath(path)
    return bool(pure.parts and path.strip()) and not pure.is_absolute() and not {"..", ".git"} & {*pure.parts}


def _explain(error: ValidationError) -> str:
    """The first problem in one line; an unknown key first, since it is often why another seems missing."""
    problems = sorted(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
    first = problems[0]
    key = ".".join(str(part) for part in first["loc"][:1]) or "front matter"
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, Settings.model_fields, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}?" if near else f"known keys are {', '.join(Settings.model_fields)}."
        return f"unknown key {key!r}: {hint}"
    message = first["msg"].removeprefix("Value error, ")
    return f"{key}: {message[:1].lower()}{message[1:]} (it says {first.get('input')!r})."
