"""What a person reads: within 80 columns, and whatever a title holds is only text."""

import io

import pytest
from rich.console import Console, RenderableType

from autoresearch.records import (
    Agreement,
    Audit,
    Experiment,
    Gain,
    Measurement,
    Metric,
    Point,
    Replay,
    Spread,
)
from autoresearch.report import tables
from autoresearch.report.status import Baseline, Best, EarlyStop, Last, Report
from autoresearch.schema import Calls, Recorded

HOSTILE = [
    "[bold red]loud[/bold red] [/nope] [link=http://x]y[/link]",
    "\x1b[31mred\x1b[0m \x1b]0;title\x07 \x9b2J bell\x07",
    "x" * 500,
    "two\nlines\tand\ttabs\r\nmore",
    "漢字" * 60,
    "",
]
BITS = Metric()


def drawn(renderable: RenderableType, width: int = 80, terminal: bool = False) -> str:
    out = io.StringIO()
    console = Console(
        file=out, width=width, force_terminal=terminal, highlight=False, color_system="truecolor" if terminal else None
    )
    console.print(renderable)
    return out.getvalue()


def experiment(
    number: int, status: str = "kept", value: float | None = 2.0, title: str = "an idea", **fields
) -> Experiment:
    given = {"commit": f"{number:040x}", "parent": f"{number - 1:040x}", "reason": "why"} | fields
    return Experiment(number, "t", "done", status=status, value=value, title=title, **given)


def wide(text: str) -> int:
    from rich.cells import cell_len

    return max(map(cell_len, text.splitlines()))


@pytest.mark.parametrize("title", HOSTILE)
def test_a_hostile_title_is_only_text(title: str) -> None:
    one = experiment(2, title=title, reason=title, hypothesis=title, family="other")
    record = Recorded(1, 2, None, Measurement(1, "crashed", phase="train", reason=title, traceback=title))
    replay = Replay(one, {}, (Measurement(2, "crashed", reason=title),), None, Spread(0.1, 4))
    report = Report(
        1, "t", "autoresearch/t", "running", "tiny", title, title, {"name": "val_bpb", "goal": "minimize"}, 1.0,
        {"total": 1, "kept": 1}, 0, EarlyStop(1, 0, 0), None, None, None, None, {"llm_usd": None, "gpu_usd": None},
        Last(2, "kept", title, 1.0, "provisional"),
    )  # fmt: skip
    for renderable in (
        tables.log_table([experiment(1), one], BITS),
        tables.show(one, [record], f"+{title}\n-{title}", BITS, "/tmp"),
        tables.replay_table(replay, BITS),
        tables.status_panel(report),
        tables.doctor_table([tables.Finding("git", "fails", title, title)]),
    ):
        plain = drawn(renderable)
        assert wide(plain) <= 80
        assert not [c for c in plain if ord(c) < 32 and c != "\n"] and "\x9b" not in plain
        assert "\x07" not in drawn(renderable, terminal=True) and "\x1b]" not in drawn(renderable, terminal=True)
        if title.startswith("["):
            assert "[/nope]" in "".join(plain.split()) or "[/nope]" in plain


def test_the_log_shows_each_gain_against_its_own_parent() -> None:
    experiments = [
        experiment(1, value=3.0, title="baseline", parent="b"),
        experiment(2, value=2.5, parent=f"{1:040x}"),
        experiment(3, "discarded", 2.75, parent=f"{2:040x}"),
        experiment(4, "crashed", None, parent=f"{2:040x}"),
        experiment(5, "failed", None, commit=None, parent=None),
    ]
    lines = [line.split() for line in drawn(tables.log_table(experiments, BITS)).splitlines()]
    assert [line[:4] for line in lines[1:]] == [
        ["1", "3.0000", "–", "kept"],
        ["2", "2.5000", "+0.5000", "kept"],
        ["3", "2.7500", "-0.2500", "discarded"],
        ["4", "–", "–", "crashed"],
        ["5", "–", "–", "failed"],
    ]
    higher = Metric("accuracy", "maximize")
    assert "-0.5000" in drawn(tables.log_table(experiments, higher)) and "accuracy" in drawn(
        tables.log_table(experiments, higher)
    )


def test_tsv_has_a_row_of_five_fields_each_whatever_the_title() -> None:
    experiments = [experiment(n, title=title) for n, title in enumerate(HOSTILE, 1)]
    experiments.append(experiment(9, "crashed", None, measurements=(Measurement(1, "crashed"),)))
    experiments.append(experiment(10, measurements=(Measurement(1, "scored", 2.0, peak_memory=45_060_000_000),)))
    text = tables.tsv(experiments)
    rows = [row.split("\t") for row in text.splitlines()]
    assert text.endswith("\n") and rows[0] == ["commit", "val_bpb", "memory_gb", "status", "description"]
    assert [len(row) for row in rows] == [5] * 9
    assert rows[7][1:4] == ["", "", "crash"]
    assert rows[8] == ["0000000", "2.000000", "45.1", "keep", "an idea"]
    assert "\x1b" not in text and "\x07" not in text


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ([], ""),
        ([1.0], ""),
        ([2.0, 2.0, 2.0], "2.000 ▁▁▁ 2.000"),
        ([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], "0.000 ▁▂▃▄▅▆▇█ 7.000"),
        ([9.0, 1.0], "9.000 █▁ 1.000"),
    ],
)
def test_a_curve_in_a_line(values: list[float], line: str) -> None:
    assert tables.sparkline(values) == line


def test_a_long_curve_is_thinned_and_keeps_its_ends() -> None:
    shown = tables.sparkline([float(n) for n in range(1000)])
    assert shown.startswith("0.000 ▁") and shown.endswith("█ 999.000")
    assert len(shown.split()[1]) == 40


