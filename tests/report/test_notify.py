"""Notifications: what arrives at a webhook, and that a run does not care whether it does."""

import os
import signal
import socket
import sqlite3
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal
from urllib.parse import unquote

import pytest
from pydantic import BaseModel, ConfigDict, Field

from autoresearch.errors import Misuse
from autoresearch.ledger import Ledger
from autoresearch.records import Experiment
from autoresearch.report import notify
from autoresearch.report.notify import Notifier
from tests.conftest import DISCARDED, FAILED, KEPT, Lab, contents, recording
from tests.llm_server import KEY, Fail, LLMServer
from tests.test_cli import QUICK, Best, Experiments, MetricFields, Strict, until

SECRET = "T0KEN-of-the-channel"


class Cost(Strict):
    llm_usd: float | None
    gpu_usd: float | None


class Kept(Strict):
    number: int
    title: str
    value: float
    gain: float | None
    commit: str


class Notice(BaseModel):
    """What docs/watching.md promises: every field present, and null where there is nothing to say."""

    model_config = ConfigDict(extra="forbid", strict=True)

    schema_version: Literal[1] = Field(alias="schema")
    event: Literal["keep", "end", "stop"]
    tag: str
    text: str
    metric: MetricFields | None
    experiment: Kept | None
    experiments: Experiments | None
    best: Best | None
    cost: Cost | None
    why: str | None


