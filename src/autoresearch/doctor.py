"""What works on this machine, what does not, and the remedy."""

import importlib.metadata
import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from autoresearch import program as programs
from autoresearch import trial
from autoresearch.corpus import store
from autoresearch.engine.device import describe_hardware, resolve_device
from autoresearch.errors import UserError
from autoresearch.ledger import Ledger
from autoresearch.records import Finding, Program
from autoresearch.settings import Device
from autoresearch.units import format_duration, format_size
from autoresearch.workspace import Workspace

_SPACE = 5 * 10**9  # bytes: tokens, weights and compile caches of a five-minute program
_KEYS = ("ANTHROPIC_API_KEY", "OPENAI_API_KEY")


def examine(
    folder: Path, program: Path, corpus: str | None, cache: Path, environ: Mapping[str, str]
) -> Iterator[Finding]:
    """Everything a run needs, in the order it needs it. Never raises for what it finds."""
    yield Finding("python", "works", f"{platform.python_version()}, autoresearch on {platform.system()}")
    yield _checked("torch", lambda: importlib.metadata.version("torch"))
    yield _checked("git", _git)
    chosen = _load(program)
    yield chosen if isinstance(chosen, Finding) else _checked("program", lambda: _describe(program, chosen))
    device: Device = "auto" if isinstance(chosen, Finding) else chosen.settings.device
    yield _checked("device", lambda: describe_hardware(resolve_device(device, environ), environ))
    yield _checked("repository", lambda: _repository(folder, chosen))
    yield _checked("ledger", lambda: _ledger(folder))
    yield _space(cache)
    if not isinstance(chosen, Finding):
        yield _checked("corpus", lambda: _corpus(corpus or chosen.settings.corpus, chosen, cache))
    yield _keys(environ)
    yield _sandbox()


def _checked(name: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(name, "works", look())
    except UserError as error:
        return Finding(name, "fails", error.message, error.remedy)
    except (OSError, subprocess.SubprocessError, importlib.metadata.PackageNotFoundError) as error:
        return Finding(name, "fails", str(error), f"Install {name}.")


def _load(program: Path) -> Program | Finding:
    try:
        return programs.load(program)
    except UserError as error:
        return Finding("program", "fails", error.message, error.remedy)


def _describe(path: Path, program: Program) -> str:
    settings = program.settings
    return f"{path}: {format_duration(settings.budget)} of training an experiment, on corpus {settings.corpus}"


def _git() -> str:
    done = subprocess.run(["git", "--version"], capture_output=True, text=True, timeout=30, check=True)
    return done.stdout.strip()


def _repository(folder: Path, program: Program | Finding) -> str:
    workspace = Workspace(folder)
    if isinstance(program, Program):
        for path in program.settings.edit:
            trial.with_constants(workspace.read(workspace.head(), path), program)
    return f"{workspace.root}, at commit {workspace.head()[:10]}"


def _ledger(folder: Path) -> str:
    state = Workspace(folder).state
    if not (state / "ledger.db").exists():
        return "none yet: no run has been started here"
    tags = [run.tag for run in Ledger(state).runs()]
    return f"in {state}, with {', '.join(tags) or 'no run'}"


def _space(cache: Path) -> Finding:
    there = next(parent for parent in (cache, *cache.absolute().parents) if parent.exists())
    free = shutil.disk_usage(there).free
    found = f"{format_size(free)} free for {cache}"
    if not os.access(there, os.W_OK):
        return Finding("disk", "fails", f"{there} cannot be written", "Set AUTORESEARCH_CACHE to a folder that can.")
    if free < _SPACE:
        return Finding("disk", "warns", found, "Free some, or set AUTORESEARCH_CACHE to a folder on a larger disk.")
    return Finding("disk", "works", found)


def _corpus(spec: str, program: Program, cache: Path) -> str:
    corpus = store.open(spec, cache)
    store.verify(corpus)
    for size in program.settings.vocab_sizes:
        corpus.view(size)
    sizes = ", ".join(map(str, sorted(corpus.manifest.vocabularies)))
    return f"{spec}: prepared and intact, vocabularies {sizes}"


def _keys(environ: Mapping[str, str]) -> Finding:
    found = [key for key in _KEYS if environ.get(key)]
    if found:
        return Finding("keys", "works", f"{', '.join(found)} set; experiments never see them")
    return Finding("keys", "works", "none set; --agent search and command:CMD need none")


def _sandbox() -> Finding:
    return Finding(
        "sandbox",
        "warns",
        "none: the code that an agent writes runs as you, with an allow-listed environment and no key",
        "Run it where you would run code from a stranger: a container, or a user of its own.",
    )
