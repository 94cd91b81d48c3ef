"""The chat models there are: an external command, and a recording of earlier replies.

The seam that providers stand behind is `ChatModel`: messages in, text and usage out.
"""

import contextlib
import json
import os
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from autoresearch.agent.reply import MAX_REPLY, clean
from autoresearch.errors import AgentError
from autoresearch.records import Message, Usage
from autoresearch.units import format_duration

COMMAND_LIMIT = 1800.0  # seconds


@dataclass(frozen=True, slots=True)
class Completion:
    text: str
    usage: Usage


class ChatModel(Protocol):
    name: str

    def complete(self, messages: Sequence[Message]) -> Completion:
        """The model's reply. AgentError if there is none to be had: that ends the run."""
        ...


class CommandModel:
    """A program of the user's: an external coding agent or a script.

    It gets the prompt as one plain-text document on stdin and prints the reply on stdout, anew for each call. It runs
    in a process group of its own, with the environment given, and the whole group ends when it exits, when its time is
    over, or when the call is interrupted.
    """

    def __init__(self, command: str, environ: Mapping[str, str], limit: float = COMMAND_LIMIT) -> None:
        try:
            self._command = shlex.split(command)
        except ValueError as error:
            raise AgentError(f"The agent's command cannot be read: {error}.", "Check its quotes.") from None
        if not self._command:
            raise AgentError("The agent's command is empty.", "Write --agent 'command:my-agent --flag'.")
        self.name = f"command:{command}"
        self._environ = dict(environ)
        self._limit = limit

    def complete(self, messages: Sequence[Message]) -> Completion:
        # Files in place of pipes: no buffer fills up, and a grandchild that keeps stdout open cannot hold the call.
        with tempfile.TemporaryFile() as prompt, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            prompt.write(as_document(messages).encode(errors="replace"))
            prompt.seek(0)
            process = self._start(prompt, out, err)
            try:
                code = self._wait(process, out, err)
            finally:
                _end_group(process)
            if code != 0:
                raise self._error(f"ended with exit code {code}", err)
            out.seek(0)
            return Completion(out.read(4 * MAX_REPLY).decode(errors="replace")[:MAX_REPLY], Usage())

    def _start(self, prompt: IO[bytes], out: IO[bytes], err: IO[bytes]) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(
                self._command, stdin=prompt, stdout=out, stderr=err, env=self._environ, start_new_session=True
            )
        except OSError as error:
            raise AgentError(
                f"The agent's command {self._command[0]!r} cannot be started: {error.strerror}.",
                "Check that it is installed and on the PATH.",
            ) from None

    def _wait(self, process: subprocess.Popen[bytes], out: IO[bytes], err: IO[bytes]) -> int:
        deadline = time.monotonic() + self._limit
        while time.monotonic() < deadline:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(timeout=min(0.2, self._limit))
            if max(os.fstat(file.fileno()).st_size for file in (out, err)) > 4 * MAX_REPLY:
                raise self._error("printed more than a reply can be; it should print its reply and no log", err)
        raise self._error(f"did not finish within {format_duration(self._limit)}", err)

    def _error(self, what: str, err: IO[bytes]) -> AgentError:
        err.seek(max(0, os.fstat(err.fileno()).st_size - 2000))
        tail = clean(err.read(2000).decode(errors="replace")[-400:], 400)
        said = f' and said: "{tail}"' if tail else ""
        return AgentError(
            f"The agent's command {self._command[0]!r} {what}{said}.", "The same command resumes the run."
        )


def _end_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


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
