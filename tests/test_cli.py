"""The commands as a user meets them: what is printed, when they answer, how they end."""

import contextlib
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Literal

import psutil
import pytest
from filelock import FileLock
from pydantic import BaseModel, ConfigDict, Field

from autoresearch.agent.providers import PROVIDERS
from tests.conftest import CHEAP, COMMAND, Lab, contents, recording
from tests.llm_server import LLMServer

QUICK = ("-p", "programs/quick.md")
HEAVY = ("torch", "numpy", "optuna", "anthropic", "openai", "pandas", "pyarrow", "rustbpe")

GONE = "autoresearch: standard output is gone (Broken pipe): the rest of it is lost, nothing else.\n"


def until(seen: Callable[[], object], process: subprocess.Popen[str] | None = None, limit: float = 120) -> None:
    """Wait for something to be seen, or for the process that would bring it about to end."""
    end = time.monotonic() + limit
    while not seen():
        assert time.monotonic() < end, "it never came"
        if process and process.poll() is not None:
            return
        time.sleep(0.01)


def stages(lab: Lab) -> list[str]:
    """The stage of every experiment, as another process reads it; empty before there is a ledger."""
    try:
        with sqlite3.connect(f"file:{lab.ledger}?mode=ro", uri=True) as db:
            return [stage for (stage,) in db.execute("SELECT stage FROM experiments ORDER BY number")]
    except sqlite3.OperationalError:
        return []


def survivors(*places: Path) -> list[psutil.Process]:
    """Processes that work at one of these: in the folder, on a measurement below it, or told of it."""
    found = []
    for process in psutil.process_iter():
        try:
            env = process.environ()
            told = (env.get("AUTORESEARCH_CHILD", ""), process.cwd(), *process.cmdline())
        except (psutil.Error, OSError):  # a folder that a test beside this one nested too deep for a path, say
            continue
        if process.pid != os.getpid() and any(str(place) in part for place in places for part in told):
            found.append(process)
    return found


# ---------------------------------------------------------------------------------------------- what is imported


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["status"], ["status", "--json"], ["log"]])
def test_reading_is_quick_to_start(finished: Lab, arguments: list[str]) -> None:
    look = (
        "import sys, atexit; sys.argv[0] = 'autoresearch';"
        f"atexit.register(lambda: print('|', *[m for m in {HEAVY} if m in sys.modules]));"
        "from autoresearch.__main__ import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", look, *arguments],
        cwd=finished.root, env=finished.environ(), capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.rpartition("|")[2].strip() == ""


def test_importing_does_nothing(tmp_path: Path) -> None:
    """No folder made, nothing printed, no environment read into a module."""
    code = "import autoresearch.cli, autoresearch.wiring, autoresearch.doctor, autoresearch.report.watch"
    env = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------------------------------- help and version


def test_help_names_every_command_and_every_command_has_help(lab: Lab) -> None:
    shown = lab("--help")
    assert shown.code == 0 and shown.err == ""
    for command in ("init", "prepare", "run", "try", "status", "show", "log", "replay", "doctor"):
        assert re.search(rf"^  {command} ", shown.out, re.MULTILINE)
        helped = lab(command, "--help")
        assert helped.code == 0 and "Usage: autoresearch" in helped.out
        assert max(map(len, helped.out.splitlines())) <= 80
    assert lab().out == shown.out
    assert re.fullmatch(r"autoresearch \d+\.\d+\.\d+\n", lab("--version").out)


