"""The ledger: stages in order, numbers that are None and not 0, and a file that outlives its processes."""

import json
import sqlite3
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from autoresearch import schema
from autoresearch.errors import LedgerError
from autoresearch.ledger import Ledger
from autoresearch.records import Exchange, Experiment, Measurement, Message, Metric, Patch, Point, Proposal, Usage
from autoresearch.schema import Run

RUN = Run("t", 1.0, "tiny", "d", "---\n---\n", "search", "cpu", "stdlib", "f", Metric("accuracy", "maximize"), "s", "b")


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    made = Ledger(tmp_path / "state")
    made.start(RUN)
    return made


def measured(ledger: Ledger, value: float | None = 2.0, number_of: str = "t", seed: int = 1) -> Experiment:
    """One more experiment, taken through all stages as the loop does."""
    e = ledger.propose(ledger.open_experiment(number_of), Proposal("idea", patch=Patch({"a.py": "x = 1\n"})))
    e = ledger.advance(e, "committed", commit=f"c{e.number}", parent="b", lines=1, knobs={"X": 1, "Y": 0.5, "Z": "s"})
    id = ledger.begin(e, "first", seed)
    e = ledger.advance(e, "running")
    e = ledger.measured(e, id, Measurement(seed, "scored" if value else "crashed", value, device_name="cpu"))
    e = ledger.advance(e, "decided", status="kept" if value else "crashed", reason="why")
    return ledger.advance(e, "done", ended=5.0)


def test_a_run_is_read_back_as_it_was_written(ledger: Ledger) -> None:
    assert ledger.run("t") == RUN and ledger.runs() == [RUN] and ledger.run("u") is None
    assert RUN.branch == "autoresearch/t"


def test_an_experiment_is_read_back_as_the_stages_left_it(ledger: Ledger) -> None:
    done = measured(ledger)
    assert ledger.experiment("t", 1) == done and ledger.experiments("t") == [done]
    assert done.knobs == {"X": 1, "Y": 0.5, "Z": "s"}
    assert ledger.patch(done) is None  # it is in git
    assert ledger.find_commit("c1") == done and ledger.find_commit("c1", "t") == done
    assert ledger.find_commit("c1", "u") is None and ledger.find_commit("c2") is None


def test_numbers_count_up_and_an_open_experiment_is_taken_up(ledger: Ledger) -> None:
    measured(ledger)
    open_one = ledger.open_experiment("t")
    assert (open_one.number, open_one.stage, open_one.status) == (2, "proposing", "running")
    assert ledger.open_experiment("t") == open_one
    assert [e.number for e in ledger.experiments("t")] == [1, 2]


def test_a_stage_is_left_only_once(ledger: Ledger) -> None:
    first = ledger.open_experiment("t")
    proposed = ledger.propose(first, Proposal("idea", failure="no"))
    for stale in (lambda: ledger.propose(first, Proposal("other")), lambda: ledger.advance(first, "committed")):
        with pytest.raises(LedgerError, match="moved on by another process"):
            stale()
    assert ledger.experiment("t", 1) == proposed and ledger.patch(proposed) is None


def test_a_stale_measurement_is_not_half_recorded(ledger: Ledger) -> None:
    done = measured(ledger)
    with pytest.raises(LedgerError, match="moved on"):
        ledger.measured(Experiment(1, "t", "running"), ledger.begin(done, "first", 9), Measurement(9, "scored", 9.0))
    assert ledger.experiment("t", 1) == done and len(ledger.recorded("t")) == 1


def test_a_missing_number_is_null(ledger: Ledger) -> None:
    done = measured(ledger, None)
    assert done.value is None and done.measurements[0].value is None
    row = sqlite3.connect(ledger.folder / "ledger.db").execute("SELECT value FROM experiments").fetchone()
    assert row == (None,)


def test_a_measurement_is_read_back_whole(ledger: Ledger) -> None:
    e = ledger.open_experiment("t")
    full = Measurement(
        7, "scored", 1.5, seconds={"train": 1.0}, steps=3, tokens=9, mfu=0.4, loss=2.5, claim=1.6, bytes=10,
        curve=(Point(1, 0.5, 0.1, 5.0),), corpus="f", harness="h",
    )  # fmt: skip
    ledger.finish(ledger.begin(e, "replay", 7, {"DEPTH": 3}), full)
    (record,) = ledger.recorded("t", 1)
    assert record.measurement == replace(full, purpose="replay") and record.changes == {"DEPTH": 3}


def test_a_measurement_from_before_a_field_was_recorded_has_none(ledger: Ledger) -> None:
    done = measured(ledger)
    with sqlite3.connect(ledger.folder / "ledger.db") as db:
        db.execute("UPDATE measurements SET detail = json_remove(detail, '$.train_tokens', '$.active_parameters')")
    assert ledger.experiment("t", 1) == done
    assert done.measurements[0].passes is None and done.measurements[0].active_parameters is None