def test_a_curve_that_is_not_finite_is_still_drawn() -> None:
    for odd in (float("nan"), float("inf"), float("-inf")):
        shown = tables.sparkline([2.0, odd, 1.0])
        assert shown.startswith("2.000 █") and shown.endswith("▁ 1.000")


def test_a_measurement_shows_its_proof() -> None:
    m = Measurement(
        7, "scored", 1.25, seconds={"train": 10.0, "total": 12.0}, steps=100, tokens=1000, train_tokens=4000,
        parameters=54_240_000, active_parameters=38_100_000, mfu=0.5,
        peak_memory=10**9, claim=1.24, audit=Audit(64, 1e-4, 2e-4, 0.01), device_name="cpu", torch_version="2",
        curve=(Point(1, 0.1, 0.1, 5.0), Point(2, 0.2, 1.0, 2.0)),
    )  # fmt: skip
    rows = dict(tables.measurement_rows(m, BITS))
    assert rows["val_bpb"] == "1.2500" and "proved at 64 positions" in rows["audit"]
    assert rows["throughput"] == "100 tokens/s, MFU 50.0%" and rows["loss"] == "5.000 █▁ 2.000"
    assert rows["model"] == "54.2 M parameters, 38.1 M active, peak memory 1.0 GB"
    assert rows["trained"] == "100 steps, 1,000 tokens, 0.25 passes over the corpus" and "corpus" not in rows


def test_a_corpus_that_is_repeated_is_warned_of_with_the_remedy() -> None:
    m = Measurement(7, "scored", 1.25, steps=100, tokens=81_000_000, train_tokens=18_000_000, parameters=900)
    line = tables.repetition(m)
    assert line.startswith("warning: training passed 4.5 times over the corpus.") and "\n" not in line
    assert "`autoresearch prepare --tokens 97_000_000`" in line
    rows = dict(tables.measurement_rows(m, BITS))
    assert rows["corpus"] == line and rows["trained"].endswith("4.5 passes over the corpus")
    assert rows["model"].startswith("900 parameters, peak")
    for tokens, there in ((None, 10), (10, None), (10, 0), (10, 10)):
        assert tables.repetition(Measurement(1, "scored", tokens=tokens, train_tokens=there)) == ""


def test_a_replay_sets_the_values_side_by_side() -> None:
    first = Measurement(1, "scored", 2.0, steps=10)
    recorded = experiment(3, "discarded", 2.0, measurements=(first,))
    again = (Measurement(2, "scored", 2.01, steps=10),)
    agreed = drawn(tables.replay_table(Replay(recorded, {}, again, Agreement(0.01, 0.03, True), Spread(0.01, 4)), BITS))
    assert "2.0000" in agreed and "2.0100" in agreed and "they agree" in " ".join(agreed.split())
    differ = Replay(recorded, {}, again, Agreement(0.1, 0.03, False), Spread(0.01, 4))
    assert "they do NOT agree" in " ".join(drawn(tables.replay_table(differ, BITS)).split())
    other = drawn(tables.replay_table(Replay(recorded, {"DEPTH": 3}, again, None, Spread(0.01, 4)), BITS))
    assert "with DEPTH=3" in other and "not compared" in other
    assert tables.replay_as_dict(differ)["agreement"] == {"difference": 0.1, "allowed": 0.03, "agrees": False}


def test_status_says_only_what_is_known() -> None:
    counts = {"total": 3, "kept": 1, "discarded": 2, "crashed": 0}
    full = Report(
        1, "t", "autoresearch/t", "finished", "tiny", "search", "cpu", {"name": "val_bpb", "goal": "minimize"}, 75.0,
        counts, 1, EarlyStop(3, 2, 1), Baseline(2.0, 0.01, 1), Best(2, "a" * 40, 1.5, "provisional"),
        Gain(0.5, 0.1, 2.0, 1.5, (2, 3)), 0.75, {"llm_usd": 0.5, "gpu_usd": None},
        Last(3, "kept", "x", 2.5, "rolled_back"),
    )  # fmt: skip
    shown = drawn(tables.status_panel(full))
    for part in (
        "finished, 1m 15s",
        "2 beyond hope were let finish, 1 of them kept",
        "1 kept",
        "2 discarded",
        "2.0000",
        "1.5000",
        "provisional",
        "75%",
        "$0.50",
        "1 rolled back",
        "#3 rolled back  x",
        "+0.5000 ± 0.1000",
    ):
        assert part in shown, part
    assert "crashed" not in shown
    assert "$0.50 (7 calls, 2 failed)" in drawn(tables.status_panel(full, None, Calls(7, 2, 0)))
    assert "corpus" not in shown
    repeated = Measurement(1, "scored", tokens=450, train_tokens=100)
    assert "passed 4.5 times over the corpus" in drawn(tables.status_panel(full, tip=repeated))


@pytest.mark.parametrize(
    ("usd", "calls", "most", "said"),
    [
        (None, Calls(), None, ""),
        (None, Calls(), 5.0, "$0.00 of $5.00"),
        (1.234, Calls(1, 0, 0), None, "$1.23 (1 call)"),
        (1.234, Calls(9, 2, 0), 5.0, "$1.23 of $5.00 (9 calls, 2 failed)"),
        (None, Calls(9, 2, 7), None, "price unknown (9 calls, 2 failed)"),
        (None, Calls(3, 3, 0), None, "(3 calls, 3 failed)"),
        (0.5, Calls(9, 0, 4), None, "$0.50 and 4 of unknown price (9 calls)"),
    ],
)
def test_what_models_cost(usd: float | None, calls: Calls, most: float | None, said: str) -> None:
    assert tables.spending(usd, calls, most) == said
