"""An agent that asks a chat model: prompt, reply, patch, and a bounded number of repairs."""

import time
from collections.abc import Callable, Mapping

from autoresearch import knobs
from autoresearch.agent import prompt
from autoresearch.agent.models import ChatModel, Completion
from autoresearch.agent.patch import apply
from autoresearch.agent.reply import Header, PatchError, read_edits, read_header
from autoresearch.errors import ModelUnavailable
from autoresearch.records import Brief, Exchange, Message, Patch, Proposal

REPAIRS = 2  # times a failed edit goes back with the reason; then the whole file is asked for, once
WAITS = (1.0, 5.0, 25.0)  # seconds before a call that failed is made again: a night outlives a hiccup
PATIENCE = 3600.0  # seconds after which no call is made again: a command that hangs does so for long


class LLMAgent:
    """Proposes what a `ChatModel` writes. Every call is recorded, and so charged, before its reply is read."""

    def __init__(
        self, model: ChatModel, record: Callable[[Exchange], None], sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self.name = model.name
        self._model = model
        self._record = record
        self._sleep = sleep

    def propose(self, brief: Brief) -> Proposal:
        """One proposal, with a patch that applies and compiles, or with `failure` set. AgentError from the model."""
        messages = prompt.build(brief)
        header = Header()
        replies = 0
        while True:
            reply = self._ask(messages)
            replies += 1
            header = _merged(read_header(reply), header)
            try:
                patch = apply(read_edits(reply), brief.files)
                _check_knobs(patch.files, brief)
                return _proposal(header, replies, patch=patch)
            except PatchError as error:
                if replies > REPAIRS + 1:
                    return _proposal(header, replies, failure=error.summary)
                again = prompt.repair(str(error)) if replies <= REPAIRS else prompt.whole_file(str(error), brief)
                messages = (*messages, Message("assistant", prompt.bounded_reply(reply)), again)

    def _ask(self, messages: tuple[Message, ...]) -> str:
        start = time.monotonic()
        completion = self._complete(messages)
        seconds = time.monotonic() - start
        self._record(Exchange(self._model.name, messages, completion.text, completion.usage, seconds))
        return completion.text

    def _complete(self, messages: tuple[Message, ...]) -> Completion:
        """The model's answer, asked for again after each wait if there is none; the last failure is raised."""
        start = time.monotonic()
        for wait in WAITS:
            try:
                return self._model.complete(messages)
            except ModelUnavailable:
                if time.monotonic() - start > PATIENCE:
                    raise
            self._sleep(wait)
        return self._model.complete(messages)


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
