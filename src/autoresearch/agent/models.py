"""What every model stands behind, and the two that need no provider: an external command, and a recording.

The seam is `ChatModel`: messages in, text and usage out. The providers' models are in `agent.providers`.
"""

import json
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from autoresearch import steady
from autoresearch.agent import process
from autoresearch.agent.prices import GivenPrice, Price
from autoresearch.agent.reply import MAX_REPLY, clean, well_formed
from autoresearch.errors import AgentError, DeadlinePassed, ModelUnavailable
from autoresearch.records import Message, Usage
from autoresearch.units import format_duration

COMMAND_LIMIT = 1800.0  # seconds
BYTES_PER_TOKEN = 2  # fewer than any text has: what nobody has counted is not underestimated


Ended = Literal["whole", "cut", "refused", "broken", "late"]


@dataclass(frozen=True, slots=True)
class Completion:
    """What a model answered, the tokens it took, and how it ended.

    `cut`: at the limit of its length; `refused`: the model declines; `broken`: the connection or the server failed
    after something was charged, for the reason given; `late`: the same, since the time was up.
    """

    text: str
    usage: Usage  # as the model counts it
    ended: Ended = "whole"
    reason: str | None = None
    retry_after: float | None = None  # seconds that the server asked to be left alone
    estimate: Usage | None = None  # `usage`, what nobody has counted of it estimated upward; None: it cannot be


class Interrupted(KeyboardInterrupt):
    """Ctrl-C in the middle of a reply: what had come of it has been charged."""

    def __init__(self, completion: Completion) -> None:
        super().__init__()
        self.completion = completion


class ChatModel(Protocol):
    """Messages in, text and usage out: what every provider stands behind."""

    name: str

    @property
    def price(self) -> Price | None:
        """What its tokens cost by the list; None: not known."""
        ...

    def describe(self) -> str:
        """What it is, in a few words."""
        ...

    def check(self) -> None:
        """AgentError if it can be known at no cost that no call will succeed: a wrong key, an unknown model.
        ModelUnavailable if it cannot be known now."""
        ...

    def complete(self, messages: Sequence[Message], until: float | None = None, room: int | None = None) -> Completion:
        """The model's reply. ModelUnavailable if asking again may help; another AgentError ends the run.
        Interrupted on Ctrl-C if something was charged by then.

        `until`: steady.now() at which a reply comes too late (DeadlinePassed). `room`: output tokens it may take.
        """
        ...


class CommandModel:
    """A program of the user's: an external coding agent or a script.

    It gets the prompt as one plain-text document on stdin and prints the reply on stdout, anew for each call, with
    the environment given. What it costs is not known.
    """

    price = None

    def __init__(self, command: str, environ: Mapping[str, str], limit: float = COMMAND_LIMIT) -> None:
        try:
            self._command = shlex.split(command)
        except ValueError as error:
            raise AgentError(f"The agent's command cannot be read: {error}.", "Check its quotes.") from None
        if not self._command:
            raise AgentError("The agent's command is empty.", "Write --agent 'command:my-agent --flag'.")
        if shutil.which(self._command[0], path=environ.get("PATH")) is None:  # better known before the run begins
            raise AgentError(
                f"There is no command {self._command[0]!r}.", "Check that it is installed and on the PATH."
            )
        self.name = f"command:{command}"
        self._environ = dict(environ)
        self._limit = limit

    def describe(self) -> str:
        """Its name, which says all."""
        return self.name

    def check(self) -> None:
        """Nothing more to know: that there is such a command was seen at once."""

    def complete(self, messages: Sequence[Message], until: float | None = None, room: int | None = None) -> Completion:
        """Run the command on the prompt. AgentError if it cannot start; ModelUnavailable if it then gives no reply."""
        limit = self._limit if until is None else min(self._limit, until - steady.now())
        try:
            ended = process.run(self._command, as_document(messages), self._environ, limit, 4 * MAX_REPLY)
        except OSError as error:
            raise AgentError(
                f"The agent's command {self._command[0]!r} cannot be started: {error.strerror or error}.",
                "Check that it is installed and on the PATH.",
            ) from None
        if ended.code == 0:
            return Completion(ended.output[:MAX_REPLY], Usage())
        if ended.oversized:
            what = "printed more than a reply can be"
        elif ended.code is None and limit < self._limit:
            raise DeadlinePassed("the run's time is up before its agent had answered")
        elif ended.code is None:
            what = f"did not finish within {format_duration(self._limit)}"
        else:
            what = f"ended with exit code {ended.code}"
        tail = clean(ended.errors[-400:], 400)
        said = f'; its last words: "{tail}"' if tail else ""
        raise ModelUnavailable(f"The agent's command {self._command[0]!r} {what}{said}.")


class ReplayModel:
    """Replies from a JSONL file, one `{"reply": "..."}` a line, in order. AgentError if it cannot be read."""

    price = GivenPrice(0, 0, 0)

    def __init__(self, path: Path) -> None:
        self.name = f"replay:{path}"
        self.used = 0  # replies: the next one comes after these
        self._replies = _read_replies(path)

    def describe(self) -> str:
        """Its name, which says all."""
        return self.name

    def check(self) -> None:
        """It was read at once."""

    def complete(self, messages: Sequence[Message], until: float | None = None, room: int | None = None) -> Completion:
        """The next reply. AgentError if there is none."""
        if self.used >= len(self._replies):
            raise AgentError(
                f"The recording {self.name.partition(':')[2]} has ended after {len(self._replies)} replies.",
                "Add replies to it, or go on with another agent.",
            )
        self.used += 1
        return Completion(self._replies[self.used - 1], Usage())


def _read_replies(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise AgentError(f"The recording {path} cannot be read: {reason}.", "Check the path after replay:.") from None
    replies: list[str] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            reply = entry["reply"] if isinstance(entry, dict) else None
        except (ValueError, KeyError, RecursionError):
            reply = None
        if not isinstance(reply, str):
            raise AgentError(
                f"Line {number} of the recording {path} is not a reply.", 'Write {"reply": "..."}, one a line.'
            )
        replies.append(well_formed(reply)[:MAX_REPLY])
    return replies


def estimate_tokens(messages: Sequence[Message]) -> int:
    """Of a prompt, estimated upward."""
    return sum(len(message.content.encode(errors="replace")) for message in messages) // BYTES_PER_TOKEN


def as_document(messages: Sequence[Message]) -> str:
    """A conversation as one plain text, for programs that read a single prompt."""
    titles = {"system": "", "user": "", "assistant": "=== Your reply was ===\n\n"}
    return "\n\n".join(titles[message.role] + message.content.strip("\n") for message in messages) + "\n"
