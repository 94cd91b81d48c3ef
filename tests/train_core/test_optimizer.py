"""Muon against itself as it is written down, who owns which parameter, and the schedules."""

import pytest
import torch
from torch import nn

from tests.train_core import references
from tests.train_core.cores import CPU


@pytest.mark.parametrize("shape", [(3, 48, 48), (2, 96, 24), (2, 24, 96), (1, 5, 32)])
def test_orthogonalization_brings_singular_values_near_one(load, shape):
    core = load()
    torch.manual_seed(0)
    matrices = torch.randn(shape) * torch.tensor([1e-4, 1.0, 1e3])[: shape[0], None, None]
    result = core.orthogonalize(matrices).double()
    values = torch.linalg.svdvals(result)
    assert values.min() > 0.8 and values.max() < 1.2
    left, _, right = torch.linalg.svd(matrices.double(), full_matrices=False)
    for one, u, v in zip(result, left, right, strict=True):
        product = u.T @ one @ v.T  # diagonal in the same singular vectors, and of the same signs
        assert (product - product.diagonal().diag()).abs().max() < 1e-3 and product.diagonal().min() > 0.8


@pytest.mark.parametrize("shape", [(16, 16), (24, 8), (8, 24)])
def test_muon_steps_as_the_plain_algorithm_does(load, shape):
    core = load(MOMENTUM_WARMUP=0.5, MUON_MOMENTUM=0.95, WARMDOWN=0.8, FINAL_LR=0.1)
    torch.manual_seed(0)
    weights = [nn.Parameter(0.1 * torch.randn(shape)) for _ in range(2)]
    plain = [references.Muon(core, weight.detach(), 0.02, 0.3) for weight in weights]
    muon = core.Muon(list(weights), 0.02, 0.3)
    for step in range(12):
        progress = step / 12
        for weight, reference in zip(weights, plain, strict=True):
            weight.grad = torch.randn(shape) * (torch.arange(shape[0])[:, None] + 1)  # rows of unlike size
            beta, left = min(0.95, 0.85 + 0.2 * progress), min(1.0, (1 - progress) / 0.8)
            reference.step(weight.grad, beta, 0.1 + 0.9 * left, 1 - progress)
        with torch.no_grad():
            muon.step(progress)
    for weight, reference in zip(weights, plain, strict=True):
        torch.testing.assert_close(weight.double(), reference.weight, atol=2e-4, rtol=1e-3)


def owners(optimizer) -> dict[int, list[object]]:
    """By the identity of a parameter: each Muon, or each group of AdamW, that has it."""
    found: dict[int, list[object]] = {}
    for owner in [*optimizer.muon, *optimizer.adam.param_groups]:
        for weight in owner["params"] if isinstance(owner, dict) else owner.weights:
            found.setdefault(id(weight), []).append(owner)
    return found


@pytest.mark.parametrize("changes", [{}, {"DEPTH": 4}, {"NGRAM_ROWS": 2, "DEPTH": 3}, {"DEPTH": 1}])
def test_every_parameter_is_owned_once(load, changes):
    core = load(changes)
    model = core.build_model(CPU)
    found = owners(core.Optimizer(model))
    assert set(found) == {id(weight) for weight in model.parameters()}
    assert all(len(who) == 1 for who in found.values())


def test_each_parameter_has_the_step_size_of_its_kind(load):
    core = load(DEPTH=3, NGRAM_ROWS=2)
    model = core.build_model(CPU)
    optimizer = core.Optimizer(model)
    found, scale, default = owners(optimizer), (768 / core.WIDTH) ** 0.5, (core.ADAM_BETA1, core.ADAM_BETA2)
    rates = {
        "tables": (core.VALUE_LR * scale, core.VALUE_DECAY, default),
        "unembedding": (core.UNEMBEDDING_LR * scale, core.UNEMBEDDING_DECAY, default),
        "embedding.weight": (core.EMBEDDING_LR * scale, core.EMBEDDING_DECAY, default),
        "x0_lambda": (core.SCALAR_LR, 0.0, (0.96, 0.95)),
        "residual_lambda": (core.SCALAR_LR / 100, 0.0, default),
        "smear_lambda": (core.SCALAR_LR / 10, 0.0, default),
        "backout_lambda": (core.SCALAR_LR / 10, 0.0, default),
        "gate": (core.GATE_LR, 0.0, default),
        "smear.weight": (core.GATE_LR, 0.0, default),
    }
    for name, weight in model.named_parameters():
        (owner,) = found[id(weight)]
        kind = next((rate for part, rate in rates.items() if part in name.replace("table_gates", "gate")), None)
        if kind is None:
            assert owner in optimizer.muon and owner.base_decay == core.WEIGHT_DECAY, name
            assert owner.base_lr == core.MATRIX_LR * max(1, weight.size(0) / weight.size(1)) ** 0.5
        else:
            assert (owner["lr"], owner["weight_decay"], owner["betas"]) == kind, name
            assert owner["eps"] == core.ADAM_EPSILON


