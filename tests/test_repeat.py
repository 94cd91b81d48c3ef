"""A run that repeats what it measured, for real: the baseline as it begins, a keep at once, and all at its end."""

import pytest

from autoresearch.decide import spread
from tests.conftest import DISCARDED, KEPT, Lab, recording, reply, setting

RUN = ("run", "--program", "programs/sure.md", "--experiments", 3, "--strict")


@pytest.fixture
def sure(lab: Lab) -> Lab:
    """A lab with a program that repeats, and an agent that proposes a gain and a loss."""
    lab.write_program("seeds: 1", "seeds: 2", "sure")
    recording(lab.root / ".git" / "replies.jsonl", KEPT, DISCARDED)
    return lab


def test_a_run_tells_its_gain_on_a_split_that_decided_nothing(sure: Lab) -> None:
    done = sure(*RUN, "--agent", f"replay:{sure.root}/.git/replies.jsonl")
    assert done.code == 0, done.err
    baseline, kept, other = sure("log", "--json").json
    assert (kept["status"], kept["standing"], other["status"]) == ("kept", "confirmed", "discarded")
    assert "(" in kept["reason"] and "confirmed: measured again, against #1, better by" in kept["reason"]

    again = {m["purpose"]: m for m in baseline["measurements"]}
    assert [m["purpose"] for m in baseline["measurements"]] == ["first", "noise", "final"]
    assert [m["purpose"] for m in kept["measurements"]] == ["first", "check", "final", "final"]
    for measurement in kept["measurements"]:
        of_the_end = measurement["purpose"] == "final"
        assert (measurement["targets"] == again["final"]["targets"]) == of_the_end
        assert (measurement["targets"] == again["first"]["targets"]) != of_the_end
    assert again["final"]["seed"] == again["noise"]["seed"] != again["first"]["seed"]
    assert again["final"]["start_hash"] == again["noise"]["start_hash"]  # the same weights, trained once
    assert "train" not in again["final"]["seconds"] and "train" in again["noise"]["seconds"]

    known = spread(0.01, [[again["first"]["value"], again["noise"]["value"]]]).sigma
    told = (sure.root / ".git" / "autoresearch" / "runs" / "sure" / "2" / "call-1.json").read_text()
    assert f"Two runs of one file differ by about {known:.2g}" in told

    found = sure("status", "--json").json["gain"]
    finals = [m["value"] for m in kept["measurements"] if m["purpose"] == "final"]
    assert found["value"] == pytest.approx(again["final"]["value"] - sum(finals) / 2)
    assert found["n"] == [1, 2] and found["error"] > 0
    assert f"gain {found['value']:+.4f}" in done.out and "on the test split" in sure("status").out

    repeated = sure(*RUN)  # there is nothing left to do
    assert repeated.code == 0 and "on the test split:" not in repeated.out
    assert len(sure("log", "--json").json[1]["measurements"]) == 4


def test_weights_that_are_gone_are_told_of_and_stop_nothing(sure: Lab) -> None:
    answers = f"replay:{sure.root}/.git/replies.jsonl"
    assert sure("run", "--program", "programs/sure.md", "--experiments", 1, "--agent", answers).code == 0
    for weights in (sure.root / ".git").glob("autoresearch/runs/sure/1/seed-*/weights.safetensors"):
        weights.unlink()
    done = sure(*RUN, "--agent", answers)
    assert done.code == 0, done.err
    lost = sure("log", "--json").json[0]["measurements"][-1]
    assert (lost["purpose"], lost["outcome"]) == ("final", "crashed") and "are gone" in lost["reason"]
    assert sure("status", "--json").json["gain"] is None


def test_the_other_weights_are_scored_where_some_are_gone(lab: Lab) -> None:
    program = lab.write_program("seeds: 1", "seeds: 3", "sure")
    answers = recording(lab.root / ".git" / "replies.jsonl", KEPT)
    assert lab("run", "--program", program, "--experiments", 1, "--agent", answers).code == 0
    first, second = (m["seed"] for m in lab("show", 1, "--json").json["measurements"][1:])
    (lab.root / ".git" / "autoresearch" / "runs" / "sure" / "1" / f"seed-{first}" / "weights.safetensors").unlink()
    done = lab("run", "--program", program, "--experiments", 2, "--agent", answers)
    assert done.code == 0, done.err
    finals = [m for m in lab("show", 1, "--json").json["measurements"] if m["purpose"] == "final"]
    assert [(m["seed"], m["outcome"]) for m in finals] == [(first, "crashed"), (second, "scored")]
    assert lab("status", "--json").json["gain"]["n"] == [1, 3]


def test_a_try_repeats_nothing(sure: Lab) -> None:
    sure.train_core.write_text(sure.train_core.read_text().replace("FINAL_LR = 0.05", "FINAL_LR = 0.1"))
    done = sure("try", "--program", "programs/sure.md", "--json")
    assert done.code == 0, done.err
    assert [len(e["measurements"]) for e in sure("log", "--json").json] == [1, 1]


@pytest.mark.usefixtures("late")
@pytest.mark.parametrize(
    ("block", "why"),
    [
        (("torch.manual_seed(run.seed)", "torch.manual_seed(1337)"), "changes only a seed"),
        (setting("FINAL_LR", 0.05, "0.050"), "changes nothing that runs"),
    ],
)
def test_what_is_no_experiment_is_refused_before_it_costs_anything(ran: Lab, block: tuple[str, str], why: str) -> None:
    (ran.root / "patch.txt").write_text(reply(block))
    done = ran("try", "--program", "programs/quick.md", "--patch", "patch.txt", "--json")
    assert done.code == 1
    assert done.json["status"] == "failed" and why in done.json["reason"] and done.json["measurements"] == []


def test_a_model_that_proposes_no_experiment_is_told_so(ran: Lab) -> None:
    idle = reply(setting("FINAL_LR", 0.05, "0.050"), title="The same")
    better = reply(setting("FINAL_LR", 0.05, 0.1), title="Another end")
    answers = recording(ran.root / ".git" / "more.jsonl", idle, better)
    done = ran("run", "--program", "programs/quick.md", "--experiments", 6, "--agent", answers)
    assert done.code == 0, done.err
    last = ran("show", 6, "--json").json
    assert last["title"] == "Another end" and last["replies"] == 2
    calls = sorted((ran.root / ".git" / "autoresearch" / "runs" / "quick" / "6").glob("call-*.json"))
    assert "changes nothing that runs" in calls[-1].read_text()
