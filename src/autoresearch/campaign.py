"""Begin a run, or take up one that exists: all that must agree before its first step."""

import importlib.metadata
import secrets
import time
from dataclasses import replace

from autoresearch.errors import CorpusError, Misuse
from autoresearch.ledger import Ledger
from autoresearch.program import program_of
from autoresearch.records import Experiment, Measurement, Metric, Program
from autoresearch.schema import Run
from autoresearch.settings import Settings
from autoresearch.stages import Engine
from autoresearch.workspace import Workspace, check_tag

# What a program may change in the middle of a run without making its figures incomparable.
_FREE = {"early_stop", "memory_limit", "min_gain", "seeds", "sigma", "startup_limit"}


def plan(
    tag: str,
    program: Program,
    text: str,
    corpus: str,
    fingerprint: str,
    agent: str,
    engine: Engine,
    workspace: Workspace,
) -> Run:
    """The run that would begin now, at the checked-out commit. WorkspaceError if that lacks the editable file."""
    base = workspace.head()
    for path in program.settings.edit:
        workspace.read(base, path)
    return Run(
        tag=check_tag(tag),
        created=time.time(),
        program=program.name,
        program_digest=program.digest,
        program_text=text,
        agent=agent,
        device=engine.hardware,
        corpus=corpus,
        fingerprint=fingerprint,
        metric=Metric(),
        seed=secrets.token_hex(16),
        base=base,
    )


def enter(new: Run, engine: Engine, workspace: Workspace, ledger: Ledger) -> Run:
    """The run of `new`'s tag: taken up where it stands, or `new` itself begun, with its branch in place.

    A run whose baseline never scored begins again from `new`, as does one whose baseline was cut short if commit,
    program or corpus are others since. Raises Misuse if the tag exists under another program,
    device or way of scoring, and CorpusError if the corpus is not the one the run began with.
    """
    old = ledger.run(new.tag)
    if old is None:
        if workspace.attempt(new.tag, 1):
            raise Misuse(
                f"refs/autoresearch/{new.tag}/ holds the attempts of a run that this ledger does not know.",
                _another(new.tag, "Keep them, and"),
            )
        workspace.start(new.tag, new.base)
        ledger.start(new)
        return new
    if new.program != old.program:
        raise Misuse(f"run {old.tag} exists under another program, {old.program}.", _another(old.tag))
    baseline = ledger.experiment(old.tag, 1)
    edited = (new.base, new.program_digest, new.fingerprint) != (old.base, old.program_digest, old.fingerprint)
    if _begins_again(baseline, edited):
        workspace.start(new.tag, new.base, old=workspace.branch(new.tag))
        again = replace(new, seed=old.seed, created=old.created)
        ledger.restart(again)
        return again
    _check(old, new)
    if baseline and has_figure(baseline):
        _check_measured(old.tag, baseline.deciding, engine)
    workspace.check_free(old.tag)
    if workspace.branch(old.tag) is None:
        tip = ledger.tip(old.tag)
        workspace.start(old.tag, tip.commit if tip and tip.commit else old.base)
    return ledger.amend(old, new.program_text, new.program_digest)


def _begins_again(baseline: Experiment | None, edited: bool) -> bool:
    """Whether there is nothing yet that the run's figures could be compared with, or nothing that is still wanted."""
    if baseline is None or baseline.stage == "proposing":
        return True
    return baseline.status != "kept" if baseline.stage == "done" else edited and not has_figure(baseline)


def has_figure(baseline: Experiment | None) -> bool:
    """Whether a run has what its later figures are to compare with: its baseline was measured, and has a score."""
    if baseline is None or baseline.stage not in ("measured", "decided", "done") or baseline.deciding is None:
        return False
    return baseline.deciding.outcome == "scored"


def _check_measured(tag: str, baseline: Measurement | None, engine: Engine) -> None:
    """Whether what measures is still what measured the baseline."""
    if baseline is None:
        return
    if baseline.harness not in (None, engine.fingerprint):
        raise Misuse(f"the code that scores, or a package it uses, has changed since run {tag} began.", _another(tag))
    torch = importlib.metadata.version("torch").partition("+")[0]
    if baseline.torch_version and baseline.torch_version.partition("+")[0] != torch:
        raise Misuse(f"run {tag} was measured with torch {baseline.torch_version}, and this is {torch}.", _another(tag))


def _check(old: Run, new: Run) -> None:
    """Whether figures of a run taken up again would compare with those it has."""
    before, now = program_of(old).settings, program_of(new).settings
    keys = [key for key in Settings.model_fields if key not in _FREE | {"corpus"}]
    changed = next((key for key in keys if getattr(before, key) != getattr(now, key)), None)
    if changed:
        raise Misuse(f"run {old.tag} began under a program with another {changed}.", _another(old.tag))
    if new.fingerprint != old.fingerprint:
        remedy = _another(old.tag)
        if new.corpus != old.corpus:
            remedy = _another(old.tag, f"Name that one, --corpus {old.corpus}, or")
        raise CorpusError(f"the corpus is not the one run {old.tag} began with ({old.corpus}).", remedy)
    if new.device.rpartition(",")[0] != old.device.rpartition(",")[0]:  # but for the memory, which systems round
        raise Misuse(f"run {old.tag} was measured on {old.device}, and this is {new.device}.", _another(old.tag))


def _another(tag: str, why: str = "Its figures would not compare:") -> str:
    return f"{why} start another run with --tag, such as --tag {tag}-2."
