"""What is written about the program is true of it: settings, commands, docstrings, the size of modules."""

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.exceptions import TyperException

from autoresearch import program
from autoresearch.agent.providers import PROVIDERS
from autoresearch.cli import app

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "Makefile"]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
# The words after `autoresearch`, up to a comment, a pipe, the next command or the end; quoted ones may hold all that.
_COMMAND = re.compile(r"""(?:^|[\s/;&$(])autoresearch(?= [\w-])((?:'[^']*'|"[^"]*"|[^'"#|;&>])*)""")
CLI = typer.main.get_command(app)


def test_the_table_of_settings_is_the_settings() -> None:
    """To mend it: put `describe_settings()` between the two comments."""
    page = (ROOT / "docs" / "programs.md").read_text()
    found = re.search(r"<!-- settings.*?-->\n(.*?)<!-- end of settings -->", page, re.DOTALL)
    assert found and found[1].strip() == program.describe_settings().strip()


def code(text: str) -> Iterator[str]:
    """Every line of a code block, continued lines as one, every recipe's line, and every piece in backquotes."""
    fenced = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    indented = re.findall(r"^(?:    |\t)(.*)$", prose, re.MULTILINE)
    for block in [*fenced, "\n".join(indented)]:
        yield from block.replace("\\\n", " ").splitlines()
    yield from re.findall(r"`([^`\n]+)`", prose)


def commands() -> Iterator[tuple[str, str]]:
    """Every `autoresearch ...`, whatever stands before it in a line of code: where, and the words after it."""
    for page in PAGES:
        found = (match[1].strip() for line in code(page.read_text()) for match in _COMMAND.finditer(line))
        for line in dict.fromkeys(filter(None, found)):
            yield page.name, line


def read(line: str) -> dict[str, object]:
    """The options of a command line, by the command line's own parser. Raises what that raises, or KeyError."""
    name, *arguments = shlex.split(line)
    command = CLI.commands[name]
    options, rest, _ = command.make_parser(command.context_class(command, info_name=name)).parse_args(arguments)
    if rest:
        raise KeyError(f"{name} takes no {rest}")
    return options


@pytest.mark.parametrize(("page", "line"), list(commands()))
def test_a_command_in_the_docs_exists(page: str, line: str) -> None:
    if line in ("--help", "--version"):
        return
    if agent := read(line).get("agent"):
        kinds = rf"search|({'|'.join(PROVIDERS)})(:.+)?|command:.+|replay:.+|SPEC"
        assert re.fullmatch(kinds, str(agent)), f"{page}: autoresearch {line}"


@pytest.mark.parametrize("line", ["runn", "run --hour 8", "run --hours", "try --agent search", "status --tag a b"])
def test_a_command_that_does_not_exist_would_be_found(line: str) -> None:
    with pytest.raises((KeyError, TyperException)):
        read(line)


def test_an_option_in_the_docs_exists() -> None:
    """One that stands alone, in backquotes: `--max-cost`."""
    options = {name for command in CLI.commands.values() for option in command.params for name in option.opts}
    for page in PAGES:
        for named in re.findall(r"`(--[a-z][a-z-]*)[^`\n]*`", page.read_text()):
            assert named in options | {"--help", "--version"}, f"{page.name}: {named}"


def test_a_variable_in_the_docs_is_read() -> None:
    source = "".join(path.read_text() for path in SOURCES)
    for page in PAGES:
        for named in re.findall(r"\bAUTORESEARCH_[A-Z_]+\b", page.read_text()):
            assert named in source, f"{page.name}: {named}"


def test_the_docs_show_every_command_and_every_kind_of_agent() -> None:
    """So a change of layout that hides them from these tests is seen."""
    lines = [line for _, line in commands() if not line.startswith("-")]
    assert {line.split()[0] for line in lines} >= set(CLI.commands)
    agents = {str(read(line).get("agent")).partition(":")[0] for line in lines}
    assert agents >= {"search", "command", "replay", *PROVIDERS}


def test_links_in_the_docs_lead_somewhere() -> None:
    for page in PAGES:
        if page.suffix == ".md" and page.exists():
            for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
                assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_file_that_is_named_is_there(page: Path) -> None:
    """By a path from the root. Programs apart: those may be the reader's."""
    for named in re.findall(r"(?<![\w./-])(?:docs|benchmarks|src|tests)/[\w./-]+\.(?:md|py)\b", page.read_text()):
        assert (ROOT / named).exists(), f"{page.name}: {named}"


def undocumented(path: Path) -> Iterator[str]:
    """Public modules, classes, functions and methods without a docstring; overrides and tiny properties apart."""
    tree = ast.parse(path.read_text())
    if not ast.get_docstring(tree) and path.read_text().strip():
        yield str(path)
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            if isinstance(node, ast.FunctionDef) and _is_nested_or_obvious(tree, node):
                continue
            if not ast.get_docstring(node):
                yield f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"


def _is_nested_or_obvious(tree: ast.Module, function: ast.FunctionDef) -> bool:
    """Inside another function; a short method, which its class explains; a module's `forward`, which PyTorch does."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node is not function and function in ast.walk(node):
            return True
        if isinstance(node, ast.ClassDef) and function in node.body:
            short = len(function.body) <= 3 and (function.end_lineno or 0) - function.body[0].lineno <= 12
            return short or function.name == "forward"
    return False


def test_what_is_public_is_explained() -> None:
    assert [name for path in SOURCES for name in undocumented(path)] == []


def test_no_module_is_long_but_the_training_core() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in SOURCES}
    assert [name for name, length in lengths.items() if length > 400] == ["src/autoresearch/train_core.py"]


def test_no_one_but_the_command_line_reads_the_environment() -> None:
    """So a run is what its command says. Child processes are told by theirs what they are."""
    for path in SOURCES:
        if path.name != "cli.py" and "harness" not in path.parts and path.name != "train_core.py":
            assert not re.search(r"os\.(environ|getenv)", path.read_text()), path