def test_it_runs_as_a_module_too(lab: Lab) -> None:
    command = [sys.executable, "-m", "autoresearch", "show"]
    done = subprocess.run(command, cwd=lab.root, env=lab.environ(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and done.stderr.startswith("autoresearch: Missing argument")


# ---------------------------------------------------------------------------------------------- status, log, show


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class MetricFields(Strict):
    name: str
    goal: Literal["minimize", "maximize"]


class Experiments(Strict):
    total: int
    kept: int
    discarded: int
    stopped: int
    crashed: int
    failed: int
    quarantined: int


class Baseline(Strict):
    value: float
    sigma: float
    n: int


class Best(Strict):
    number: int
    commit: str
    value: float
    standing: Literal["provisional", "confirmed", "rolled_back"] | None


class GainFields(Strict):
    value: float
    error: float | None
    baseline: float
    tip: float
    n: tuple[int, int]


class Cost(Strict):
    llm_usd: float | None
    gpu_usd: float | None


class Last(Strict):
    number: int
    status: Literal["running", "kept", "discarded", "stopped", "crashed", "failed", "quarantined"]
    title: str
    value: float | None
    standing: str | None


class EarlyStopFields(Strict):
    stopped: int
    spared: int
    spared_kept: int


class Status(Strict):
    """`status --json`: every field present, and null where there is nothing to say."""

    schema_version: int = Field(alias="schema")
    tag: str
    branch: str
    state: Literal["running", "finished", "interrupted"]
    program: str
    agent: str
    device: str
    metric: MetricFields
    elapsed_s: float
    experiments: Experiments
    rolled_back: int
    early_stop: EarlyStopFields
    baseline: Baseline | None
    best: Best | None
    gain: GainFields | None
    gpu_busy: float | None
    cost: Cost
    last: Last | None


def test_status_as_json_is_as_specified(finished: Lab) -> None:
    done = finished("status", "--json")
    assert done.code == 0 and done.err == ""
    status = Status.model_validate_json(done.out)
    assert (status.tag, status.branch, status.state) == ("quick", "autoresearch/quick", "finished")
    assert status.experiments == Experiments(
        total=5, kept=2, discarded=1, stopped=0, crashed=1, failed=1, quarantined=0
    )
    assert status.best and status.best.number == 2 and status.best.standing == "provisional"
    assert status.best.commit == finished.git("rev-parse", "autoresearch/quick")
    assert status.baseline and status.baseline.value > status.best.value > 0
    assert status.baseline.sigma == pytest.approx(0.01) and status.baseline.n == 1
    assert status.last == Last(number=5, status="failed", title="Not there", value=None, standing=None)
    assert status.cost == Cost(llm_usd=None, gpu_usd=None)
    assert status.gpu_busy is not None and 0 < status.gpu_busy < 1


@pytest.mark.usefixtures("late")
def test_status_of_a_run_without_a_score_is_null_and_not_zero(lab: Lab) -> None:
    lab.write_program("[256]", "[300]")
    assert lab("run", *QUICK).code == 1
    status = Status.model_validate_json(lab("status", "--json").out)
    assert status.baseline is None and status.best is None and status.gpu_busy is None
    assert status.last and status.last.value is None and status.last.status == "crashed"


def test_what_is_read_through_a_pipe_is_plain(finished: Lab) -> None:
    """No escape codes, no padding, and no line that is wrapped for a screen that is not there."""
    narrow = finished.at(finished.root, COLUMNS="40")
    for arguments in (("status",), ("log",), ("show", "2"), ("doctor", *QUICK)):
        done = finished(*arguments)
        assert done.code == 0, done.err
        assert "\x1b" not in done.out
        assert not any(line.endswith(" ") for line in done.out.splitlines()), arguments
        if arguments != ("doctor", *QUICK):  # which tells the free space, which moves
            assert narrow(*arguments).out == done.out


def test_show_tells_all_of_an_experiment(finished: Lab) -> None:
    shown = finished("show", "2").out
    for part in ("Learn the output faster [bold]!", "kept", "better by", "because.", "optimizer", "-0.1", "2 steps",
                 "+UNEMBEDDING_LR = 0.02", "-UNEMBEDDING_LR = 0.0005", "proved at 64 positions"):  # fmt: skip
        assert part in shown, part
    commit = finished.git("rev-parse", "refs/autoresearch/quick/2")
    assert finished("show", commit[:10]).out == shown
    assert finished("show", "2", "--json").json["commit"] == commit
    assert "CONTEXT is 1" in finished("show", "4").out
    assert "matches nowhere" in finished("show", "5").out


def test_log_as_json_and_as_the_table_that_notebooks_read(finished: Lab) -> None:
    rows = [line.split("\t") for line in finished("log", "--tsv").out.splitlines()]
    assert rows[0] == ["commit", "val_bpb", "memory_gb", "status", "description"]
    assert [row[3] for row in rows[1:]] == ["keep", "keep", "discard", "crash", "failed"]
    assert [bool(row[1]) for row in rows[1:]] == [True, True, True, False, False]
    experiments = finished("log", "--json").json
    assert [e["status"] for e in experiments] == ["kept", "kept", "discarded", "crashed", "failed"]
    assert experiments[3]["value"] is None and experiments[4]["commit"] is None


# ---------------------------------------------------------------------------------------------- while a run goes


def test_a_run_goes_on_without_a_reader_and_answers_while_it_does(lab: Lab, tmp_path: Path) -> None:
    """`run | head -1`; meanwhile `status` answers, and a second `run` of the tag is refused."""
    looked, answer = tmp_path / "looked", tmp_path / "answer"
    answer.write_text(CHEAP)
    mind = f"command:sh -c 'until [ -e {looked} ]; do sleep 0.1; done; cat {answer}'"
    process = lab.start("run", *QUICK, "-n", 2, "-a", mind)
    assert process.stdout and process.stderr
    assert process.stdout.readline().startswith("run quick on ")
    process.stdout.close()
    until(lambda: "running" in stages(lab), process)

    status = Status.model_validate_json(lab("status", "--json").out)
    assert status.state == "running" and status.experiments.total >= 1
    found = lab("status").out
    assert "running" in found and re.search(r"^now  +\w", found, re.MULTILINE)
    second = lab("run", *QUICK, "-n", 2)
    assert second.code == 2
    assert "is being worked on by another process" in second.err and "--tag" in second.err
    assert second.err.count("\n") == 1

    looked.touch()
    process.wait(240)
    assert process.stderr.read() == GONE
    assert Status.model_validate_json(lab("status", "--json").out).experiments.total == 2
    assert not survivors(lab.root, lab.cache)


def test_a_run_is_replayed_by_one_process_at_a_time_whatever_its_tag(lab: Lab) -> None:
    tag = "x" * 61
    assert lab("run", *QUICK, "-n", 1, "-t", tag).code == 0
    process = lab.start("replay", "1")
    until(lambda: any(lab.cache.glob("scratch/*/measurement-*/train.log")), process)
    process.send_signal(signal.SIGSTOP)
    second = lab("replay", "1")
    assert second.code == 2 and "is being replayed by another process. Wait" in second.err
    assert lab("run", *QUICK, "-n", 1, "-t", tag).code == 0
    process.send_signal(signal.SIGCONT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert len(lab("show", "1", "--json").json["measurements"]) == 2


def test_a_run_named_like_a_replay_is_not_one(ran: Lab) -> None:
    other = ran.ledger.parent / "runs" / "quick-replay"
    other.mkdir()
    with FileLock(other / "lock"):
        assert "no constant DEEP" in ran("replay", "2", "--set", "DEEP=3").err


@pytest.mark.parametrize("arguments", [["status"], ["log"], ["show", "2"], ["log", "--json"], ["--help"]])
def test_output_into_a_closed_pipe(finished: Lab, arguments: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = finished(*arguments, stdout=writing)
    os.close(writing)
    assert done.code == 1
    assert done.err == GONE


def test_ctrl_c_at_any_time(lab: Lab) -> None:
    """Interrupted while it starts, begins, trains, scores, and twice at once: the same command then finishes."""
    draw = random.Random(0)
    command = ("run", *QUICK, "-n", 3)

    def begun(process: subprocess.Popen[str]) -> bool:
        """Python itself has started, and is at the program's imports."""
        try:
            return "_pydantic_core" in Path(f"/proc/{process.pid}/maps").read_text()
        except OSError:
            return False

    def in_phase(word: str) -> Callable[[subprocess.Popen[str]], bool]:
        return lambda _: any(lab.cache.glob(f"scratch/*/measurement-*/{word}"))

    moments: list[tuple[Callable[[subprocess.Popen[str]], bool], float, int]] = [
        (begun, 0.0, 1),
        (begun, draw.uniform(0, 0.3), 1),
        (lambda _: bool(stages(lab)), 0.0, 1),
        (in_phase("train.log"), draw.uniform(0, 0.3), 1),
        (in_phase("train.log"), draw.uniform(0.5, 2.0), 2),
        (in_phase("score.log"), draw.uniform(0, 1.0), 1),
        (lambda _: stages(lab)[:1] == ["done"], 0.0, 1),
        (lambda _: len(stages(lab)) == 2, draw.uniform(0, 0.1), 1),
        (lambda _: stages(lab)[1:] == ["running"], draw.uniform(0, 1.0), 1),
    ]
    heard = 0
    for number, (moment, after, times) in enumerate(moments):
        process = lab.start(*command)
        until(lambda process=process, moment=moment: begun(process) and moment(process), process)
        time.sleep(after)
        for _ in range(times):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGINT)
                time.sleep(0.05)
        out, err = process.communicate(timeout=240)
        if process.returncode == 0:
            break
        heard += 1
        assert process.returncode == 130, (number, out, err)
        assert err.endswith(f"The same command again goes on: autoresearch {' '.join(map(str, command))}\n"), err
        assert err.count("\n") == 1 and "Traceback" not in out, (number, err)
        until(lambda: not survivors(lab.root, lab.cache))
    assert heard >= 5
    done = lab(*command)
    assert done.code == 0, done.err
    status = Status.model_validate_json(lab("status", "--json").out)
    assert status.state == "finished" and status.experiments.total == 3 and status.baseline
    assert not survivors(lab.root, lab.cache)
    assert [str(left) for left in lab.cache.glob("scratch/*/measurement-*")] == []


def test_ctrl_c_that_is_held_down_says_one_line(lab: Lab) -> None:
    """While a command waits for its patch, and a process imports already what a measurement needs."""
    process = lab.start("try", *QUICK, "--patch", "-", stdin=subprocess.PIPE)
    until(lambda: psutil.Process(process.pid).children(), process)
    while process.poll() is None:
        process.send_signal(signal.SIGINT)
        time.sleep(0.002)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert err.startswith("autoresearch: interrupted") and err.count("\n") == 1, err


@pytest.mark.parametrize(
    "arguments", [("run", "-p", "nowhere.md"), ("run", *QUICK, "--agent", "nobody"), ("try", *QUICK), ("replay", "1")]
)
def test_a_command_that_fails_before_it_measures_leaves_no_process(lab: Lab, arguments: tuple[str, ...]) -> None:
    marked = lab.at(lab.root, TORCH_MARK=str(lab.root))  # which all its processes are given
    assert marked(*arguments).code in (1, 2)
    left = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            left += [process] * (process.environ().get("TORCH_MARK") == str(lab.root))
    assert left == []


def test_ctrl_c_while_preparing(lab: Lab, tmp_path: Path) -> None:
    """Another vocabulary takes a while; the same command then finishes it."""
    lab.write_program("[256]", "[256, 1000]")
    cold = lab.at(lab.root, AUTORESEARCH_CACHE=str(tmp_path / "cache"))
    process = cold.start("prepare", *QUICK)
    assert process.stderr
    until(lambda: "reading" in process.stderr.readline(), process)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode in (0, 130)
    if process.returncode == 130:
        assert err.splitlines()[-1].startswith("autoresearch: interrupted; nothing is lost.")
    assert cold("prepare", *QUICK).code == 0


# ---------------------------------------------------------------------------------------------- who proposes


@pytest.mark.usefixtures("late")
def test_without_a_key_the_search_proposes(lab: Lab) -> None:
    done = lab("run", *QUICK, "--hours", 0)  # which is settled before anything is trained
    assert done.code == 0 and "; proposals by search, since no key is set" in done.out
    named = lab("run", *QUICK, "--hours", 0, "-a", "search")
    assert named.out.splitlines()[0].endswith("; proposals by search")


@pytest.mark.usefixtures("late")
@pytest.mark.parametrize(("provider", "without"), [("anthropic", ""), ("openai", "ANTHROPIC_API_KEY")])
def test_a_key_that_is_set_chooses_who_proposes(lab: Lab, provider: str, without: str) -> None:
    """Anthropic's before OpenAI's; and the run asks for that key from then on."""
    model = PROVIDERS[provider].default
    with LLMServer() as server:
        server.models[model] = replace(server.models["gpt-4o"], id=model)
        begun = lab.at(lab.root, **{**server.environ(), without or "UNUSED": ""})("run", *QUICK, "--hours", 0)
    assert begun.code == 0, begun.err
    key = f"{provider.upper()}_API_KEY"
    assert begun.out.splitlines()[0].endswith(f"; proposals by {provider}:{model}, since {key} is set")
    gone = lab("run", *QUICK, "--hours", 0)
    assert gone.code == 1 and f"{provider}:{model} needs a key, and {key} is not set" in gone.err
    assert "; proposals by search" in lab("run", *QUICK, "--hours", 0, "-a", "search").out


@pytest.mark.usefixtures("late")
def test_a_run_goes_on_with_the_agent_it_had(ran: Lab) -> None:
    """Even if a key that is set would choose another, and though a person has tried something meanwhile."""
    keyed = ran.at(ran.root, ANTHROPIC_API_KEY="sk-1", OPENAI_API_KEY="sk-2", ANTHROPIC_BASE_URL="http://127.0.0.1:9")
    for _ in range(2):
        done = keyed("run", *QUICK, "-n", 5)
        assert done.code == 0, done.err
        first = done.out.splitlines()[0]
        assert "; proposals by replay:" in first and first.endswith(
            ", as before (ANTHROPIC_API_KEY is set: --agent anthropic changes over)"
        )
        assert keyed("try", *QUICK, "--patch", "-", "--json", input=CHEAP).json["number"] > 5
    over = keyed("run", *QUICK, "-n", 5, "-a", "search")
    assert over.code == 0 and over.out.splitlines()[0].endswith("; proposals by search")
    assert "proposals by search, as before (" in keyed("run", *QUICK, "-n", 5).out


# ---------------------------------------------------------------------------------------------- odd places


def one_more(lab: Lab, **options) -> list[dict]:
    """Add an experiment that costs no training, and return all of them."""
    number = len(stages(lab)) + 1
    before = len(lab("log", "--json").json) if stages(lab) else 0
    replies = recording(lab.home / f"{lab.root.name}-{number}.jsonl", *[CHEAP.replace("0.0005", "0.02")] * 9)
    done = lab("run", "-p", lab.program, "-n", before + 1, "-a", replies, **options)
    assert done.code == 0, done.err
    return lab("log", "--json").json


def test_a_path_with_spaces_and_other_letters(finished: Lab, tmp_path: Path) -> None:
    lab = finished.copy(tmp_path / "mein Übungs-Labor – 実験")
    made = one_more(lab)[-1]
    assert made["status"] == "crashed" and made["commit"] == lab.git("rev-parse", "refs/autoresearch/quick/6")
    assert lab("show", "6").code == 0
    with sqlite3.connect(lab.ledger) as db:  # as if another version of the scorer had measured it
        db.execute("UPDATE measurements SET detail = json_set(detail, '$.harness', 'other') WHERE number = 2")
    replayed = lab("replay", "2")
    assert replayed.code == 0 and "not compared" in replayed.out and "again" in replayed.out


@pytest.mark.usefixtures("late")
def test_a_detached_head(ran: Lab) -> None:
    ran.git("switch", "--quiet", "--detach", "main")
    head = (ran.root / ".git" / "HEAD").read_bytes()
    assert len(one_more(ran)) == 6
    assert (ran.root / ".git" / "HEAD").read_bytes() == head


@pytest.mark.usefixtures("late")
def test_from_a_folder_inside_the_repository(ran: Lab) -> None:
    inside = ran.at(ran.root / "programs")
    assert inside("status").out == ran("status").out
    assert inside("show", "2").out == ran("show", "2").out
    assert inside("run", "-p", "quick.md", "-n", 5).code == 0


@pytest.mark.usefixtures("late")
def test_a_worktree_shares_the_ledger(ran: Lab, tmp_path: Path) -> None:
    ran.git("worktree", "add", "--quiet", "--detach", tmp_path / "tree")
    tree = ran.at(tmp_path / "tree")
    assert tree("status").out == ran("status").out
    done = tree("run", "-p", ran.program, "-n", 6, "-a", recording(tmp_path / "r.jsonl", *[CHEAP] * 9))
    assert done.code == 0, done.err
    assert len(ran("log", "--json").json) == 6


@pytest.mark.usefixtures("late")
def test_git_does_not_know_who_the_user_is(ran: Lab, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / ".gitconfig").write_text("[user]\n\tuseConfigOnly = true\n")
    nobody = ran.at(ran.root, HOME=str(tmp_path / "home"))
    assert one_more(nobody)[-1]["commit"]
    assert ran.git("log", "-1", "--format=%an", "refs/autoresearch/quick/6") == "autoresearch"
    assert nobody("init", tmp_path / "new").code == 0


@pytest.mark.usefixtures("late")
def test_line_ends_are_kept(lab: Lab) -> None:
    """A file with CRLF keeps it in every attempt; only the lines that a patch changes differ."""
    lab.train_core.write_bytes(lab.train_core.read_bytes().replace(b"\n", b"\r\n"))
    lab.git("-c", "core.autocrlf=false", "commit", "--quiet", "--all", "--message", "CRLF")
    lab.write_program("[256]", "[300]")
    assert lab("run", *QUICK).code == 1
    stat = lab.git("diff", "--numstat", "HEAD", "refs/autoresearch/quick/1").split()
    assert stat[0] == stat[1] and int(stat[0]) < 10
    blob = subprocess.run(
        ["git", "show", "refs/autoresearch/quick/1:train_core.py"], cwd=lab.root, capture_output=True, check=True
    ).stdout
    assert blob.count(b"\r\n") == blob.count(b"\n") > 100


@pytest.mark.usefixtures("late")
def test_a_machine_that_converts_line_ends_sees_no_edit(ran: Lab) -> None:
    """With core.autocrlf the working tree has other bytes than the commit, and nobody has edited anything."""
    ran.git("config", "core.autocrlf", "true")
    ran.train_core.write_bytes(ran.train_core.read_bytes().replace(b"\n", b"\r\n"))
    tried = ran("try", *QUICK)
    assert tried.code == 2 and "no edit of train_core.py" in tried.err
    assert "not committed" not in ran("run", *QUICK, "-n", 5).out


def test_doctor_says_what_is_amiss_and_the_remedy(lab: Lab, tmp_path: Path) -> None:
    good = lab("doctor", *QUICK)
    assert good.code == 0 and "fails" not in good.out
    bad = lab.at(tmp_path)("doctor", "-p", "nowhere.md", "--json")
    found = {finding["name"]: finding for finding in bad.json}
    assert bad.code == 1
    assert found["repository"]["state"] == "fails" and "autoresearch init" in found["repository"]["remedy"]
    assert found["program"]["state"] == "fails"
    (tmp_path / "bin").mkdir()
    without_git = lab.at(lab.root, PATH=str(tmp_path / "bin"))("doctor", *QUICK, "--json")
    assert {f["name"]: f["state"] for f in without_git.json}["git"] == "fails"


def test_try_measures_the_edit_in_the_tree_on_top_of_the_tip(ran: Lab) -> None:
    ran.train_core.write_text(ran.train_core.read_text().replace("SOFTCAP = 15.0", "SOFTCAP = 20.0"))
    ran.git("status")  # refreshes the index's times
    own = (".git/autoresearch", ".git/objects", ".git/refs", ".git/logs/refs/heads/autoresearch")
    before, tip = contents(ran.root, without=own), ran.git("rev-parse", "autoresearch/quick")
    tried = ran("try", *QUICK, "-m", "my own", "--json")
    assert tried.code == 0, tried.err
    assert contents(ran.root, without=own) == before
    made = tried.json
    assert (made["number"], made["title"], made["parent"]) == (6, "my own", tip)
    assert made["value"] > 0
    assert ran.git("rev-parse", "autoresearch/quick") == {"kept": made["commit"], "discarded": tip}[made["status"]]
    changed = ran.git("diff", "--unified=0", tip, made["commit"]).splitlines()[5:]
    assert [line.split("  #")[0] for line in changed] == ["-SOFTCAP = 15.0", "+SOFTCAP = 20.0"]

    ran.train_core.write_text(ran.train_core.read_text().replace("CONTEXT = 2048", "CONTEXT = 32"))
    conflicting = ran("try", *QUICK)  # the baseline's constants stand on the same line
    assert conflicting.code == 2 and "conflicts with what the run has kept" in conflicting.err


@pytest.mark.usefixtures("late")
def test_try_takes_a_patch_and_fails_without_a_score(ran: Lab) -> None:
    patch = ran.root / "p.txt"
    patch.write_text(CHEAP)
    made = ran("try", *QUICK, "--patch", patch, "--json")
    assert made.code == 1, made.err
    assert made.json["title"] == "Costs no training" and made.json["status"] == "crashed"
    piped = ran("try", *QUICK, "--patch", "-", "--json", "-m", "piped", input=CHEAP)
    assert piped.json["title"] == "piped" and piped.json["number"] == made.json["number"] + 1
    wrong = ran("try", *QUICK, "--patch", "-", input="no patch at all")
    assert wrong.code == 2 and "does not apply" in wrong.err and wrong.err.count("\n") == 1


@pytest.mark.usefixtures("late")
def test_a_first_try_is_looked_at_before_the_baseline_is_measured(lab: Lab) -> None:
    """An unprepared corpus would be the next thing to say."""
    elsewhere = (*QUICK, "--corpus", "programs")
    nothing = lab("try", *elsewhere)
    assert nothing.code == 2 and "no edit of train_core.py" in nothing.err
    wrong = lab("try", *elsewhere, "--patch", "-", input="no patch at all")
    assert wrong.code == 2 and "does not apply" in wrong.err
    fitting = lab("try", *elsewhere, "--patch", "-", input=CHEAP)  # as it is with the program's constants
    assert fitting.code == 1 and "is not prepared" in fitting.err
    assert stages(lab) == []


@pytest.mark.usefixtures("late")
def test_sigterm_is_ctrl_c_and_a_lost_terminal_ends_nothing(ran: Lab, tmp_path: Path) -> None:
    waiting = tmp_path / "asked"
    mind = f"command:sh -c 'touch {waiting}; sleep 60'"
    process = ran.start("run", *QUICK, "-n", 6, "-a", mind)
    until(waiting.exists, process)
    process.send_signal(signal.SIGHUP)
    assert Status.model_validate_json(ran("status", "--json").out).state == "running"
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130 and "The same command again goes on" in err
    until(lambda: not survivors(waiting))


def test_the_console_script_is_installed() -> None:
    declared = [point for point in entry_points(group="console_scripts") if point.name == "autoresearch"]
    assert [point.value for point in declared] == ["autoresearch.__main__:main"]
    assert os.access(COMMAND, os.X_OK)


# What a container would refuse: namespaces, to the command and all that it starts.
LESS = (
    "import os, sys\n"
    "from autoresearch.harness.sandbox import confine, seccomp\n"
    "confine.drop_privileges()\n"
    "seccomp.restrict(ipc=False, attributes=False)\n"
    "os.execv(sys.argv[1], sys.argv[1:])\n"
)


@pytest.mark.skipif(sys.platform != "linux", reason="a sandbox is made on Linux alone")
@pytest.mark.parametrize("mode", ["strict", "auto", "off"])
def test_a_sandbox_that_is_not_whole(mode: str, finished: Lab, tmp_path: Path) -> None:
    """Strict runs nothing; the others say in a line what is not protected."""
    lab = finished.copy(tmp_path / "lab")
    command = [sys.executable, "-c", LESS, str(COMMAND), "run", *QUICK, "--experiments", "5", "--agent", "search"]
    done = subprocess.run(
        [*command, "--sandbox", mode], cwd=lab.root, env=lab.environ(), text=True, capture_output=True, check=False
    )
    if mode == "strict":
        assert done.returncode == 1
        assert done.stderr.startswith("autoresearch: the sandbox is not whole: ")
        assert "or run with --sandbox auto." in done.stderr and done.stderr.count("\n") == 1
        return
    said = "does not protect" if mode == "auto" else "no sandbox: the code that is trained runs with all your rights"
    assert done.returncode == 0, done.stderr
    assert (done.stdout + done.stderr).count(said) == 1