def test_matrices_of_one_shape_share_a_muon(load):
    core = load(DEPTH=4)
    muon = core.Optimizer(core.build_model(CPU)).muon
    c = core.WIDTH
    assert {tuple(group.momentum.shape) for group in muon} == {(16, c, c), (4, 4 * c, c), (4, c, 4 * c)}


def test_what_a_file_adds_is_trained_for_what_it_is(load):
    core = load()
    model = core.build_model(CPU)
    model.scales, model.table = nn.Parameter(torch.zeros(3)), nn.Embedding(7, core.WIDTH)
    model.mixer, model.opener = core.Linear(core.WIDTH, 48), core.Linear(core.GATE_CHANNELS, 5)
    optimizer = core.Optimizer(model)
    found = owners(optimizer)
    assert all(len(found[id(weight)]) == 1 for weight in model.parameters())
    assert found[id(model.mixer.weight)][0] in optimizer.muon
    added = (model.scales, model.table.weight, model.opener.weight)
    like = (model.smear_lambda, model.blocks[-1].attention.tables[0].weight, model.smear.weight)
    assert [found[id(weight)] for weight in added] == [found[id(weight)] for weight in like]


def test_a_step_moves_every_weight_at_the_step_size_that_is_due(load, monkeypatch):
    core = load(WARMDOWN=0.75, FINAL_LR=0.05, NGRAM_ROWS=2)
    torch.manual_seed(0)
    model = core.build_model(CPU)
    optimizer = core.Optimizer(model)
    rates = [group["lr"] for group in optimizer.adam.param_groups]
    decays = [group["weight_decay"] for group in optimizer.adam.param_groups]
    before = [weight.detach().clone() for weight in model.parameters()]
    for weight in model.parameters():
        weight.grad = torch.randn_like(weight)
    told, update = [], core.muon_update
    monkeypatch.setattr(core, "muon_update", lambda *given: (told.append(given[-3:]), update(*given)))
    optimizer.step(0.625)
    assert [group["lr"] for group in optimizer.adam.param_groups] == pytest.approx([0.525 * rate for rate in rates])
    assert [group["weight_decay"] for group in optimizer.adam.param_groups] == decays
    due = [(core.MUON_MOMENTUM, 0.525 * muon.base_lr, 0.375 * core.WEIGHT_DECAY) for muon in optimizer.muon]
    assert told == [pytest.approx(muon) for muon in due]
    names = [name for name, _ in model.named_parameters()]
    for name, old, new in zip(names, before, model.parameters(), strict=True):
        assert new.grad is None and not torch.equal(old, new), name


# ---------------------------------------------------------------------------------------------------- schedules


def test_step_size_and_decay_fall(load):
    core = load(WARMDOWN=0.75, FINAL_LR=0.05)
    assert [core.lr_share(progress) for progress in (0.0, 0.1, 0.25)] == [1.0, 1.0, 1.0]
    assert core.lr_share(0.625) == pytest.approx(0.525)
    assert core.lr_share(1.0) == core.lr_share(1.2) == pytest.approx(0.05)
    assert [core.decay_share(progress) for progress in (0.0, 0.5, 1.0, 1.2)] == [1.0, 0.5, 0.0, 0.0]


def test_momentum_rises(load):
    core = load(MOMENTUM_WARMUP=0.2, MUON_MOMENTUM=0.95)
    shares = [core.muon_momentum(progress) for progress in (0.0, 0.1, 0.2, 0.7, 1.0)]
    assert shares == pytest.approx([0.85, 0.9, 0.95, 0.95, 0.95])
    assert load(MOMENTUM_WARMUP=0.0, MUON_MOMENTUM=0.95).muon_momentum(0.01) == pytest.approx(0.95)
