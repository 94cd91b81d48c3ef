"""A file, a program and a corpus -> Trial: what the loop and a replay both have to settle before the engine runs."""

import ast
import io
import shutil
import tokenize
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from autoresearch import knobs
from autoresearch.errors import Misuse
from autoresearch.ledger import Ledger
from autoresearch.records import CorpusView, Kept, Measurement, Pace, Program, TokenFile, Trial

_NO_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


class Unfit(Exception):
    """The file cannot be tried under this program. Its text is one line for the agent, and the ledger's reason."""


def code_lines(source: str) -> int:
    """Lines that do something: without blank ones, comments and docstrings, so that deleting those simplifies nothing.

    All lines of a text that is not Python.
    """
    try:
        tree = ast.parse(source)
        tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    except (SyntaxError, ValueError, RecursionError, tokenize.TokenError):
        return len(source.splitlines())
    lines: set[int] = set()
    for token in tokens:
        if token.type not in _NO_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines.difference_update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(lines)


def with_constants(source: str, program: Program) -> str:
    """The file with the constants that the program gives it. Misuse if it has no such constant."""
    there = knobs.read(source)
    unknown = [name for name in program.settings.constants if name not in there]
    if unknown:
        raise Misuse(
            f"program {program.name} sets {unknown[0]}, and {program.settings.edit[0]} has no such constant.",
            "Mend its `constants`.",
        )
    return knobs.assign(source, program.settings.constants)


def build(
    program: Program,
    source: str,
    seed: int,
    corpus: Callable[[int], CorpusView],
    logs: Path,
    *,
    tip: Kept | None = None,
    keep: bool = False,
    test: bool = False,
    bar: float | None = None,
    deadline: float | None = None,
    pace: Callable[[TokenFile], Pace | None] = lambda _: None,
) -> Trial:
    """The trial of one file. Raises Unfit if its constants break the program's rules, before any process starts.

    `tip`: what is left of the run's tip. `keep`: leave the same of this trial in `logs`. `test`: score the split that
    is laid aside for the end. `bar`: a value under which it is audited more closely. `pace`: what it is to keep pace
    with, by the text that it is trained on.
    """
    settings = program.settings
    constants = knobs.values(source)
    vocab_size, context = constants.get("VOCAB_SIZE"), constants.get("CONTEXT")
    for name, value in (("VOCAB_SIZE", vocab_size), ("CONTEXT", context)):
        if not isinstance(value, int) or isinstance(value, bool):
            raise Unfit(f"{settings.edit[0]} has no line `{name} = <integer>` at its top level")
    assert isinstance(vocab_size, int)
    assert isinstance(context, int)
    if vocab_size not in settings.vocab_sizes:
        allowed = ", ".join(map(str, settings.vocab_sizes))
        raise Unfit(f"VOCAB_SIZE is {vocab_size}, and the program allows {allowed}")
    view = corpus(vocab_size)
    if not 2 <= context <= view.validation.tokens:
        raise Unfit(f"CONTEXT is {context}, and must be from 2 to {view.validation.tokens}")
    if test:
        if view.test is None:
            raise Unfit("the corpus has no test split")
        view = replace(view, validation=view.test)
        tip = replace(tip, losses="") if tip else None  # they are of another text
    return Trial(
        source=source,
        seed=seed,
        vocab_size=vocab_size,
        context=context,
        corpus=view,
        settings=settings,
        tip=tip,
        keep=kept(logs) if keep else None,
        logs=str(logs),
        deadline=deadline,
        bar=bar,
        pace=pace(view.train),
    )


def tip(ledger: Ledger, tag: str) -> Kept | None:
    """Where it lies what the run's tip has left; None before there is one."""
    experiment = ledger.tip(tag)
    return kept(ledger.folder_of(tag, experiment.number)) if experiment else None


def let_go(folder: Path) -> None:
    """Delete what a trial with this folder has left for later ones."""
    left = kept(folder)
    for file in (left.weights, left.losses):
        Path(file).unlink(missing_ok=True)
    for cache in (left.train_cache, left.open_cache):
        shutil.rmtree(cache, ignore_errors=True)


def kept(folder: Path) -> Kept:
    """Where a trial with this folder leaves what later ones start from."""
    names = ("weights.safetensors", "losses.npz", "train-cache", "open-cache")
    return Kept(*(str(folder / name) for name in names))


def unfit(seed: int, error: Unfit) -> Measurement:
    """The measurement of a file that was not worth starting."""
    return Measurement(seed=seed, outcome="crashed", phase="check", reason=str(error))
