"""An agent that asks a chat model: prompt, reply, patch, and a bounded number of repairs."""

from collections.abc import Mapping

from autoresearch import knobs
from autoresearch.agent import prompt
from autoresearch.agent.calls import Caller
from autoresearch.agent.models import Completion
from autoresearch.agent.patch import apply
from autoresearch.agent.reply import Header, PatchError, read_edits, read_header
from autoresearch.inert import inert
from autoresearch.records import Brief, Message, Patch, Proposal

REPAIRS = 2  # times a failed edit goes back with the reason; then the whole file is asked for, once


class LLMAgent:
    """Proposes what a `ChatModel` writes."""

    def __init__(self, caller: Caller) -> None:
        self.name = caller.name
        self._caller = caller

    def propose(self, brief: Brief) -> Proposal:
        """One proposal, with a patch that applies and compiles, or with `failure` set. AgentError or LimitReached as
        `Caller.ask` raises them."""
        messages = prompt.build(brief)
        header = Header()
        replies = 0
        while True:
            completion = self._caller.ask(messages, brief.until)
            replies += 1
            reply = completion.text
            header = _merged(read_header(reply), header)
            if silence := _silence(completion):
                return _proposal(header, replies, failure=silence)
            try:
                patch = _patch(completion, brief)
                return _proposal(header, replies, patch=patch)
            except PatchError as error:
                if replies > REPAIRS + 1:
                    return _proposal(header, replies, failure=error.summary)
                again = prompt.repair(str(error)) if replies <= REPAIRS else prompt.whole_file(str(error), brief)
                messages = (*messages, Message("assistant", prompt.bounded_reply(reply)), again)


def _silence(completion: Completion) -> str | None:
    """Why there is nothing to repair, if so: asked the same again, a model says the same."""
    if completion.ended == "refused":
        return f"the model refused: {completion.reason}" if completion.reason else "the model refused"
    if completion.ended == "whole" and not completion.text.strip():
        return "the reply was empty"
    return None


def _patch(completion: Completion, brief: Brief) -> Patch:
    """The reply's edit. PatchError also for what was cut: its first blocks may apply, and be half an idea."""
    if completion.ended == "cut":
        raise PatchError(
            "the reply was cut off at the limit of its length. Send a shorter one: small blocks, no more lines in them"
            " than make the place unique"
        )
    patch = apply(read_edits(completion.text), brief.files)
    _check_knobs(patch.files, brief)
    if all(idle := [inert(brief.files[path], text) for path, text in patch.files.items()]):
        raise PatchError(f"{idle[0]}. Propose a change of what is computed")
    return patch


def _merged(new: Header, old: Header) -> Header:
    """A repair may leave out the header that stood in an earlier reply."""
    return new if new.title else old


def _proposal(header: Header, replies: int, patch: Patch | None = None, failure: str | None = None) -> Proposal:
    return Proposal(
        title=header.title or "untitled",
        family=header.family,
        hypothesis=header.hypothesis,
        expect=header.expect,
        patch=patch,
        failure=failure,
        replies=replies,
    )


def _check_knobs(files: Mapping[str, str], brief: Brief) -> None:
    """PatchError if a knob that the house reads is no longer a literal, or VOCAB_SIZE is one not on offer.

    The house prepares the data from these two before any code of the candidate runs, so it is known at no cost.
    """
    allowed = brief.program.settings.vocab_sizes
    for path, text in files.items():
        before, after = knobs.values(brief.files[path]), knobs.values(text)
        for name in ("CONTEXT", "VOCAB_SIZE"):
            if name in before and type(after.get(name)) is not int:
                raise PatchError(f"{name} must stay at the top of {path}, as a plain integer on a line of its own")
        if "VOCAB_SIZE" in before and after["VOCAB_SIZE"] not in allowed:
            sizes = ", ".join(str(size) for size in allowed)
            raise PatchError(f"VOCAB_SIZE = {after['VOCAB_SIZE']} is not on offer; the program allows {sizes}")
