"""The live view as a person sees it, at the widths of real terminals and whatever models wrote."""

import io
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from autoresearch.ledger import Ledger
from autoresearch.program import parse
from autoresearch.records import Exchange, Experiment, Measurement, Metric, Point, Usage, Waiting
from autoresearch.report.live import Facts, View, doing, gather, lines
from autoresearch.report.state import LiveState, StateFile
from autoresearch.schema import Calls, Run
from tests.report.test_tables import HOSTILE

NOW = 1_800_000_000.0
PROGRAM = "---\nbudget: 10s\n---\nprose\n"
RUN = Run("tiny", 0.0, "tiny", "", PROGRAM, "openai:some-model", "cpu", "stdlib", "", Metric(), "", "base")


def curve(end: float, upto: float = 1.0) -> tuple[Point, ...]:
    return tuple(Point(i, i / 10, i / 100, end + 3 * (1 - i / 100)) for i in range(1, int(100 * upto) + 1))


def done(number: int, status: str, value: float | None, **fields) -> Experiment:
    measured = (Measurement(1, "scored", value, curve=curve(2.0)),) if value else ()
    given = {"title": f"idea {number}", "reason": f"for reason {number}", "measurements": measured} | fields
    return Experiment(number, "tiny", "done", status=status, value=value, **given)


PAST = (
    done(1, "kept", 3.0, title="baseline"),
    done(2, "discarded", 3.2),
    done(3, "kept", 2.75),
    done(4, "crashed", None),
)
OPEN = Experiment(
    5,
    "tiny",
    "running",
    title="Wider embeddings",
    hypothesis="Rare bytes move sooner when their rows do.",
    expect=-0.05,
)
FACTS = Facts(RUN, (*PAST, OPEN), parse("tiny", PROGRAM).settings.budget, Usage(usd=0.5), Calls(7, 2, 0))
TRAINING = LiveState(
    5, "train", NOW - 6, NOW, NOW - 3600, curve(1.9, 0.6), 12_345.6, 612_000_000, None, NOW + 4 * 3600, 5.0
)  # fmt: skip


def shown(facts: Facts, state: LiveState | None, width: int, height: int, verdicts: bool = False) -> list[str]:
    return [line.plain.rstrip() for line in lines(facts, state, width, height, NOW, verdicts)]


@pytest.mark.parametrize(("width", "height"), [(60, 20), (80, 18), (80, 24), (120, 40), (200, 50)])
def test_the_view_says_what_there_is_to_know(width: int, height: int) -> None:
    page = shown(FACTS, TRAINING, width, height)
    text = "\n".join(page)
    assert len(page) <= height and max(map(cell_len, page)) <= width
    for part in (
        "run tiny · 4 done, 2 kept · val_bpb 2.7500 (#3)", "#5 Wider embeddings", "training 6.0s of 10.0s, step 60",
        "Rare bytes move sooner", "Expects -0.05.", "training loss, nats per token", "⠤⠤ #5 3.1", "tip #3 3.2",
        "12,346 tokens/s", "612.0 MB", "$0.50 of $5.00 (7 calls, 2 failed)", "4h 00m left of 5h 00m",
    ):  # fmt: skip
        assert part in text, part
    if width >= 80:
        assert "-0.2500 since #1" in page[0]
        assert "val_bpb, lower is better" in text and "● kept  ─ tip  ∘ not kept  × no value" in text
        assert text.count("●") == 3 and text.count("∘") == 2 and text.count("×") == 2  # the legend's among them


def test_what_is_waited_for_is_said_with_the_reason_and_the_time() -> None:
    state = replace(
        TRAINING, phase="proposing", curve=(), waiting=Waiting("the server says 529: overloaded", NOW + 300)
    )
    text = "\n".join(shown(replace(FACTS, experiments=(*PAST, Experiment(5, "tiny", "proposing"))), state, 80, 24))
    assert "asking openai:some-model" in text and "waiting, 5m 00s more" in text
    assert f"until {time.strftime('%H:%M:%S', time.localtime(NOW + 300))}: the server says 529: overloaded" in text


