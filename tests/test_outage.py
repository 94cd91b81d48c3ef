"""A provider that is away for a while: nothing is lost, the deadline holds, and it is said what is waited for.

A run's longest wait, ten minutes for a user, is a second here or less; so a server that is away for three of these
waits is away for half an hour.
"""

import re
import signal
import sqlite3
import subprocess
import time
from contextlib import closing

import pytest

from tests.asking import CLAUDE, GPT, Asking
from tests.conftest import CHEAP, TIMEOUT, Lab
from tests.llm_server import Cut, Fail, LLMServer, Request, Say, Stall, Turn

pytestmark = pytest.mark.usefixtures("late")  # no reply is trained

WAIT = 0.5  # seconds: ten minutes
WAITED = re.compile(r"waiting until \d\d:\d\d:\d\d: (.*)")
HOUR = "3600"


@pytest.fixture
def asking(baseline: Lab, llm_server: LLMServer, tmp_path) -> Asking:
    lab = baseline.copy(tmp_path / "lab")
    lab = lab.at(lab.root, **llm_server.environ(), AUTORESEARCH_LLM_WAIT=str(WAIT))
    return Asking(lab, llm_server, GPT)


def away(server: LLMServer, kind: str) -> None:
    """It goes away at the next generation call."""

    def go(request: Request) -> Turn:
        server.default = Say(CHEAP)
        if kind == "refused":
            server.down()  # this connection too
        else:
            server.trouble = Fail(529, "Overloaded")
        return Fail(529, "Overloaded")

    server.default = go


def back(server: LLMServer) -> None:
    server.trouble = None
    server.default = Say(CHEAP)
    server.up()


def until(process: subprocess.Popen[str], waits: int, least: float) -> list[str]:
    """The lines of a run until it has waited so often, and so long in all."""
    lines: list[str] = []
    begun = time.monotonic()
    assert process.stdout
    while sum(bool(WAITED.search(line)) for line in lines) < waits or time.monotonic() < begun + least:
        line = process.stdout.readline()
        assert line, (lines, process.communicate())
        lines.append(line)
    return lines


@pytest.mark.parametrize(("spec", "kind"), [(CLAUDE, "refused"), (GPT, "overloaded")])
def test_after_an_outage_a_run_goes_on_where_it_was(asking: Asking, spec: str, kind: str) -> None:
    asking = Asking(asking.lab, asking.server, spec)
    asking.server.say(Say(CHEAP))
    away(asking.server, kind)
    process = asking.start(4, "--hours", 1)
    lines = until(process, waits=3, least=3 * WAIT)
    back(asking.server)
    out, err = process.communicate(timeout=TIMEOUT)
    out = "".join(lines) + out
    assert (process.returncode, err) == (0, ""), out
    found = [(e.number, e.status, e.replies) for e in asking.experiments()]
    assert found == [(2, "crashed", 1), (3, "crashed", 1), (4, "crashed", 1)]
    failed = [call.number for call in asking.calls() if call.error]
    assert len(failed) >= 3 and set(failed) == {3}
    assert len(WAITED.findall(out)) == len(failed)
    assert asking.lab("status", "--json").json["state"] == "finished"


def test_a_server_that_is_away_from_the_first_is_waited_for(asking: Asking) -> None:
    """Nothing can be known of key and model then, and nothing is lost by waiting."""
    asking.server.down()
    process = asking.start(2)
    until(process, waits=2, least=0.0)
    back(asking.server)
    out, err = process.communicate(timeout=TIMEOUT)
    assert (process.returncode, err) == (0, ""), out
    assert [(e.number, e.status) for e in asking.experiments()] == [(2, "crashed")]


@pytest.mark.parametrize("kind", ["refused", "retry", "silence"])
def test_an_outage_beyond_the_deadline_ends_the_run_in_time(asking: Asking, kind: str) -> None:
    """In order, with a line that says why, whatever the server does instead of an answer; and it can go on."""
    (baseline,) = asking.lab("log", "--json").json
    seconds = baseline["measurements"][0]["seconds"]["total"] + 30  # to ask in, until the rest is too short to train
    away(asking.server, kind)
    if kind != "refused":
        tomorrow = Fail(429, "Come back tomorrow", {"Retry-After": HOUR})
        asking.server.default = tomorrow if kind == "retry" else Stall(3600, text="TITLE: half")
    done = asking(9, "--hours", seconds / 3600)
    assert (done.code, done.err) == (0, ""), done.out
    assert re.search(r"(?m)^stopped: .*(time|left)", done.out), done.out
    assert asking.calls() and all(call.error for call in asking.calls())
    assert [(e.number, e.stage) for e in asking.experiments()] == [(2, "proposing")]
    with closing(sqlite3.connect(asking.lab.ledger)) as db:
        started, ended = db.execute("SELECT started, ended FROM sessions ORDER BY id DESC").fetchone()
    assert ended - started < seconds
    assert asking.lab("status", "--json").json["state"] == "finished"

    back(asking.server)
    assert asking(2).code == 0
    assert [(e.number, e.status) for e in asking.experiments()] == [(2, "crashed")]


def test_interrupted_while_it_waits_a_run_says_how_to_go_on(asking: Asking) -> None:
    asking.server.default = Fail(429, "Come back tomorrow", {"Retry-After": HOUR})
    process = asking.start(3)
    until(process, waits=1, least=0.0)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 130 and "The same command again" in err and "Traceback" not in out + err
    assert [(e.number, e.stage) for e in asking.experiments()] == [(2, "proposing")]


def test_interrupted_in_the_middle_of_a_reply(asking: Asking) -> None:
    asking.server.default = Stall(3600, text="TITLE: half")
    process = asking.start(3)
    give_up = time.monotonic() + TIMEOUT
    while not asking.server.asked and time.monotonic() < give_up:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 130 and "The same command again" in err and "Traceback" not in out + err


def test_connections_that_break_all_night_are_charged_and_shown(asking: Asking) -> None:
    """What a broken reply cost is in the ledger, since the provider has counted it."""
    asking = Asking(asking.lab, asking.server, CLAUDE)
    asking.server.say(*[Cut("TITLE: half", input=700)] * 3, Say(CHEAP, input=900, output=50))
    assert asking(2).code == 0
    calls = asking.calls()
    assert [call.input_tokens for call in calls] == [700, 700, 700, 900]
    assert [bool(call.error) for call in calls] == [True, True, True, False]
    assert all(call.usd and call.usd > 0 for call in calls)
