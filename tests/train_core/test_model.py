"""The model on the CPU: what it computes, what a prediction may depend on, and its size."""

import math

import pytest
import torch
from safetensors.torch import load_file

from autoresearch import knobs
from autoresearch.harness import weights
from tests.train_core import references
from tests.train_core.cores import CPU, TEXT, disturbed

PATTERNS = ["L", "S", "SL", "SSL", "SSSL", "SSSSL"]


@pytest.mark.parametrize("changes", [{}, {"VOCAB_SIZE": 1000}, {"DEPTH": 5, "ASPECT": 64}, {"NGRAM_ROWS": 4}])
def test_first_loss_is_that_of_a_uniform_guess(load, changes):
    core = load(changes)
    torch.manual_seed(0)
    model = core.build_model(CPU)
    tokens, targets = torch.randint(0, core.VOCAB_SIZE, (2, 8, core.CONTEXT))
    assert model.loss(tokens, targets).item() == pytest.approx(math.log(core.VOCAB_SIZE), abs=1e-3)


@pytest.mark.parametrize("changes", [{"DEPTH": 1}, {"DEPTH": 3}, {"DEPTH": 4, "NGRAM_ROWS": 4}, {"MLP_RATIO": 3}])
def test_it_is_the_model_that_is_written_down(load, changes):
    core = load(changes)
    model = disturbed(core)
    tokens, targets = torch.randint(0, 256, (2, 3, core.CONTEXT))
    exact = references.logits(core, model, tokens)
    torch.testing.assert_close(model(tokens).double(), exact, atol=1e-4, rtol=1e-4)
    loss = -exact.log_softmax(-1).gather(-1, targets[..., None]).mean()
    assert model.loss(tokens, targets).item() == pytest.approx(loss.item(), abs=1e-5)


def test_logits_have_the_shape_and_type_of_the_contract(load):
    core = load()
    logits = core.build_model(CPU)(torch.zeros(3, 17, dtype=torch.int64))
    assert logits.shape == (3, 17, 256) and logits.dtype == torch.float32


def test_logits_are_capped(load):
    core = load()
    model = disturbed(core)
    with torch.no_grad():
        model.unembedding.weight.mul_(1e4)
        assert model(torch.arange(20)[None]).abs().max() == pytest.approx(core.SOFTCAP)


@pytest.mark.parametrize("rows_of_pairs", [0, 4])
def test_a_shorter_row_or_another_batch_gives_the_same_logits(load, rows_of_pairs):
    core = load(DEPTH=3, NGRAM_ROWS=rows_of_pairs)
    model = disturbed(core)
    tokens = torch.randint(0, 256, (4, core.CONTEXT))
    with torch.inference_mode():
        whole = model(tokens)
        for rows, length in ((4, 1), (1, 7), (3, 8), (2, 33), (1, core.CONTEXT)):
            torch.testing.assert_close(model(tokens[:rows, :length]), whole[:rows, :length], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("rows_of_pairs", [0, 4])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_no_prediction_depends_on_a_later_token(load, pattern, rows_of_pairs):
    core = load(WINDOW_PATTERN=pattern, DEPTH=3, NGRAM_ROWS=rows_of_pairs)
    model = disturbed(core)
    tokens = torch.randint(0, 256, (1, core.CONTEXT))
    with torch.inference_mode():
        before = model(tokens)
        for position in (1, 8, 31, core.CONTEXT - 1):
            changed = tokens.clone()
            changed[0, position] = (changed[0, position] + 1) % 256
            after = model(changed)
            assert torch.equal(before[:, :position], after[:, :position])
            assert (before[:, position:] != after[:, position:]).any(-1).all()  # and each later one on this


def test_depth_alone_scales_the_model(load):
    shipped = knobs.values(TEXT)
    sizes = []
    for depth in range(1, 13):
        core = load(shipped, DEPTH=depth)
        model = core.build_model(torch.device("meta"))
        assert core.WIDTH % core.HEAD_DIM == 0 and depth * core.ASPECT <= core.WIDTH
        assert core.WIDTH - depth * core.ASPECT < core.HEAD_DIM
        assert len(model.blocks) == depth and model.blocks[-1].attention.window == core.CONTEXT
        assert len(model.blocks[-1].attention.tables) == 1
        assert model(torch.zeros(2, 128, dtype=torch.int64, device="meta")).shape == (2, 128, core.VOCAB_SIZE)
        sizes.append(sum(weight.numel() for weight in model.parameters()))
    assert sizes == sorted(set(sizes))


@pytest.mark.parametrize("rows_of_pairs", [0, 4])
def test_operations_and_active_parameters_by_hand(load, rows_of_pairs):
    core = load(DEPTH=3, MLP_RATIO=4, NGRAM_ROWS=rows_of_pairs)
    c, v, h, g = core.WIDTH, 256, core.HEADS, 32
    tables = 2 * (2 if rows_of_pairs else 1)  # in layers 0 and 2
    gates = g * (1 + 3 * h + tables * h)  # of the smear, of every head, of every table
    matrices = 3 * (4 * c * c + 2 * 4 * c * c) + gates + v * c
    model = core.build_model(CPU)
    assert model.flops_per_token() == 6 * matrices + 12 * c * (8 + 8 + 64)
    scalars = 2 * 3 + 2
    assert model.active_parameters() == matrices + scalars + c + tables * c  # a row of the embedding and of each table
    everything = matrices + scalars + v * c + 2 * v * c * (1 + rows_of_pairs)
    assert sum(weight.numel() for weight in model.parameters()) == everything


def test_weights_survive_a_round_trip(load, tmp_path):
    core = load(DEPTH=3, NGRAM_ROWS=2)
    model = disturbed(core)
    weights.save(model, tmp_path / "weights.safetensors")
    torch.manual_seed(1)
    fresh = core.build_model(CPU)
    weights.load(fresh, load_file(tmp_path / "weights.safetensors"))
    tokens = torch.randint(0, 256, (2, core.CONTEXT))
    assert torch.equal(model(tokens), fresh(tokens))