def test_a_measurement_cut_short_is_taken_up_and_not_counted(ledger: Ledger) -> None:
    e = ledger.open_experiment("t")
    id = ledger.begin(e, "first", 1)
    assert ledger.begin(e, "first", 1) == id
    assert ledger.recorded("t") == []
    assert ledger.begin(e, "first", 2) != id and ledger.begin(e, "replay", 1) != id


def test_two_who_measure_again_at_once_have_seeds_of_their_own(ledger: Ledger) -> None:
    done = measured(ledger, 2.0)
    other = Ledger(ledger.folder)
    noise = ledger.begin_afresh(done, "noise", lambda n: 100 + n)
    replay = other.begin_afresh(done, "replay", lambda n: 100 + n)
    assert (noise[1], replay[1]) == (102, 103)
    assert ledger.begin_afresh(done, "noise", lambda n: 100 + n) == noise  # which was cut short
    ledger.finish(noise[0], Measurement(noise[1], "scored", 2.1))
    assert ledger.begin_afresh(done, "noise", lambda n: 100 + n)[1] == 104
    assert other.begin_afresh(done, "replay", lambda n: 100 + n, {"DEPTH": 3})[1] == 105


def test_what_another_process_has_measured_since_is_seen(ledger: Ledger) -> None:
    done = measured(ledger, 2.0)
    other = Ledger(ledger.folder)
    assert ledger.experiments("t") == other.experiments("t")
    id, seed = other.begin_afresh(done, "replay", lambda n: n)
    other.finish(id, Measurement(seed, "scored", 2.1))
    assert [r.measurement.value for r in ledger.recorded("t")] == [2.0, 2.1]
    assert ledger.experiments("t") == other.experiments("t")


def test_the_tip_is_the_last_kept(ledger: Ledger) -> None:
    assert ledger.tip("t") is None
    for value in (2.0, 3.0, None):
        measured(ledger, value)
    tip = ledger.tip("t")
    assert tip and tip.number == 2


def test_what_was_measured_again_is_known_by_its_purpose(ledger: Ledger) -> None:
    done = measured(ledger, 2.0)
    measured(ledger, 3.0)
    for value, device, purpose in ((2.1, "cpu", "noise"), (9.0, "gpu", "replay"), (9.0, "cpu", "transfer")):
        id = ledger.begin(done, purpose, 5, {"DEPTH": 1} if purpose == "transfer" else None)
        ledger.finish(id, Measurement(5, "scored", value, device_name=device))
    (first, _) = ledger.experiments("t")
    assert [m.value for m in first.measurements] == [2.0, 2.1, 9.0]  # a transfer is a measurement of something else
    assert [m.purpose for m in first.measurements] == ["first", "noise", "replay"]
    assert first.values("first", "noise") == (2.0, 2.1)
    assert first.values("replay") == ()  # on another device: not to be compared


def test_a_standing_is_given_to_all_or_none(ledger: Ledger) -> None:
    for value in (2.0, 1.0, 0.5):
        measured(ledger, value)
    ledger.stand("t", "rolled_back", {2: "rolled back with #3", 3: "rolled back"})
    assert [(e.standing, e.reason) for e in ledger.experiments("t")][1:] == [
        ("rolled_back", "rolled back with #3"), ("rolled_back", "rolled back"),
    ]  # fmt: skip
    tip = ledger.tip("t")
    assert tip and tip.number == 1


def test_calls_are_charged_and_kept_whole(ledger: Ledger) -> None:
    e = ledger.open_experiment("t")
    assert ledger.usage("t") == Usage()
    for usd in (None, 0.25, 0.5):
        usage = Usage(input_tokens=10, output_tokens=2, usd=usd)
        ledger.charge(e, Exchange("m", (Message("user", "grüße\n\x1b"),), "reply", usage, 1.5))
    assert ledger.usage("t") == Usage(input_tokens=30, output_tokens=6, usd=0.75)
    saved = json.loads((ledger.folder_of("t", 1) / "call-1.json").read_text())
    assert saved["messages"][0]["content"] == "grüße\n\x1b" and saved["reply"] == "reply"


def test_a_call_whose_words_find_no_room_is_charged_all_the_same(ledger: Ledger) -> None:
    """And the run is stopped: the next one would find no room either."""
    e = ledger.open_experiment("t")
    (ledger.folder / "runs").write_text("a file where a folder should be")
    with pytest.raises(LedgerError, match="cannot write the ledger"):
        ledger.charge(e, Exchange("m", (Message("user", "p"),), "reply", Usage(usd=0.25), 1.5))
    assert ledger.usage("t").usd == 0.25


