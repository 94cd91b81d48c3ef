"""What a train_core can do with its `run`, and what it is told if it does something else."""

import socket
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from autoresearch.harness.candidate import Failure
from autoresearch.harness.files import Phases
from autoresearch.harness.run import Run
from autoresearch.harness.weights import load
from autoresearch.tasks import TrainTask


@pytest.fixture
def start(texts, tmp_path):
    def make(budget: float = 60.0, max_steps: int | None = None, shapes: nn.Module | None = None) -> Run:
        task = TrainTask("", str(tmp_path), 5, "cpu", budget, max_steps, texts.train[256], 32)
        return Run(task, Phases(tmp_path), shapes or nn.Linear(2, 2))

    return make


def test_batches_end_with_the_steps(start):
    run = start(max_steps=4)
    run.start(nn.Linear(2, 2))
    progress = [run.progress for _ in run.batches(3, 16)]
    assert progress == pytest.approx([0, 0.25, 0.5, 0.75], abs=0.01)
    assert run.progress == 1.0
    assert list(run.batches(3, 16)) == []  # there is one clock
    assert (run.result().steps, run.result().tokens) == (4, 4 * 3 * 16)


def test_batches_end_with_the_time(start):
    run = start(budget=0.3)
    run.start(nn.Linear(2, 2))
    for _ in run.batches(1, 8):
        time.sleep(0.01)
    assert 0.3 <= run.result().seconds["train"] < 1.0


def test_the_order_of_calls_is_kept(start):
    run = start(max_steps=1)
    with pytest.raises(Failure, match=r"before run\.start"):
        next(run.batches(1, 8))
    with pytest.raises(Failure, match=r"before run\.start"):
        run.save(nn.Linear(2, 2))
    run.start(nn.Linear(2, 2))
    with pytest.raises(Failure, match="twice"):
        run.start(nn.Linear(2, 2))
    with pytest.raises(Failure, match=r"without run\.save"):
        run.finish()
    run.save(nn.Linear(2, 2))
    with pytest.raises(Failure, match="twice"):
        run.save(nn.Linear(2, 2))
    run.finish()


@pytest.mark.parametrize(
    ("budget", "late", "refused"), [(10, 0.5, False), (10, 1.5, True), (300, 5, False), (300, 7, True)]
)
def test_work_after_the_clock_is_no_training(start, monkeypatch, budget, late, refused):
    run = start(budget, max_steps=1)
    run.start(model := nn.Linear(2, 2))
    list(run.batches(1, 8))
    now = time.perf_counter()
    monkeypatch.setattr(time, "perf_counter", lambda: now + late)
    if refused:
        with pytest.raises(Failure, match=r"between the end of the clock and run\.save"):
            run.save(model)
    else:
        run.save(model)


@pytest.mark.parametrize("loss", [float("nan"), torch.tensor(float("inf"))])
def test_a_loss_that_is_not_finite_ends_the_training(start, loss):
    run = start()
    run.start(nn.Linear(2, 2))
    next(run.batches(1, 8))
    with pytest.raises(Failure, match="not finite at step 1"):
        run.report(loss)


def test_tied_and_compiled_weights_are_saved(start, tmp_path):
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
            self.b.weight = self.a.weight

    run = start(shapes=Tied().to("meta"))
    model, other = Tied(), Tied()
    run.start(model)
    run.save(torch.compile(model))
    load(other, load_file(tmp_path / "weights.safetensors"))
    assert (other.b.weight == model.a.weight).all()


def test_weights_of_another_model_are_not_taken(start, tmp_path):
    run = start(shapes=nn.Linear(2, 3))
    run.start(nn.Linear(2, 2))
    with pytest.raises(RuntimeError, match="weight is "):
        run.save(nn.Linear(2, 2))
    assert not (tmp_path / "weights.safetensors").exists()


class Stating(nn.Linear):
    """A model of six parameters that says something of itself."""

    def __init__(self, flops, active):
        super().__init__(2, 2)
        self.flops_per_token = flops
        self.active_parameters = active


@pytest.mark.parametrize(
    ("flops", "active", "told"),
    [
        (12, 4, (12.0, 4)),
        (lambda: 12.5, lambda: 6, (12.5, 6)),
        (0, 0, (None, None)),
        (-1, 7, (None, None)),  # more than there are
        (float("inf"), float("nan"), (None, None)),
        (10**400, 10**400, (None, None)),
        ("many", None, (None, None)),
    ],
)
def test_what_a_model_says_of_itself_is_bounded(start, flops, active, told):
    run = start()
    run.start(Stating(flops, active))
    result = run.result()
    assert (result.flops_per_token, result.active_parameters) == told
    assert result.parameters == 6


def test_the_weights_hash_tells_weights_apart(start, tmp_path):
    hashes = set()
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        run = start()
        run.start(nn.Linear(20, 20))
        hashes.add(run.result().start_hash)
    assert len(hashes) == 2


def test_the_text_comes_when_the_clock_starts_and_not_before(start, texts, tmp_path):
    """The house hands it over as an open file; until then there is none, and afterwards it is the same text."""
    ours, theirs = socket.socketpair()
    given = replace(start()._task, tokens=replace(texts.train[256], path=""), data=theirs.fileno())
    run = Run(given, Phases(tmp_path), nn.Linear(2, 2))
    warm, _ = next(run.warmup_batches(2, 16))
    assert warm.shape == (2, 16)
    assert len(run._data._stream) == 0
    with Path(texts.train[256].path).open("rb") as file:
        socket.send_fds(ours, [b"t"], [file.fileno()])
    run.start(nn.Linear(2, 2))
    other = start()
    other.start(nn.Linear(2, 2))
    for (inputs, targets), (same, too) in islice(zip(run.batches(4, 32), other.batches(4, 32), strict=True), 5):
        assert (inputs == same).all() and (targets == too).all()
    ours.close()
    theirs.close()
