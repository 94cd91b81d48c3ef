"""What `try` tries: an edit in the working tree, or a patch, as a proposal."""

from collections.abc import Mapping

from autoresearch import trial
from autoresearch.agent.given import Given
from autoresearch.agent.patch import apply
from autoresearch.agent.reply import PatchError, read_edits, read_header
from autoresearch.errors import Misuse
from autoresearch.ledger import Ledger
from autoresearch.records import Experiment, Patch, Program, Proposal
from autoresearch.workspace import Workspace


def check(given: Given, workspace: Workspace, tip: Experiment | None, program: Program) -> None:
    """Misuse if it cannot be tried on the tip as it is now: to be known before anything runs.

    Without a tip, on what its baseline will be: the checked-out commit with the program's constants."""
    files = {path: workspace.read(_commit(tip, workspace), path) for path in program.settings.edit}
    given(files if tip else {path: trial.with_constants(text, program) for path, text in files.items()})


def from_tree(workspace: Workspace, ledger: Ledger, tag: str, title: str) -> Given:
    """The working tree's edit, carried over to the tip. Misuse if there is none, or if it conflicts."""

    def propose(files: Mapping[str, str]) -> Proposal:
        commit = _commit(ledger.tip(tag), workspace)
        edited = {path: workspace.edited(path, commit) for path in files}
        changed = {path: text for path, text in edited.items() if text != files[path]}
        if not changed:
            raise Misuse("the run has kept this very edit already.", "`autoresearch log` lists what it has kept.")
        return Proposal(title=title or "an edit by hand", patch=Patch(changed), replies=0)

    return propose


def from_patch(text: str, title: str) -> Given:
    """A patch in any form that an agent may reply with. Misuse says which block does not apply to the tip."""

    def propose(files: Mapping[str, str]) -> Proposal:
        header = read_header(text)
        try:
            patch = apply(read_edits(text), files)
        except PatchError as error:
            raise Misuse(f"the patch does not apply to the run's tip: {error}") from None
        return Proposal(
            title=title or header.title or "a patch by hand",
            family=header.family,
            hypothesis=header.hypothesis,
            expect=header.expect,
            patch=patch,
            replies=0,
        )

    return propose


def _commit(tip: Experiment | None, workspace: Workspace) -> str:
    return tip.commit if tip and tip.commit else workspace.head()
