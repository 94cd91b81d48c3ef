"""A run on a real terminal: watched, resized, stopped with Ctrl-Z, and lost."""

import fcntl
import itertools
import os
import pty
import re
import signal
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from rich.cells import cell_len

from tests.conftest import CHEAP, COMMAND, DISCARDED, FAILED, TIMEOUT, Lab, reply, setting
from tests.test_cli import QUICK, stages, until

ESCAPE = re.compile(r"\x1b(\[[0-9;?]*[A-Za-z]|\][^\x07]*\x07)")
SHELL = ("sh", "-c", 'set -m; "$@"; read _; fg', "sh")  # Enter brings back what Ctrl-Z stopped


class Terminal:
    """A pseudo-terminal with a command on it, alone or below a shell; what the command writes is kept."""

    def __init__(self, lab: Lab, arguments: tuple[object, ...], columns: int, rows: int, shell: bool) -> None:
        self.master, slave = pty.openpty()
        self.resize(columns, rows)
        environ = {**lab.environ(), "TERM": "xterm-256color"}
        del environ["COLUMNS"]  # which would hide the terminal's own size
        self.process = subprocess.Popen(
            [*(SHELL if shell else ()), str(COMMAND), *map(str, arguments)],
            cwd=lab.root, env=environ, stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # so that a lost terminal is felt
        )  # fmt: skip
        os.close(slave)
        self._written = bytearray()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with suppress(OSError):  # nobody has it open any more
            while data := os.read(self.master, 65536):
                self._written += data

    @property
    def text(self) -> str:
        """All that was written, without what moves the cursor or colours."""
        return ESCAPE.sub("", self.raw)

    @property
    def raw(self) -> str:
        return self._written.decode(errors="replace")

    def press(self, key: bytes) -> None:
        os.write(self.master, key)

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def shows(self, text: str, since: int = 0) -> None:
        """Wait until it is written, after the first `since` characters."""
        until(lambda: text in self.text[since:], self.process, 60)
        assert text in self.text[since:], self.text[-3000:]

    def ended(self) -> int:
        self.process.wait(TIMEOUT)
        self._reader.join(10)
        return self.process.returncode


@contextmanager
def on_terminal(
    lab: Lab, *arguments: object, columns: int = 80, rows: int = 24, shell: bool = False
) -> Iterator[Terminal]:
    terminal = Terminal(lab, arguments, columns, rows, shell)
    try:
        yield terminal
    finally:
        groups = {terminal.process.pid}
        with suppress(psutil.NoSuchProcess):
            groups |= {child.pid for child in psutil.Process(terminal.process.pid).children() if shell}
        for group, number in itertools.product(groups, (signal.SIGCONT, signal.SIGKILL)):
            with suppress(ProcessLookupError):
                os.killpg(group, number)
        terminal.process.wait(10)
        with suppress(OSError):
            os.close(terminal.master)


class Mind:
    """An agent that answers when it is told to: `command:` on a script that waits for a file."""

    def __init__(self, folder: Path, *replies: str) -> None:
        self._folder = folder
        for number, text in enumerate(replies, 1):
            (folder / f"reply-{number}").write_text(text)
        script = folder / "mind.sh"
        script.write_text(
            f"cd '{folder}'; n=1; while [ -e asked-$n ]; do n=$((n+1)); done; touch asked-$n\n"
            "cat > /dev/null; until [ -e go-$n ]; do sleep 0.05; done; cat reply-$n\n"
        )
        self.spec = f"command:sh {script}"

    def asked(self, number: int) -> bool:
        return (self._folder / f"asked-{number}").exists()

    def answers(self, number: int) -> None:
        (self._folder / f"go-{number}").touch()


def widest(text: str) -> int:
    return max(cell_len(line) for line in re.split(r"[\r\n]+", text))


