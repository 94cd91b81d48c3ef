"""`python -m autoresearch`, and the console script."""

import os
import shlex
import sys
from typing import NoReturn

from autoresearch.errors import UserError


def main() -> NoReturn:
    """Run the command line. A user's error is one line on standard error; a bug keeps its traceback."""
    try:
        from autoresearch.cli import app

        code = app(standalone_mode=False)
        sys.stdout.flush()
    except UserError as error:
        _end(str(error), error.code)
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:
        _closed()
    except Exception as error:
        if not hasattr(error, "format_message"):  # what Typer raises for a command line that it cannot read
            raise
        command = getattr(getattr(error, "ctx", None), "command_path", "autoresearch")
        _end(f"{' '.join(error.format_message().split()).rstrip('.')}. See `{command} --help`.", 2)
    if code == 130:
        again = shlex.join(["autoresearch", *sys.argv[1:]])
        _end(f"interrupted; nothing is lost. The same command again goes on: {again}", 130)
    sys.exit(code if isinstance(code, int) else 0)


def _end(line: str, code: int) -> NoReturn:
    print(f"autoresearch: {line}", file=sys.stderr)
    sys.exit(code)


def _closed() -> NoReturn:
    """Python flushes standard output once more as it ends: let that go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    _end("standard output was closed before all was written; nothing else is amiss.", 1)


if __name__ == "__main__":
    main()
