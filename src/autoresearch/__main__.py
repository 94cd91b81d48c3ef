"""`python -m autoresearch`, and the console script."""

import sys

from autoresearch.errors import UserError


def main() -> None:
    """Run the command line. A user's error is one line on standard error; a bug keeps its traceback."""
    from autoresearch.cli import app

    try:
        app()
    except UserError as error:
        print(f"autoresearch: {error}", file=sys.stderr)
        sys.exit(error.code)
    except BrokenPipeError:
        sys.stdout = None
        sys.exit(1)


if __name__ == "__main__":
    main()