def test_a_small_screen_keeps_what_matters_most() -> None:
    for height in range(1, 12):
        page = shown(FACTS, TRAINING, 80, height)
        assert len(page) <= height and page[0].startswith("── run tiny")
        if height >= 4:
            assert page[1].startswith("#5 Wider") and "4h 00m left" in page[-1] and "tokens/s" in page[-2]
    both = "\n".join(shown(FACTS, TRAINING, 60, 40))
    assert "training loss" in both and "lower is better" in both  # one below the other


def test_the_last_verdicts_stand_below_the_latest_first() -> None:
    page = shown(FACTS, TRAINING, 80, 40, verdicts=True)
    rows = [line.split() for line in page if line.startswith("#")][1:]
    assert [row[:3] for row in rows] == [
        ["#4", "crashed", "–"],
        ["#3", "kept", "2.7500"],
        ["#2", "discarded", "3.2000"],
        ["#1", "kept", "3.0000"],
    ]


def test_what_was_rolled_back_is_not_the_tip_and_what_was_checked_says_so() -> None:
    gone = replace(done(4, "kept", 2.0), standing="rolled_back")
    sure = replace(done(3, "kept", 2.75), standing="confirmed")
    check = Measurement(2, "scored", 2.8, "check")
    sure = replace(sure, measurements=(*sure.measurements, check))
    facts = replace(FACTS, experiments=(*PAST[:2], sure, gone, OPEN))
    page = shown(facts, TRAINING, 120, 40, verdicts=True)
    assert "2.8000 (#3, confirmed)" in page[0] and "-0.2000 since #1" in page[0] and "4 done, 2 kept" in page[0]
    rows = [line for line in page if line.startswith("#")]
    assert any(row.startswith("#4") and "rolled back" in row for row in rows)
    assert any(row.startswith("#3") and "confirmed" in row for row in rows)


def test_the_metric_says_which_way_is_up() -> None:
    run = replace(RUN, metric=Metric("accuracy", "maximize"))
    past = (
        done(1, "kept", 0.5),
        *(done(n, "discarded", 0.5 - n / 1000) for n in range(2, 9)),
        done(9, "kept", 0.6),
        done(10, "discarded", 0.01),
    )
    page = shown(replace(FACTS, run=run, experiments=past), None, 60, 20)
    text = "\n".join(page)
    assert "accuracy, higher is better" in text and page[0].split(" · ")[2].startswith("accuracy 0.6000 (#9)")
    assert "↓" in text and "↑" not in text  # the one far off
    top = next(line for line in page if line.endswith(("●", "─")) and "┤" in line)
    assert page.index(top) < next(i for i, line in enumerate(page) if "↓" in line)


def test_before_there_is_anything_to_show() -> None:
    for experiments in ((), (Experiment(1, "tiny", "proposing"),)):
        text = "\n".join(shown(Facts(RUN, experiments, 10.0, Usage(), Calls()), None, 80, 24))
        assert "run tiny · 0 done, 0 kept" in text and "$" not in text
    assert "the baseline" in text
    starting = LiveState(0, "starting", NOW - 3, NOW, NOW - 3)  # a process that takes a run up
    assert shown(FACTS, starting, 80, 24)[1].split() == ["starting", "3.0s"]


def test_a_replay_stands_against_what_was_recorded() -> None:
    text = "\n".join(shown(FACTS, replace(TRAINING, number=2), 80, 24))
    assert "#2 idea 2" in text and "recorded 3.2" in text and "tip #" not in text


def test_the_tip_is_compared_at_the_same_clock() -> None:
    tip = done(3, "kept", 2.75, measurements=(Measurement(1, "scored", 2.75, curve=curve(2.0, 0.9)),))
    facts = replace(FACTS, experiments=(PAST[0], tip, OPEN))
    for upto, said in ((0.5, "#5 3.4750  ·· tip #3 3.5750 by then"), (1.0, "#5 1.9750  ·· tip #3 2.3750 by then")):
        state = replace(TRAINING, curve=curve(1.9, upto))
        assert said in "\n".join(shown(facts, state, 120, 40))  # each the mean over the twentieth before


