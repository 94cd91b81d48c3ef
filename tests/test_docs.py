"""What is written about the program is true of it: settings, commands, docstrings, the size of modules."""

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from autoresearch import program
from autoresearch.cli import app

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "Makefile"]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
CLI = typer.main.get_command(app)


def test_the_table_of_settings_is_the_settings() -> None:
    """To mend it: put `describe_settings()` between the two comments."""
    page = (ROOT / "docs" / "programs.md").read_text()
    found = re.search(r"<!-- settings.*?-->\n(.*?)<!-- end of settings -->", page, re.DOTALL)
    assert found and found[1].strip() == program.describe_settings().strip()


def commands() -> Iterator[tuple[str, str]]:
    """Every `autoresearch ...` in a code block, in backquotes, or in a recipe: where, and the line."""
    for page in PAGES:
        if page.exists():
            text = page.read_text()
            blocks = re.findall(r"^(?:    |\t|\$ )?(?:.*&& )?\$?[\w./()$-]*autoresearch ([a-z].*)$", text, re.MULTILINE)
            inline = re.findall(r"`autoresearch ([^`]+)`", text)
            for line in dict.fromkeys([*blocks, *inline]):
                yield page.name, re.split(r" [|>;]|  +#|&&", line)[0]


@pytest.mark.parametrize(("page", "line"), list(commands()))
def test_a_command_in_the_docs_exists(page: str, line: str) -> None:
    name, *arguments = shlex.split(line)
    assert name in CLI.commands, f"{page}: autoresearch {line}"
    options = {option for parameter in CLI.commands[name].params for option in parameter.opts} | {"--help"}
    for word in arguments:
        if word.startswith("-") and word != "-":
            assert word.split("=")[0] in options, f"{page}: autoresearch {line}: {word}"


def test_the_docs_show_commands() -> None:
    assert {line.split()[0] for _, line in commands()} >= {"init", "prepare", "run", "status", "log", "replay"}


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