class Webhook:
    """A server that keeps what is posted to it. `statuses`: its next answers, then 200; while `open` is not set it
    does not answer at all."""

    def __init__(self) -> None:
        self.notices: list[Notice] = []
        self.paths: list[str] = []
        self.statuses: list[int] = []
        self.open = threading.Event()
        self.open.set()
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                hook.paths.append(self.path)
                body = self.rfile.read(int(self.headers["Content-Length"]))
                assert self.headers["Content-Type"] == "application/json"
                hook.notices.append(Notice.model_validate_json(body))
                hook.open.wait(120)
                self.send_response(hook.statuses.pop(0) if hook.statuses else 200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"http://127.0.0.1:{self._server.server_port}"
        self.url = f"{self.host}/services/{SECRET}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self.open.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def events(self) -> list[str]:
        return [notice.event for notice in self.notices]


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    hook = Webhook()
    yield hook
    hook.close()


@pytest.fixture
def dead() -> Iterator[str]:
    """An address at which nobody listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}/{SECRET}"


# ---------------------------------------------------------------------------------------------- what arrives


def test_every_keep_and_the_end(lab: Lab, webhook: Webhook) -> None:
    answers = recording(lab.root / "r.jsonl", KEPT.replace("[bold]", "<!channel> @all [bold]"), DISCARDED)
    done = lab("run", *QUICK, "-n", 3, "-a", answers, "--notify", webhook.url + "?tpl=1&m={{.text}}")  # as for ntfy
    assert done.code == 0, done.err
    assert "note:" not in done.out
    assert webhook.events == ["keep", "keep", "end"]
    assert unquote(webhook.paths[0]).endswith(f"/{SECRET}?tpl=1&m={{{{.text}}}}")
    baseline, kept, end = webhook.notices
    log = lab("log", "--json").json

    assert baseline.experiment and baseline.experiment.gain is None
    assert baseline.text == f"quick #1 kept: baseline; val_bpb {log[0]['value']:.4f}, the baseline"
    assert kept.experiment == Kept(
        number=2,
        title=log[1]["title"],
        value=log[1]["value"],
        gain=log[0]["value"] - log[1]["value"],
        commit=lab.git("rev-parse", "refs/autoresearch/quick/2"),
    )
    assert kept.best and kept.best.commit == kept.experiment.commit and kept.why is None
    assert kept.experiments and (kept.experiments.kept, kept.experiments.total) == (2, 2)
    assert "Learn the output faster" in kept.text and "better by" in kept.text
    assert "<!channel>" in kept.experiment.title and not set("<>@") & set(kept.text)  # it would alarm everybody
    assert end.why == "3 experiments are done" and end.experiment is None
    assert end.text == f"quick ended: {end.why} | 2 of 3 experiments kept, best val_bpb {log[1]['value']:.4f} (#2)"

    assert SECRET not in done.out + done.err
    with sqlite3.connect(lab.ledger) as db:
        assert SECRET not in "".join(db.iterdump())
    assert not any(SECRET.encode() in data for data in contents(lab.root).values() if isinstance(data, bytes))


@pytest.mark.usefixtures("late")
def test_a_stop_that_needs_a_person(ran: Lab, webhook: Webhook) -> None:
    """A spent recording; then five proposals without a patch. Both addresses are told."""
    spent = ran("run", *QUICK, "-n", 9, "-a", recording(ran.root / "empty.jsonl"), "--notify", webhook.url)
    assert spent.code == 1
    (stop,) = webhook.notices
    assert stop.event == "stop" and stop.best and stop.best.number == 2
    assert stop.why and stop.why in spent.err and "has ended after 0 replies" in stop.why
    assert stop.text.startswith("quick stopped and needs you: The recording") and "2 of 6 experiments kept" in stop.text

    useless = recording(ran.root / "useless.jsonl", *[FAILED] * 60)
    again = ("--notify", f"{webhook.url}/1", "--notify", f"{webhook.url}/2")
    failed = ran("run", *QUICK, "-n", 99, "-a", useless, *again)
    assert failed.code == 1 and "no patch that applies" in failed.err
    assert webhook.events[1:] == ["stop", "stop"]
    assert "no patch that applies" in (webhook.notices[-1].why or "")


def test_a_key_that_is_refused_in_the_middle(lab: Lab, webhook: Webhook) -> None:
    with LLMServer() as server:
        server.say(Fail(401, "the key has been revoked"))
        keyed = lab.at(lab.root, **server.environ())
        done = keyed("run", *QUICK, "-n", 3, "-a", "openai:gpt-4o", "--notify", webhook.url)
    assert done.code == 1 and "refuses the key in OPENAI_API_KEY (401)" in done.err
    assert webhook.events == ["keep", "stop"]
    stop = webhook.notices[1]
    assert stop.why and stop.why in done.err and stop.best and stop.best.number == 1
    assert KEY not in stop.model_dump_json()


@pytest.mark.usefixtures("late")
def test_a_stop_before_there_is_a_run(lab: Lab, webhook: Webhook) -> None:
    done = lab("run", *QUICK, "--corpus", "programs", "--notify", webhook.url)
    assert done.code == 1 and "is not prepared" in done.err
    (stop,) = webhook.notices
    assert (stop.event, stop.best, stop.experiments, stop.cost) == ("stop", None, None, None)
    assert "is not prepared" in stop.text


@pytest.mark.usefixtures("late")
def test_nobody_is_called_for_ctrl_c_and_the_address_is_not_printed(ran: Lab, webhook: Webhook) -> None:
    asked = ran.root / "asked"
    quiet = ran.at(ran.root, AUTORESEARCH_NOTIFY=f"{webhook.url}/1 {webhook.url}/2")
    for lab, option in ((ran, ["--notify", webhook.url]), (ran, [f"--notify={webhook.url}"]), (quiet, [])):
        process = lab.start("run", *QUICK, "-n", 6, "-a", f"command:sh -c 'touch {asked}; sleep 60'", *option)
        until(asked.exists, process)
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 130 and SECRET not in out + err, out + err
        assert ("--notify" in err) is bool(option)
        asked.unlink()
    assert webhook.notices == []


@pytest.mark.usefixtures("late")
def test_another_process_at_work_on_the_run_is_no_stop(ran: Lab, webhook: Webhook) -> None:
    asked = ran.root / "asked"
    process = ran.start("run", *QUICK, "-n", 6, "-a", f"command:sh -c 'touch {asked}; sleep 60'")
    until(asked.exists, process)
    second = ran("run", *QUICK, "-n", 6, "--notify", webhook.url)
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=60)
    assert second.code == 2 and webhook.notices == []


@pytest.mark.usefixtures("late")
@pytest.mark.parametrize("typed", [("--agent", "anthropc"), ("--price", "cheap")])
def test_nobody_is_called_for_what_was_mistyped(ran: Lab, webhook: Webhook, typed: tuple[str, str]) -> None:
    done = ran("run", *QUICK, "-n", 9, *typed, "--notify", webhook.url)
    assert done.code == 2 and webhook.notices == []


# ---------------------------------------------------------------------------------------------- what does not


def test_a_webhook_that_is_not_there(baseline: Lab, tmp_path: Path, webhook: Webhook, dead: str) -> None:
    """It is said once for two notices, in a line, without the address; the other one is served."""
    lab = baseline.copy(tmp_path / "lab")
    answers = recording(lab.root / "r.jsonl", KEPT)
    done = lab("run", *QUICK, "-n", 2, "-a", answers, "--notify", dead, "--notify", webhook.url)
    assert done.code == 0, done.err
    notes = [line for line in done.out.splitlines() if "note:" in line]
    assert len(notes) == 1 and "http://127.0.0.1:" in notes[0] and SECRET not in done.out + done.err
    assert webhook.events == ["keep", "end"]


@pytest.mark.usefixtures("late")
@pytest.mark.parametrize(("statuses", "times"), [((500,), 2), ((429, 503, 200), 3), ((500,) * 9, 3), ((404,) * 9, 1)])
def test_a_webhook_that_refuses(ran: Lab, webhook: Webhook, statuses: tuple[int, ...], times: int) -> None:
    webhook.statuses = list(statuses)
    done = ran("run", *QUICK, "-n", 5, "--notify", webhook.url)
    assert done.code == 0, done.err
    assert webhook.events == ["end"] * times
    assert ("note:" in done.out) is (len(statuses) == 9)
    if len(statuses) == 9:
        assert f"it answers with HTTP {statuses[0]}" in done.out


def test_a_webhook_that_never_answers_holds_up_nothing(baseline: Lab, tmp_path: Path, webhook: Webhook) -> None:
    """It answers only after the command has ended, and the command ends."""
    lab = baseline.copy(tmp_path / "lab")
    webhook.open.clear()
    done = lab("run", *QUICK, "-n", 2, "-a", recording(lab.root / "r.jsonl", KEPT), "--notify", webhook.url)
    assert done.code == 0, done.err
    assert len([line for line in done.out.splitlines() if "does not answer in time" in line]) == 1
    assert lab("status", "--json").json["experiments"]["kept"] == 2
    assert webhook.events.count("end") <= 1  # what may have arrived is not sent again


def test_a_failing_ledger_is_no_notice_lost(ran: Lab, webhook: Webhook) -> None:
    """The news is told without the figures, and the error is the ledger's."""
    said: list[str] = []
    ledger = Ledger(ran.ledger.parent)
    with Notifier([webhook.url], ledger, "quick", said.append) as notifier:
        with sqlite3.connect(ran.ledger) as db:
            db.execute("ALTER TABLE experiments RENAME TO lost")
        notifier.stage(Experiment(9, "quick", "done", "kept", title="A title", value=1.0, commit="c", reason="so"))
    (kept,) = webhook.notices
    assert kept.best is None and kept.text == "quick #9 kept: A title; value 1.0000, so" and said == []


def test_when_nothing_gets_through_the_oldest_gives_way(
    ran: Lab, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "WAITING", 3)
    said: list[str] = []
    webhook.open.clear()
    with Notifier([webhook.url], Ledger(ran.ledger.parent), "quick", said.append) as notifier:
        for number in range(1, 10):
            notifier.end(f"reason {number}")
            if number == 1:
                until(lambda: webhook.notices)
        threading.Timer(1.0, webhook.open.set).start()  # by then it is closing
    assert [notice.why for notice in webhook.notices] == ["reason 1", "reason 8", "reason 9"]  # and the close itself
    assert said == []


# ---------------------------------------------------------------------------------------------- the address


@pytest.mark.parametrize(
    "url",
    ["", f"hooks.example.org/{SECRET}", f"ftp://example.org/{SECRET}", f"https:///{SECRET}", f"http://[::1/{SECRET}",
     f"http://a b/{SECRET}", f"http://example.org:x/{SECRET}", "https://hooks.example.org/…", f"file:///{SECRET}"],
)  # fmt: skip
def test_what_is_no_address_is_misuse_and_not_repeated(lab: Lab, url: str) -> None:
    done = lab("run", *QUICK, "--notify", url)
    assert done.code == 2 and done.err.count("\n") == 1
    assert "--notify" in done.err and "https://" in done.err and SECRET not in done.err
    with pytest.raises(Misuse):
        Notifier([url], Ledger(lab.ledger.parent), "quick", print)