def test_it_reads_without_colour() -> None:
    out = io.StringIO()
    console = Console(file=out, width=80, height=24, force_terminal=True, no_color=True, highlight=False)
    console.print(View(FACTS, TRAINING))
    assert "\x1b[3" not in out.getvalue() and "⠤⠤" in out.getvalue() and "··" in out.getvalue()


@pytest.mark.parametrize("text", [*HOSTILE, "ligatures: e\u0301\u200d\u202etxt\u2028new line", "\x1b[2J" * 5000])
def test_what_models_write_is_only_text(text: str) -> None:
    hostile = replace(OPEN, title=text, hypothesis=text, family=text)
    past = (*PAST, done(6, "discarded", 3.1, title=text, reason=text), replace(hostile, number=7))
    facts = replace(FACTS, run=replace(RUN, agent=text, metric=Metric(text[:30])), experiments=past)
    state = replace(TRAINING, number=7, phase=text, waiting=Waiting(text, NOW))
    for width in (60, 80, 200):
        for now in (state, replace(state, waiting=None)):
            page = shown(facts, now, width, 40, verdicts=True)
            assert len(page) <= 40 and max(map(cell_len, page)) <= width
            assert not [c for line in page for c in line if not c.isprintable() and c != "\u200d"]
            if text.startswith("["):
                assert "[bold red]loud[/bold red] [/nope]" in "\n".join(page)


numbers = st.floats(allow_nan=True, allow_infinity=True) | st.none()


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.sampled_from(["kept", "discarded", "failed"]), numbers), max_size=40), st.data())
def test_any_record_can_be_drawn(past: list[tuple[str, float | None]], data: st.DataObject) -> None:
    goal = data.draw(st.sampled_from(["minimize", "maximize"]))
    facts = Facts(
        replace(RUN, metric=Metric("m", goal)),
        tuple(done(i, status, v) for i, (status, v) in enumerate(past, 1)), 10.0, Usage(), Calls(),
    )  # fmt: skip
    finite = st.floats(allow_nan=False, allow_infinity=False)
    point = st.builds(Point, st.integers(0), finite, finite, finite)
    state = data.draw(
        st.none() | st.builds(
            LiveState, st.integers(-5, 50), st.text(max_size=20), finite, finite, finite, st.lists(point, max_size=9),
            finite | st.none(), st.integers(0) | st.none(),
            st.none() | st.builds(Waiting, st.text(max_size=20), finite), finite | st.none(), finite | st.none(),
        )
    )  # fmt: skip
    width, height = data.draw(st.integers(20, 220)), data.draw(st.integers(1, 60))
    page = shown(facts, state, width, height, verdicts=True)
    assert len(page) <= height and max(map(cell_len, page)) <= width


def test_it_is_gathered_from_the_ledger(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "state")
    assert gather(ledger, "tiny") is None
    ledger.start(RUN)
    experiment = ledger.open_experiment("tiny")
    for usage, error in ((Usage(usd=0.5), None), (Usage(usd=0.25), "cut"), (Usage(), "529"), (Usage(), None)):
        ledger.charge(experiment, Exchange("m", (), "", usage, 1.0, error))
    facts = gather(ledger, "tiny")
    assert facts and (facts.run, facts.experiments, facts.budget) == (RUN, (experiment,), 10.0)
    assert (facts.usage.usd, facts.calls) == (0.75, Calls(4, 2, 1))
    assert "$0.75 and 1 of unknown price (4 calls, 2 failed)" in "\n".join(shown(facts, None, 80, 24))


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({}, "training 6.0s of 10.0s, step 60"),
        ({"phase": "waiting", "note": "a\x1b\nb has 20 GiB"}, "waiting for the device 6.0s: a\ufffd b has 20 GiB"),
        ({"waiting": Waiting("says 529", NOW + 300)}, "waiting, 5m 00s more: says 529"),
    ],
)
def test_a_line_says_what_is_done_now(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], line: str
) -> None:
    monkeypatch.setattr(time, "time", lambda: NOW)
    run = replace(RUN, tag="t")
    assert doing(ledger, run) is None
    StateFile(ledger, "t").write(replace(TRAINING, **change))
    found = doing(ledger, run)
    assert found and found.plain == line
