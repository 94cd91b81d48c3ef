"""Record a command in a terminal, as an SVG that moves.

    cd lab; python ../docs/record.py -o ../docs/live.svg -- autoresearch run --program programs/tiny.md --experiments 8

Needs tmux, which runs the command on a screen of its own and says what that shows. In the picture every piece of text
stands once, with the moments at which it is seen, so that minutes fit into some hundred kilobytes.
"""

import argparse
import io
import itertools
import re
import shlex
import subprocess
import time
from collections import defaultdict
from html import escape, unescape
from pathlib import Path

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

COLUMNS, ROWS = 96, 34
EVERY = 1.0  # seconds between two looks
SPEED = 8  # times faster than it was
LAST = 5.0  # seconds that the end is seen
STILL = 0.95  # how far the run is where nothing moves
CELL = 12.2  # width of a character in the picture
TMUX = ("tmux", "-L", "record", "-f", "/dev/null")
PARTS = "\0".join(("{styles}", "{matrix}", "{chrome}", "{width} {height}", "{terminal_x},{terminal_y}"))

Piece = tuple[str, str, str]  # its style in CSS, its place, its text


def screens(command: list[str]) -> list[str]:
    """What the screen showed once a second, with its colours; the last is how it ended."""
    line = shlex.join(command)
    script = f"printf '$ %s\\n' {shlex.quote(line)}; {line}; {shlex.join(TMUX)} wait-for -S ended; sleep 60"
    subprocess.run([*TMUX, "new-session", "-d", "-x", str(COLUMNS), "-y", str(ROWS), script], check=True)
    ended = subprocess.Popen([*TMUX, "wait-for", "ended"])
    looks = []
    try:
        while True:
            over = ended.poll() is not None
            look = [*TMUX, "capture-pane", "-p", "-e"]
            looks.append(subprocess.run(look, check=True, capture_output=True, text=True).stdout)
            if over:
                return looks
            time.sleep(EVERY)
    finally:
        subprocess.run([*TMUX, "kill-server"], check=False)
        ended.wait()


def pieces(screen: str) -> tuple[list[Piece], str, str, str]:
    """The pieces of text on a screen; the window's frame, its size, and where the text begins."""
    console = Console(record=True, file=io.StringIO(), width=COLUMNS, force_terminal=True, color_system="truecolor")
    console.print(Text.from_ansi(screen, no_wrap=True), end="")
    exported = console.export_svg(title="", code_format=PARTS, unique_id="t")
    styles, matrix, chrome, size, origin = exported.split("\0")
    css = dict(re.findall(r"\.t-(r\d+) { (.*?) }", styles))
    found = []
    for style, x, y, text in re.findall(r'<text class="t-(r\d+)" x="(.*?)" y="(.*?)" .*?>(.*?)</text>', matrix):
        text = unescape(text).replace("\xa0", " ")
        for words in re.finditer(r"\S+( \S+)*", text):  # not every viewer leaves room for spaces
            left, width = cell_len(text[: words.start()]) * CELL + float(x), cell_len(words[0]) * CELL
            found.append((css[style], f'x="{left:.1f}" y="{y}" textLength="{width:.1f}"', escape(words[0])))
    return found, chrome, size, origin


def drawn(looks: list[str], still: int, seconds: float) -> str:
    """The SVG. Each look but the last is seen equally long, `seconds` in all; where nothing moves, the look `still`."""
    frames = [pieces(look) for look in looks]
    _, chrome, size, origin = frames[0]
    seen: dict[Piece, list[int]] = defaultdict(list)
    for number, (found, *_) in enumerate(frames):
        for piece in found:
            seen[piece].append(number)
    names = {css: f"s{number}" for number, css in enumerate(dict.fromkeys(css for css, *_ in seen))}
    groups: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for (css, place, text), numbers in seen.items():
        groups[tuple(numbers)].append(f'<text class="{names[css]}" {place}>{text}</text>')
    body = []
    for moments, texts in groups.items():
        hidden = "" if still in moments else ' visibility="hidden"'
        body.append("".join([f"<g{hidden}>", _animation(moments, len(looks), seconds), *texts, "</g>"]))
    style = "\n".join(f".{name} {{ {css} }}" for css, name in names.items())
    return "\n".join(
        [
            f'<svg viewBox="0 0 {size}" xmlns="http://www.w3.org/2000/svg">\n<style>',
            "text { font-family: 'Fira Code', 'DejaVu Sans Mono', Menlo, Consolas, monospace; font-size: 20px; }",
            f'{style}\n</style>\n{chrome.strip()}\n<g transform="translate({origin})">',
            *body,
            "</g>\n</svg>\n",
        ]
    )


def _animation(moments: tuple[int, ...], all: int, seconds: float) -> str:
    """When a group is seen; nothing if it always is."""
    if len(moments) == all:
        return ""
    shown = ["visible" if number in moments else "hidden" for number in range(all)]
    changes = [n for n in range(all) if n == 0 or shown[n] != shown[n - 1]]
    each = seconds / (seconds + LAST) / (all - 1)
    values, times = ";".join(shown[n] for n in changes), ";".join(f"{n * each:.5g}" for n in changes)
    return (
        f'<animate attributeName="visibility" calcMode="discrete" values="{values}" keyTimes="{times}" '
        f'dur="{seconds + LAST:.1f}s" repeatCount="indefinite"/>'
    )


def main() -> None:
    """Record, and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--out", type=Path, default=Path("live.svg"), help="where it goes")
    parser.add_argument("command", nargs="+")
    given = parser.parse_args()
    looks = screens(given.command)
    different = [look for look, _ in itertools.groupby(looks)]
    still = int(STILL * len(different))
    given.out.write_text(drawn(different, still, len(different) * EVERY / SPEED))


if __name__ == "__main__":
    main()
