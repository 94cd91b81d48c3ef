"""The chat models there are: an external command, and a recording of earlier replies.

The seam that providers stand behind is `ChatModel`: messages in, text and usage out.
"""

import json
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from autoresearch.agent import process
from autoresearch.agent.reply import MAX_REPLY, clean
from autoresearch.errors import AgentError, ModelUnavailable
from autoresearch.records import Message, Usage
from autoresearch.units import format_duration

COMMAND_LIMIT = 1800.0  # seconds


@dataclass(frozen=True, slots=True)
class Completion:
    """What a model answered, and what that cost."""

    text: str
    usage: Usage


class ChatModel(Protocol):
    """Messages in, text and usage out: what every provider stands behind."""

    name: str

    def complete(self, messages: Sequence[Message]) -> Completion:
        """The model's reply. ModelUnavailable if asking again may help; another AgentError ends the run."""
        ...


class CommandModel:
    """A program of the user's: an external coding agent or a script.

    It gets the prompt as one plain-text document on stdin and prints the reply on stdout, anew for each call, with
    the environment given.
    """

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

    def complete(self, messages: Sequence[Message]) -> Completion:
        """Run the command on the prompt. AgentError if it cannot start; ModelUnavailable if it then gives no reply."""
        try:
            ended = process.run(self._command, as_document(messages), self._environ, self._limit, 4 * MAX_REPLY)
        except OSError as error:
            raise AgentError(
                f"The agent's command {self._command[0]!r} cannot be started: {error.strerror or error}.",
                "Check that it is installed and on the PATH.",
            ) from None
        if ended.code == 0:
            return Completion(ended.output[:MAX_REPLY], Usage())
        if ended.oversized:
            what = "printed more than a reply can be"
        elif ended.code is None:
            what = f"did not finish within {format_duration(self._limit)}"
        else:
            what = f"ended with exit code {ended.code}"
        tail = clean(ended.errors[-400:], 400)
        said = f'; its last words: "{tail}"' if tail else ""
        raise ModelUnavailable(
            f"The agent's command {self._command[0]!r} {what}{said}.", "Once mended, the run resumes."
        )


class ReplayModel:
    """Replies from a JSONL file, one `{"reply": "..."}` a line, in order, the first `skip` of them used up already."""

    def __init__(self, path: Path, skip: int = 0) -> None:
        self.name = f"replay:{path}"
        self._replies = _read_replies(path)
        self._next = skip

    def complete(self, messages: Sequence[Message]) -> Completion:
        if self._next >= len(self._replies):
            raise AgentError(
                f"The recording {self.name.partition(':')[2]} has ended after {len(self._replies)} replies.",
                "Add replies to it, or go on with another agent.",
            )
        self._next += 1
        return Completion(self._replies[self._next - 1], Usage())


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
        replies.append(reply[:MAX_REPLY])
    return replies


def as_document(messages: Sequence[Message]) -> str:
    """A conversation as one plain text, for programs that read a single prompt."""
    titles = {"system": "", "user": "", "assistant": "=== Your reply was ===\n\n"}
    return "\n\n".join(titles[message.role] + message.content.strip("\n") for message in messages) + "\n"
