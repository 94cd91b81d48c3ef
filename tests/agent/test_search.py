"""The search over the knobs: repeatable, never the same twice, and better than drawing at random."""

import math
import random
from statistics import mean

import pytest

from autoresearch import knobs
from autoresearch.agent.search import LOCAL_TRIALS, SearchAgent
from autoresearch.errors import AgentError
from autoresearch.records import FAMILIES, Experiment, Metric, Proposal
from tests.agent.briefs import PATH, SOURCE, baseline, brief, experiment

LOW = {"DEPTH": 2, "MATRIX_LR": 0.01, "WARMDOWN": 0.1}
HIGH = {"DEPTH": 12, "MATRIX_LR": 0.16, "WARMDOWN": 0.9}
ROWS, PATTERNS = (8, 16, 32, 64, 128), ("L", "SL", "SSL")


def value_of(values, sign=1.0):
    """A quadratic bowl whose lowest point, 1.0, lies off the starting values in every knob."""
    loss = 1.0
    loss += 0.02 * (values["DEPTH"] - 7) ** 2 / 9
    loss += 0.10 * (math.log(values["MATRIX_LR"] / 0.09)) ** 2
    loss += 0.10 * (values["WARMDOWN"] - 0.75) ** 2
    loss += 0.02 * abs(math.log2(values["BATCH_ROWS"] / 16))
    return sign * loss + 0.01 * sign * (values["PATTERN"] != "SSL")


def texts(proposal: Proposal) -> str:
    assert proposal.patch is not None
    return proposal.patch.files[PATH]


def campaign(seed: int, count: int, metric: Metric = Metric(), crashes=lambda values: False):  # noqa: B008
    """A run of the search against the bowl: the experiments, and the proposals after the baseline."""
    sign = 1.0 if metric.goal == "minimize" else -1.0
    tip, best = SOURCE, value_of(knobs.values(SOURCE), sign)
    history: list[Experiment] = [baseline(best)]
    proposals = []
    for number in range(2, count + 2):
        proposal = SearchAgent().propose(brief(history, tip, metric, seed=seed * 1000 + number))
        values = knobs.values(texts(proposal))
        if crashes(values):
            history.append(experiment(number, "crashed", None, values))
        else:
            value = value_of(values, sign)
            kept = metric.gain(best, value) > 0.0005
            history.append(experiment(number, "kept" if kept else "discarded", value, values))
            tip, best = (texts(proposal), value) if kept else (tip, best)
        proposals.append(proposal)
    return history, proposals


def best_of(history, pick=min):
    return pick(e.value for e in history if e.value is not None)


def at_random(seed: int, count: int) -> float:
    rng = random.Random(seed)

    def draw():
        return {
            "DEPTH": rng.randint(2, 12),
            "MATRIX_LR": math.exp(rng.uniform(math.log(0.01), math.log(0.16))),
            "WARMDOWN": rng.uniform(0.1, 0.9),
            "BATCH_ROWS": rng.choice(ROWS),
            "PATTERN": rng.choice(PATTERNS),
        }

    return min(value_of(values) for values in [knobs.values(SOURCE), *(draw() for _ in range(count))])


@pytest.fixture(scope="module")
def runs():
    return [campaign(seed, 40) for seed in range(5)]


def test_it_beats_drawing_at_random(runs):
    assert mean(best_of(history) for history, _ in runs) < mean(at_random(seed, 40) for seed in range(50)) - 0.005


def test_a_run_of_six_keeps_something_in_most_cases():
    kept = [sum(e.status == "kept" for e in campaign(seed, 6)[0]) - 1 for seed in range(20)]
    assert sum(count > 0 for count in kept) >= 16


def test_nothing_is_tried_twice(runs):
    for history, _ in runs:
        tried = [tuple(sorted(e.knobs.items())) for e in history]
        assert len(set(tried)) == len(tried)


def test_a_proposal_changes_one_to_three_knobs_of_the_tip_within_their_domains(runs):
    history, proposals = runs[0]
    values, best = knobs.values(SOURCE), history[0].value
    for done, proposal in zip(history[1:], proposals, strict=True):
        new = knobs.values(texts(proposal))
        changed = {name for name in new if new[name] != values[name]}
        assert 1 <= len(changed) <= 3 and changed <= {"DEPTH", "MATRIX_LR", "WARMDOWN", "BATCH_ROWS", "PATTERN"}
        assert all(LOW[name] <= new[name] <= HIGH[name] for name in LOW)
        assert new["BATCH_ROWS"] in ROWS and new["PATTERN"] in PATTERNS and isinstance(new["DEPTH"], int)
        assert all(f"{name} {values[name]} -> " in proposal.title for name in changed)
        assert proposal.family in FAMILIES and proposal.replies == 0 and proposal.failure is None
        if done.status == "kept":
            values, best = new, done.value
    assert best == best_of(history)


