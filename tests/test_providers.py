"""Runs through the providers' APIs: replies of every form, and every way in which a reply can fail to come."""

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import pytest

from tests.asking import CLAUDE, GPT, ONE, WAIT, Asking, said
from tests.conftest import CHEAP, FAILED, KEPT, Lab, reply, setting
from tests.llm_server import Cut, Fail, Garbage, LLMServer, Request, Say, Stall, Turn

SILENCE = 5.0  # seconds without a sign of life after which these runs give a call up
PATCHED = ["-CONTEXT = 64", "+CONTEXT = 0"]  # what CHEAP does to the file: the run is over with it at once

# A candidate that tells all of its environment, in its output and in its traceback.
SPY = reply(
    (
        "import functools",
        "import functools\nimport os\n\nALL = '\\n'.join(f'{name}: {value}' for name, value in os.environ.items())\n"
        "print(ALL)\nraise RuntimeError(ALL)",
    ),
    title="Look around",
)


@pytest.fixture(params=[CLAUDE, GPT], ids=["anthropic", "openai"])
def asking(baseline: Lab, llm_server: LLMServer, tmp_path, request: pytest.FixtureRequest) -> Asking:
    """A lab of the test's own whose baseline is there, and a model to ask."""
    waits = {"AUTORESEARCH_LLM_WAIT": str(WAIT), "AUTORESEARCH_LLM_TIMEOUT": str(SILENCE)}
    lab = baseline.copy(tmp_path / "lab")
    return Asking(lab.at(lab.root, **llm_server.environ(), **waits), llm_server, request.param)


def unified(lab: Lab) -> str:
    """CHEAP as a unified diff."""
    old, new = setting("CONTEXT", 64, 0)
    before = lab.git("show", "autoresearch/quick:train_core.py")
    lines = before.splitlines(keepends=True), before.replace(old, new).splitlines(keepends=True)
    return reply(body="".join(difflib.unified_diff(*lines, "a/train_core.py", "b/train_core.py")))


def whole(lab: Lab) -> str:
    """CHEAP as the whole file."""
    old, new = setting("CONTEXT", 64, 0)
    return reply(body=f"```python\n{lab.git('show', 'autoresearch/quick:train_core.py').replace(old, new)}\n```\n")


# ---------------------------------------------------------------------------------------------- replies

TWICE = reply(
    ("    def __init__(self, layer: int) -> None:", "    def __init__(self, layer: int, more: int = 0) -> None:")
)


@dataclass(frozen=True)
class Case:
    """What the model answers to one experiment's calls, and what comes of it."""

    name: str
    turns: Callable[[Lab], list[Turn]]
    failure: str | None = None  # why there is no patch, if there is none
    told: str | None = None  # what the last call says of the reply before


REPLIES = [
    Case("a good patch", lambda lab: [Say(CHEAP)]),
    Case("a good patch after thought", lambda lab: [Say(CHEAP, thinking="Shorter rows? TITLE: never mind")]),
    Case("no match", lambda lab: [Say(FAILED), Say(CHEAP)], told="matches nowhere"),
    Case("an empty reply", lambda lab: [Say("")], failure="the reply was empty"),
    Case("two matches", lambda lab: [Say(TWICE), Say(CHEAP)], told=r"matches .*(2|two|twice)"),
    Case("a unified diff", lambda lab: [Say(unified(lab))]),
    Case("a refusal", lambda lab: [Say("", stop="refused")], failure="the model refused"),
    Case("a refusal in mid-sentence", lambda lab: [Say(CHEAP[:40], stop="refused")], failure="the model refused"),
    Case("the whole file", lambda lab: [Say(whole(lab))]),
    Case("no patch", lambda lab: [Say("I would make it deeper."), Say(CHEAP)], told="(?i)no edit|block|SEARCH"),
    Case("cut", lambda lab: [Say(CHEAP, stop="cut"), Say(CHEAP)], told="cut off at the limit of its length"),
    Case("cut in thought", lambda lab: [Say("", thinking="Hm. " * 9, stop="cut"), Say(CHEAP)], told="cut off"),
    Case("never a match", lambda lab: [Say(FAILED)] * 4, failure="block 1: SEARCH matches nowhere", told="whole of"),
    Case("mended as a whole file", lambda lab: [*[Say(FAILED)] * 3, Say(whole(lab))], told="whole of train_core.py"),
]


