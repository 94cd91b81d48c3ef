"""What a user can cause or fix: one line each, with the remedy."""

from typing import Literal


class UserError(Exception):
    """An expected failure, shown as one line and never as a traceback.

    `remedy` says what to do about it; `code` is the process's exit code (1: it failed, 2: misuse).
    """

    code: Literal[1, 2] = 1

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}".strip() if self.remedy else self.message


class Misuse(UserError):
    """The command line or the program asks for something that cannot be: exit code 2."""

    code = 2


class CorpusError(UserError):
    """The corpus is missing, unreadable, incomplete or not the one the run began with."""


class WorkspaceError(UserError):
    """Git refuses, or the repository is not one a run can work in."""


class LedgerError(UserError):
    """The ledger cannot be read or written."""


class AgentError(UserError):
    """The agent cannot propose at all (its command is missing, its recording has ended, its key is wrong)."""


class ModelUnavailable(AgentError):
    """The model gave no reply this time, and may the next: it is asked again, later and later.

    `retry_after`: seconds that the server asked to be left alone.
    """

    def __init__(self, message: str, remedy: str = "", retry_after: float | None = None) -> None:
        super().__init__(message, remedy)
        self.retry_after = retry_after


class EngineError(UserError):
    """The machine, and not the patch, kept an experiment from running."""


class LimitReached(UserError):
    """A limit that the user set ends the run here. Nothing failed; what is unfinished waits for the next start."""


class DeadlinePassed(LimitReached):
    """The run's time is up in the middle of something."""


def first_line(error: BaseException) -> str:
    """What another library says of its failure, short enough for a message of ours; its kind if it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")[:200]
