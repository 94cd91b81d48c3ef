"""The training loop: it learns, repeats, drops what is no whole step, and leaves no trace of its warm-up."""

import math
from itertools import islice

import pytest
import torch
from torch import Tensor, nn

from tests.train_core.cores import CPU, FakeRun, disturbed


class Recorder:
    """In place of an optimizer: keeps the gradients of each step, and after which batch it came; changes nothing."""

    def __init__(self, model: nn.Module, run: FakeRun) -> None:
        self.model, self.run = model, run
        self.gradients: list[list[Tensor]] = []
        self.after: list[int] = []

    def step(self, progress: float) -> None:
        assert progress == self.run.progress
        self.gradients.append([weight.grad.clone() for weight in self.model.parameters()])
        self.after.append(self.run.taken)
        self.model.zero_grad(set_to_none=True)


def test_it_learns_real_text(load):
    run = FakeRun(80)
    load().main(run)
    losses = torch.stack(run.losses)
    assert len(losses) == 80
    assert losses[0].item() == pytest.approx(math.log(256), abs=5e-3)
    assert losses[-5:].mean() < 2.6  # nats; the distribution of single bytes gives about 3.3


@pytest.mark.parametrize("rows_of_pairs", [0, 4])
def test_it_memorizes_one_batch(load, rows_of_pairs):
    run = FakeRun(80, repeat=True)
    load(NGRAM_ROWS=rows_of_pairs).main(run)
    assert run.losses[-1] < 0.2


def test_it_starts_once_then_trains_then_saves_once(load):
    run = FakeRun(3)
    load().main(run)
    assert run.events == ["start", "save"] and run.saved is not None


def test_warm_up_leaves_no_trace(load, monkeypatch):
    core = load()
    made = []
    monkeypatch.setattr(core, "Optimizer", lambda model, make=core.Optimizer: made.append(make(model)) or made[-1])
    run = FakeRun(0)
    core.main(run)
    torch.manual_seed(run.seed)
    fresh = core.build_model(CPU).state_dict()
    assert all(torch.equal(run.started[name], tensor) for name, tensor in fresh.items())
    assert all(weight.grad is None for weight in run.saved.parameters())
    warmed, used = made[0], made[-1]
    assert warmed.adam.state and any(muon.momentum.any() for muon in warmed.muon)  # it did train
    assert not used.adam.state
    assert not any(tensor.any() for muon in used.muon for tensor in (muon.momentum, muon.variance))


def test_training_is_the_same_with_and_without_warm_up(load):
    core, runs = load(), (FakeRun(5), FakeRun(5, warmup=False))
    for run in runs:
        core.main(run)
    first, second = (run.saved.state_dict() for run in runs)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_seed_repeats_exactly_and_another_differs(load):
    core, runs = load(), [FakeRun(5, seed=seed) for seed in (1, 1, 2)]
    for run in runs:
        core.main(run)
    one, same, other = (torch.stack(run.losses) for run in runs)
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_an_accumulated_step_has_the_gradient_and_loss_of_one_large_pass(load):
    """The last pass belongs to a step that never comes."""
    core, parts = load(BATCH_ROWS=8, MICRO_ROWS=8), load(BATCH_ROWS=8, MICRO_ROWS=2)
    run = FakeRun(1)
    run.taken = 1
    rows = list(islice(FakeRun(3).batches(8, core.CONTEXT), 3))
    pieces = [piece for tokens, targets in rows for piece in zip(tokens.split(2), targets.split(2), strict=True)]
    recorders, curves = [], []
    for module, batches in ((core, rows), (parts, [*pieces, pieces[0]])):
        model = disturbed(module)
        recorders.append(Recorder(model, run))
        curves.append(torch.stack(list(module.steps(model, recorders[-1], batches, lambda: 1.0))))
    assert len(curves[0]) == 3
    torch.testing.assert_close(*curves, atol=1e-5, rtol=1e-5)
    for whole, accumulated in zip(recorders[0].gradients, recorders[1].gradients, strict=True):
        torch.testing.assert_close(whole, accumulated, atol=1e-5, rtol=1e-3)


def test_a_step_that_the_end_cuts_short_is_dropped(load):
    core = load(BATCH_ROWS=4, MICRO_ROWS=1)
    run, model = FakeRun(15), core.build_model(CPU)
    recorder = Recorder(model, run)
    losses = list(core.steps(model, recorder, run.batches(1, core.CONTEXT), lambda: run.progress))
    assert recorder.after == [4, 8, 12]
    assert len(losses) == 3


def test_rows_of_a_pass_divide_the_batch(load):
    taken = []

    class Run(FakeRun):
        def batches(self, rows, context):
            taken.append((rows, context))
            return super().batches(rows, context)

    for rows, micro in ((8, 2), (8, 3), (2, 8)):
        load(BATCH_ROWS=rows, MICRO_ROWS=micro).main(Run(1))
    assert taken == [(2, 64), (2, 64), (2, 64)]