@pytest.mark.usefixtures("late")
def test_replies_of_every_form(asking: Asking) -> None:
    """One run, an experiment for each reply; where it has a patch it is committed, and costs no training."""
    turns = [case.turns(asking.lab) for case in REPLIES]
    asking.server.say(*[turn for some in turns for turn in some])
    done = asking(1 + len(REPLIES))
    assert (done.code, done.err, asking.server.unsaid) == (0, "", 0), done.out + done.err

    experiments = asking.experiments()
    asked = iter(asking.server.asked)
    assert len(experiments) == len(REPLIES)
    for case, some, experiment in zip(REPLIES, turns, experiments, strict=True):
        prompts = [said(next(asked)) for _ in some]
        assert experiment.replies == len(some), case.name
        assert experiment.stage == "done", case.name
        if case.failure:
            assert experiment.status == "failed" and experiment.commit_id is None, case.name
            assert experiment.reason and experiment.reason.startswith(case.failure), (case.name, experiment.reason)
        else:
            assert experiment.status == "crashed" and "CONTEXT is 0" in (experiment.reason or ""), case.name
            changed = [line.partition("  #")[0] for line in asking.changed(experiment)]
            assert changed == PATCHED, (case.name, changed)
        if case.told:
            assert re.search(case.told, prompts[-1][-1][1]), (case.name, prompts[-1][-1][1])
        assert [role for role, _ in prompts[-1]] == ["system", "user", *["assistant", "user"] * (len(some) - 1)]
        recorded = asking.recorded(experiment.number)
        assert [call["reply"] for call in recorded] == [turn.text for turn in some], case.name
    assert [call.error for call in asking.calls()] == [None] * sum(map(len, turns))


def test_a_crash_goes_back_and_the_next_proposal_mends_it(asking: Asking) -> None:
    """Crashed, not repaired, repaired and kept, and then one more: a candidate that looks for the key finds none."""
    asking.server.say(Say(SPY, thinking="Where am I?"), Say(CHEAP), Say(KEPT), Say(CHEAP))
    done = asking(5, "--sandbox", "auto")
    assert (done.code, done.err) == (0, ""), done.out + done.err
    statuses = [experiment.status for experiment in asking.experiments()]
    assert statuses == ["crashed", "crashed", "kept", "crashed"], done.out
    prompts = [said(request) for request in asking.server.asked]
    crashes = ["last experiment crashed" in user for _, (_, user) in prompts]
    assert crashes == [False, True, True, False]
    assert "raise RuntimeError(ALL)" in prompts[1][1][1] and "CONTEXT is 0" in prompts[2][1][1]
    assert "Look around" in prompts[1][1][1] and "Traceback" not in done.out + done.err

    # The system's text never changes, nor does the file but with a keep.
    assert len({system for (_, system), _ in prompts}) == 1
    files = [re.search(r"(?s)\A.*?<file>.*?</file>", user).group() for _, (_, user) in prompts]
    old, new = setting("UNEMBEDDING_LR", 0.0005, 0.02)
    assert files[0] == files[1] == files[2] and files[3] == files[0].replace(old, new) != files[0]
    assert [system for (system, _), _ in prompts] == ["system"] * 4

    assert_no_key(asking)
    logs = asking.lab.ledger.parent / "runs" / "quick" / "2" / "train.log"
    assert "AUTORESEARCH_CHILD: " in logs.read_text(), "the spy saw nothing"


def assert_no_key(asking: Asking) -> None:
    """The key is nowhere in the lab, its git directory and its ledger, nor was the model shown it."""
    key = asking.server.key
    holding = [path for path in asking.lab.root.rglob("*") if path.is_file() and key.encode() in path.read_bytes()]
    assert not holding
    assert not any(key in text for request in asking.server.asked for _, text in said(request))


# ---------------------------------------------------------------------------------------------- trouble


@dataclass(frozen=True)
class Trouble:
    """What comes in place of a reply, how often, and what is said of it if it outlasts the SDK's own retries."""

    name: str
    turns: list[Turn]
    noted: str | None = None


BAD_JSON = 'event: message_start\ndata: {"type": "message_start", "message": {\n\n'
TROUBLES = [
    Trouble("one rate limit", [Fail(429, "Slow down", {"Retry-After": "1"})]),
    Trouble("a server error", [Fail(500, "Oh no")] * 4, "Oh no"),
    Trouble("overload", [Fail(529, "Overloaded")] * 4, "Overloaded"),
    Trouble("a reset in mid-stream", [Cut(CHEAP[:60])], ""),
    Trouble("an error in mid-stream", [Cut(CHEAP[:60], error="Overloaded in the middle")], "Overloaded in the middle"),
    Trouble("silence", [Stall(600)]),
    Trouble("silence in mid-stream", [Stall(600, text=CHEAP)], ""),
    Trouble("a page of HTML", [Garbage()], ""),
    Trouble("malformed JSON", [Garbage('{"id": "chatcmpl', "application/json")], ""),
    Trouble("a stream of malformed JSON", [Garbage(BAD_JSON, "text/event-stream")], ""),
    Trouble("JSON of something else", [Garbage("[1, 2]", "application/json")], ""),
    Trouble("an empty stream", [Garbage("", "text/event-stream")], ""),
]


@pytest.mark.usefixtures("late")
def test_trouble_passes_and_costs_no_experiment(asking: Asking) -> None:
    """One run; each trouble is followed by the reply that it kept back."""
    for trouble in TROUBLES:
        asking.server.say(*trouble.turns, Say(CHEAP))
    done = asking(1 + len(TROUBLES))
    assert (done.code, done.err) == (0, ""), done.out + done.err
    assert "Traceback" not in done.out
    calls = asking.calls()
    for number, (trouble, experiment) in enumerate(zip(TROUBLES, asking.experiments(), strict=True), 2):
        errors = [call.error for call in calls if call.number == number][:-1]
        assert (experiment.number, experiment.status, experiment.replies) == (number, "crashed", 1), trouble.name
        assert [call.error for call in calls if call.number == number][-1] is None, trouble.name
        assert all(error and "\n" not in error for error in errors), trouble.name
        if trouble.noted is not None:
            assert any(trouble.noted in str(error) for error in errors), (trouble.name, errors)
        assert [call["reply"] for call in asking.recorded(number)][-1] == CHEAP
    waits = re.findall(r"waiting until \d\d:\d\d:\d\d: \S.*", done.out)
    assert len(waits) == sum(call.error is not None for call in calls)
    assert asking.server.unsaid == 0


