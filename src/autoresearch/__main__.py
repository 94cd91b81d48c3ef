"""`python -m autoresearch`, and the console script."""

import shlex
import signal
import sys
from typing import NoReturn

from autoresearch.addresses import masked
from autoresearch.errors import UserError
from autoresearch.interrupts import ignore, listen
from autoresearch.output import Unbreakable


def main() -> NoReturn:
    """Run the command line. A user's error is one line on standard error; a bug keeps its traceback."""
    listen(signal.SIGINT)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, as it may come, the ends of processes would be lost
    output = sys.stdout = Unbreakable(sys.stdout)
    code = _run()
    output.flush()
    sys.exit(code or int(output.broken))


def _run() -> int:
    try:
        from autoresearch.cli import app

        code = app(standalone_mode=False) or 0
        ignore()  # what is left is to end processes and remove folders: pressed again, it would only spoil that
    except UserError as error:
        ignore()
        return _say(str(error), error.code)
    except KeyboardInterrupt:
        ignore()
        code = 130
    except Exception as error:
        if not hasattr(error, "format_message"):  # what Typer raises for a command line that it cannot read
            raise
        command = getattr(getattr(error, "ctx", None), "command_path", "autoresearch")
        return _say(f"{' '.join(error.format_message().split()).rstrip('.')}. See `{command} --help`.", 2)
    if code == 130:
        again = shlex.join(["autoresearch", *masked(sys.argv[1:])])
        return _say(f"interrupted; nothing is lost. The same command again goes on: {again}", 130)
    return int(code)


def _say(line: str, code: int) -> int:
    print(f"autoresearch: {line}", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