def test_it_is_there_when_opened_again_and_the_last_worked_on_comes_first(ledger: Ledger, tmp_path: Path) -> None:
    done = measured(ledger)
    ledger.start(Run(**{**{n: getattr(RUN, n) for n in RUN.__slots__}, "tag": "u", "created": 2.0}))
    ledger.leave(ledger.enter("t", "search"), "enough")
    ledger.close()
    again = Ledger(tmp_path / "state", create=False)
    assert [run.tag for run in again.runs()] == ["t", "u"]
    assert again.experiments("t") == [done]
    (session,) = again.sessions("t")
    assert session.why == "enough" and session.ended and session.ended >= session.started


def test_a_run_begun_again_forgets_what_never_scored(ledger: Ledger) -> None:
    measured(ledger, None)
    ledger.restart(Run(**{**{n: getattr(RUN, n) for n in RUN.__slots__}, "base": "b2", "program_text": "new"}))
    run, again = ledger.run("t"), ledger.experiment("t", 1)
    assert run and (run.base, run.program_text) == ("b2", "new")
    assert again and (again.stage, again.status, again.value, again.commit) == ("proposing", "running", None, None)


def test_reading_goes_on_while_another_writes(ledger: Ledger, tmp_path: Path) -> None:
    reader = Ledger(tmp_path / "state")
    writer = sqlite3.connect(ledger.folder / "ledger.db", isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("UPDATE runs SET agent = 'other'")
    assert reader.runs() == [RUN]
    writer.execute("ROLLBACK")


def test_two_processes_open_a_new_one_at_once(tmp_path: Path) -> None:
    failures: list[Exception] = []

    def make() -> None:
        try:
            Ledger(tmp_path / "state").close()
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert Ledger(tmp_path / "state").runs() == []


def test_migrations_lead_to_the_newest_schema_step_by_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sorted(schema.MIGRATIONS) == list(range(1, schema.SCHEMA + 1))
    Ledger(tmp_path / "state").close()
    newer = schema.SCHEMA + 1
    monkeypatch.setitem(schema.MIGRATIONS, newer, "ALTER TABLE runs ADD COLUMN later TEXT;")
    monkeypatch.setattr("autoresearch.ledger.SCHEMA", newer)
    Ledger(tmp_path / "state").close()
    db = sqlite3.connect(tmp_path / "state" / "ledger.db")
    assert db.execute("PRAGMA user_version").fetchone() == (newer,)
    assert "later" in [row[1] for row in db.execute("PRAGMA table_info(runs)")]
    monkeypatch.undo()
    with pytest.raises(LedgerError, match=rf"schema {newer}, and this autoresearch knows up to {schema.SCHEMA}"):
        Ledger(tmp_path / "state")


def test_a_ledger_of_the_first_schema_is_carried_over_with_its_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autoresearch.ledger.SCHEMA", 1)
    Ledger(tmp_path / "state").close()
    with sqlite3.connect(tmp_path / "state" / "ledger.db") as db:
        db.execute("INSERT INTO runs VALUES ('t',0,'p','d','x','search','cpu','c','f','val_bpb','minimize','s','b')")
        db.execute(
            "INSERT INTO experiments (tag, number, stage, status, created) VALUES ('t',1,'proposing','running',0)"
        )
        db.execute("INSERT INTO calls (tag, number, at, model, seconds, output_tokens) VALUES ('t',1,0,'m',1,7)")
    monkeypatch.undo()
    ledger = Ledger(tmp_path / "state")
    ledger.charge(ledger.open_experiment("t"), Exchange("m", (), "", Usage(written_tokens=5), 1.0, "529"))
    assert (ledger.usage("t").output_tokens, ledger.usage("t").written_tokens) == (7, 5)
    rows = sqlite3.connect(tmp_path / "state" / "ledger.db").execute("SELECT error FROM calls ORDER BY id")
    assert [row[0] for row in rows] == [None, "529"]


def test_without_one_nothing_is_made_to_read_it(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="no run has been started"):
        Ledger(tmp_path / "state", create=False)
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("content", [b"", b"not a database at all" * 100])
def test_what_is_no_ledger_is_said_and_left_alone(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "ledger.db").write_bytes(content)
    if content:
        with pytest.raises(LedgerError, match="cannot be read"):
            Ledger(tmp_path)
        assert (tmp_path / "ledger.db").read_bytes() == content
    else:
        assert Ledger(tmp_path).runs() == []


def test_a_measurement_edited_by_hand_is_said(ledger: Ledger) -> None:
    measured(ledger)
    sqlite3.connect(ledger.folder / "ledger.db", isolation_level=None).execute("UPDATE measurements SET detail = '{}'")
    with pytest.raises(LedgerError, match="not readable"):
        ledger.experiments("t")