@pytest.mark.usefixtures("late")
def test_retry_after_is_obeyed_however_often(asking: Asking) -> None:
    """More often than an SDK tries by itself, and longer than the run's own longest wait."""
    seconds = 2 * WAIT
    asking.server.say(*[Fail(429, "Slow down", {"Retry-After": f"{seconds:.0f}"})] * 4, Say(CHEAP))
    done = asking(2)
    assert (done.code, done.err) == (0, ""), done.out + done.err
    times = [request.time for request in asking.server.asked]
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert len(gaps) == 4 and all(gap >= seconds for gap in gaps), gaps
    assert "Slow down" in done.out


@ONE
@pytest.mark.usefixtures("late")
def test_a_long_reply_that_comes_slowly_is_not_given_up(asking: Asking) -> None:
    """In all it takes far longer than the silence that is borne."""
    asking.server.say(Say(CHEAP, thinking="Hm, let me see.", pace=SILENCE / 4))
    assert asking(2).code == 0
    assert [(call.error, call.output_tokens) for call in asking.calls()] == [(None, 100)]


# ---------------------------------------------------------------------------------------------- the end


def says(done, code: int, *patterns: str) -> None:
    """One line on standard error, that tells all of this, and no traceback."""
    assert done.code == code, done.out + done.err
    assert "Traceback" not in done.err + done.out
    assert done.err.endswith("\n") and done.err.count("\n") == 1, done.err
    for pattern in patterns:
        assert re.search(pattern, done.err), done.err


def variable(asking: Asking) -> str:
    return "ANTHROPIC_API_KEY" if asking.spec == CLAUDE else "OPENAI_API_KEY"


@ONE
@pytest.mark.usefixtures("late")
def test_a_wrong_key_ends_a_run_before_it_begins(asking: Asking) -> None:
    wrong = "sk-this-is-not-the-key"
    done = asking.having(**{variable(asking): wrong})(3)
    says(done, 1, "key", variable(asking))
    assert wrong not in done.err
    assert not asking.server.asked and not asking.experiments()


@ONE
@pytest.mark.usefixtures("late")
def test_without_a_key_it_says_which_variable_to_set(asking: Asking) -> None:
    """Of the provider's own server before any call; a server of the user's may need none, and is asked."""
    url = variable(asking).replace("API_KEY", "BASE_URL")
    says(asking.having(**{variable(asking): "", url: ""})(3), 1, variable(asking))
    assert not asking.server.requests
    says(asking.having(**{variable(asking): ""})(3), 1, variable(asking))
    assert not asking.server.asked and not asking.experiments()


@ONE
@pytest.mark.usefixtures("late")
def test_a_model_that_the_server_does_not_know(asking: Asking) -> None:
    provider = asking.spec.partition(":")[0]
    done = Asking(asking.lab, asking.server, f"{provider}:no-such-model-9")(3)
    says(done, 1, "no-such-model-9")
    assert not asking.server.asked and not asking.experiments()


@pytest.mark.usefixtures("late")
def test_a_key_that_is_withdrawn_in_the_night_ends_the_run_and_loses_nothing(asking: Asking) -> None:
    """What was begun is asked for again as soon as the key is good."""

    def withdrawn(request: Request) -> Turn:
        return Fail(401, f"API key {asking.server.key} is disabled", code="invalid_api_key")

    asking.server.say(Say(CHEAP))
    asking.server.default = withdrawn
    says(asking(4), 1, "key")
    assert [(e.number, e.stage) for e in asking.experiments()] == [(2, "done"), (3, "proposing")]
    assert_no_key(asking)

    asking.server.say(Say(CHEAP), Say(CHEAP))
    assert asking(4).code == 0
    assert [(e.number, e.status) for e in asking.experiments()] == [(n, "crashed") for n in (2, 3, 4)]


@ONE
@pytest.mark.usefixtures("late")
def test_a_request_that_can_never_succeed_ends_the_run(asking: Asking) -> None:
    asking.server.say(Fail(400, "prompt is too long: 999999 tokens"))
    says(asking(2), 1, "prompt is too long")
    assert len(asking.server.asked) == 1


@ONE
@pytest.mark.usefixtures("late")
def test_a_server_that_echoes_the_key_does_not_get_it_into_the_ledger(asking: Asking) -> None:
    asking.server.say(*[Fail(500, f"no upstream for {asking.server.key}")] * 4, Say(CHEAP))
    done = asking(2)
    assert done.code == 0, done.err
    assert asking.server.key not in done.out
    assert_no_key(asking)