def test_a_run_is_watched_stopped_resized_and_goes_on(ran: Lab, tmp_path: Path) -> None:
    slower = reply(setting("UNEMBEDDING_LR", 0.02, 0.0002), title="Slower \x1b[2J [red]yet")
    mind = Mind(tmp_path, DISCARDED, slower)
    command = ("run", *QUICK, "-n", 7, "-a", mind.spec, "--hours", 2)
    with on_terminal(ran, *command, columns=100, rows=40, shell=True) as run:
        run.shows("asking command:sh")
        run.shows("5 done, 2 kept")
        run.shows("left of 2h 00m")
        with on_terminal(ran, "status", "--watch") as watch:
            watch.shows("asking command:sh")
            watch.shows("#3   discarded")
            assert "\x1b[?1049h" in watch.raw
            watch.press(b"\x03")
            assert watch.ended() == 0
            assert "(running, " in watch.text.rpartition("asking command:sh")[2]

        run.press(b"\x1a")  # Ctrl-Z
        (process,) = psutil.Process(run.process.pid).children()
        until(lambda: process.status() == psutil.STATUS_STOPPED, run.process)
        until(lambda: run.raw.rfind("\x1b[?25h") > run.raw.rindex("\x1b[?25l"), run.process)  # the shell has its cursor
        run.resize(60, 20)
        seen = len(run.text)
        run.press(b"\n")
        run.shows("── run quick", since=seen)
        run.shows("proposals by command:sh", since=seen)  # said again on the screen of another width
        after = len(run.text)
        mind.answers(1)
        run.shows("Learn the output slower", since=after)
        run.shows("training loss", since=after)
        assert widest(run.text[after : run.text.index("training loss", after)]) <= 60

        with on_terminal(ran, "status", "--watch", columns=200, rows=50) as watch:
            until(lambda: mind.asked(2), run.process)
            mind.answers(2)
            watch.shows("Slower [red]yet")
            assert run.ended() == 0
            assert watch.ended() == 0
            assert "stopped      7 experiments are done" in watch.text
    assert (
        "#7   Slower [red]yet" in run.text
        and "Slower \x1b[2J" not in run.raw
        and "stopped: 7 experiments are done" in run.text
    )
    last = run.text.rpartition("stopped: ")[2]
    assert "training loss" not in last and last.count("discarded") >= 3  # the table alone is left
    assert run.raw.rindex("\x1b[?25h") > run.raw.rindex("\x1b[?25l")
    assert stages(ran) == ["done"] * 7


@pytest.mark.usefixtures("late")
def test_ctrl_z_stops_nothing_that_nobody_could_continue(ran: Lab, tmp_path: Path) -> None:
    """As below `ssh -t host autoresearch run`: there is no shell to say `fg` to."""
    mind = Mind(tmp_path, CHEAP)
    with on_terminal(ran, "run", *QUICK, "-n", 6, "-a", mind.spec) as run:
        run.shows("asking command:sh")
        for _ in range(2):
            before = len(run.raw)
            run.press(b"\x1a")
            until(lambda before=before: "\x1b[?25h" in run.raw[before:], run.process)  # it was heard
            run.shows("asking command:sh", since=len(run.text))
        mind.answers(1)
        assert run.ended() == 0
    assert "stopped: 6 experiments are done" in run.text


def test_a_lost_terminal_does_not_end_a_run(ran: Lab, tmp_path: Path) -> None:
    mind = Mind(tmp_path, DISCARDED, CHEAP)
    with on_terminal(ran, "run", *QUICK, "-n", 7, "-a", mind.spec) as run:
        run.shows("asking command:sh")
        until(lambda: mind.asked(1), run.process)
        os.close(run.master)
        time.sleep(0.7)  # a drawing
        assert run.process.poll() is None and ran("status", "--json").json["state"] == "running"
        mind.answers(1)
        until(lambda: mind.asked(2), run.process)
        mind.answers(2)
        run.process.wait(TIMEOUT)
    assert stages(ran) == ["done"] * 7
    log = ran("log", "--json").json
    assert [e["status"] for e in log[5:]] == ["discarded", "crashed"]
    assert ran("status", "--json").json["state"] == "finished"


@pytest.mark.usefixtures("late")
def test_into_a_pipe_go_lines(ran: Lab, tmp_path: Path) -> None:
    mind = Mind(tmp_path, CHEAP, FAILED, FAILED, FAILED, FAILED)
    for number in range(1, 6):
        mind.answers(number)
    done = ran.at(ran.root, FORCE_COLOR="1")("run", *QUICK, "-n", 7, "-a", mind.spec)
    plain = ESCAPE.sub("", done.out)
    assert done.code == 0 and "?25" not in done.out and "training loss" not in plain
    lines = plain.splitlines()
    assert lines[1:5:2] == ["#6   Costs no training  (expects -0.1)", "#7   Not there"] or lines[1].startswith("#6 ")
    assert lines[2].startswith("     crashed") and lines[4].startswith("     failed")
    assert lines[5] == "stopped: 7 experiments are done"


@pytest.mark.parametrize("arguments", [("--watch",), ("--watch", "--json")])
def test_watching_needs_a_screen(finished: Lab, arguments: tuple[str, ...]) -> None:
    done = finished("status", *arguments)
    assert (done.code, done.out) == (2, "")
    assert done.err.count("\n") == 1 and "status --json" in done.err


def test_watching_what_is_not_going(finished: Lab) -> None:
    with on_terminal(finished, "status", "--watch") as watch:
        assert watch.ended() == 0
    assert "run quick is not going: there is nothing to watch." in watch.text
    assert "(finished, " in watch.text


@pytest.mark.usefixtures("late")
def test_a_terminal_without_the_characters_gets_lines(ran: Lab, tmp_path: Path) -> None:
    mind = Mind(tmp_path, CHEAP)
    mind.answers(1)
    with on_terminal(ran.at(ran.root, PYTHONIOENCODING="latin-1"), "run", *QUICK, "-n", 6, "-a", mind.spec) as run:
        assert run.ended() == 0
    assert "#6   Costs no training" in run.text and re.search(r"crashed +\? ", run.text)  # for a dash
    assert "lower is better" not in run.text
