"""Rich on a terminal, plain lines elsewhere."""

import io

from rich.console import Console, RenderableType

_ENDLESS = 4000  # columns: no line is wrapped where no terminal ends


def put(renderable: RenderableType, console: Console | None = None) -> None:
    """Print to standard output, or to `console`. Into a pipe or a file: nothing wrapped, padded or coloured."""
    target = console or Console(highlight=False)
    if target.is_terminal:
        target.print(renderable)
        return
    page = Console(file=io.StringIO(), width=_ENDLESS, highlight=False, color_system=None)
    with page.capture() as captured:
        page.print(renderable)
    lines = [line.rstrip() for line in captured.get().splitlines()]
    target.print("\n".join(lines), markup=False, soft_wrap=True)