def test_only_values_of_knobs_change(runs):
    for proposal in runs[0][1]:
        before, after = SOURCE.splitlines(), texts(proposal).splitlines()
        assert [line.partition(" = ")[0] for line in before] == [line.partition(" = ")[0] for line in after]
        assert [line.partition("#")[2] for line in before] == [line.partition("#")[2] for line in after]


def test_a_resumed_run_proposes_the_same(runs):
    history, proposals = runs[0]
    tip = SOURCE
    for number in (2, 5, LOCAL_TRIALS + 8, 41):
        before = history[: number - 1]
        kept = [e.number for e in before[1:] if e.status == "kept"]
        tip = texts(proposals[kept[-1] - 2]) if kept else SOURCE
        assert SearchAgent().propose(brief(before, tip, seed=number)) == proposals[number - 2]


def test_the_direction_follows_the_metric():
    history, _ = campaign(1, 30, Metric("score", "maximize"))
    assert best_of(history, max) > history[0].value + 0.02


def test_early_proposals_stay_near_the_tip(runs):
    for _, proposals in runs:
        first = knobs.values(texts(proposals[0]))
        assert abs(math.log(first["MATRIX_LR"] / 0.04)) < 0.5 * math.log(16)
        assert first["BATCH_ROWS"] in (16, 32, 64)


def test_it_learns_from_crashes():
    history, _ = campaign(3, 40, crashes=lambda values: values["DEPTH"] > 8)
    crashed = [e.status == "crashed" for e in history]
    assert sum(crashed[20:]) <= 6
    assert best_of(history) < history[0].value - 0.02


def test_a_history_with_other_knobs_or_without_values_is_no_obstacle():
    strange = [
        baseline(),
        experiment(2, "failed"),
        experiment(3, "kept", 1.9, {"DEPTH": 99, "OTHER": 1}),
        experiment(4, "quarantined", 0.1, knobs.values(SOURCE)),
        experiment(5, "discarded", 2.1, knobs.values(SOURCE) | {"PATTERN": "gone"}),
    ] + [experiment(n, "discarded", 2.0 + n, knobs.values(SOURCE) | {"DEPTH": n % 10 + 2}) for n in range(6, 30)]
    assert all(SearchAgent().propose(brief(strange, seed=seed)).patch for seed in range(6))


def test_a_float_measured_where_an_integer_is_searched_is_no_obstacle():
    """As when a model tried a fraction, and the search goes on from its run."""
    values = [knobs.values(SOURCE) | {"DEPTH": depth} for depth in (2.5, *range(2, 13), 7.0, *range(2, 13))]
    history = [baseline(), *(experiment(n, "discarded", 2.0 + n, v) for n, v in enumerate(values, 2))]
    for seed in range(6):
        depth = knobs.values(texts(SearchAgent().propose(brief(history, seed=seed))))["DEPTH"]
        assert isinstance(depth, int)


def test_a_tip_outside_its_domain_is_brought_back():
    source = SOURCE.replace("MATRIX_LR = 0.04", "MATRIX_LR = 5.0").replace("BATCH_ROWS = 32", "BATCH_ROWS = 48")
    for number in range(30):
        values = knobs.values(texts(SearchAgent().propose(brief([baseline(source=source)], source, seed=number))))
        assert values["MATRIX_LR"] == 5.0 or values["MATRIX_LR"] <= 0.16
        assert values["BATCH_ROWS"] in (32, 48, 64)


def test_the_vocabulary_is_drawn_from_what_the_program_allows():
    source = 'VOCAB_SIZE = 256  # [256, 8192]; tokens\nCONTEXT = 8\nNAME = "a"  # {"a", "b"}\n'
    drawn = [
        knobs.values(texts(SearchAgent().propose(brief([baseline(source=source)], source, seed=n, vocab_sizes=sizes))))
        for sizes in ([256], [256, 2048, 65536])
        for n in range(20)
    ]
    assert {values["VOCAB_SIZE"] for values in drawn[:20]} == {256}
    assert {values["VOCAB_SIZE"] for values in drawn[20:]} == {256, 2048}


def test_a_file_without_domains_has_a_remedy():
    with pytest.raises(AgentError) as error:
        SearchAgent().propose(brief([baseline()], "LR = 0.04  # step size\n"))
    assert PATH in error.value.message and "# [0.01, 0.16] log" in error.value.remedy


def test_a_space_that_is_used_up_has_a_remedy():
    source = "A = 1  # [1, 3]; small\n"
    history = [
        baseline(source=source),
        experiment(2, "discarded", 3.0, {"A": 2}),
        experiment(3, "crashed", None, {"A": 3}),
    ]
    with pytest.raises(AgentError, match="every combination"):
        SearchAgent().propose(brief(history, source))


def test_it_is_silent(capfd):
    campaign(0, LOCAL_TRIALS + 6)
    assert capfd.readouterr() == ("", "")
