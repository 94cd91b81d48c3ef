"""Rotation, attention and pairs against plain references in float64."""

import pytest
import torch

from tests.train_core import references


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5])
@pytest.mark.parametrize(("length", "head"), [(64, 32), (37, 32), (1, 64), (64, 128)])
def test_queries_and_keys_are_rotated_and_normalized(load, length, head, share):
    core = load(HEAD_DIM=head, ASPECT=head, LATE_SHARE=share)
    torch.manual_seed(0)
    x = torch.randn(2, length, 2 * core.HEADS, head, requires_grad=True)
    ours, exact = core.rotated_norm(x, core.rotary_table()), references.rotated_norm(core, x)
    down = [torch.randn_like(out) for out in ours]
    (mine,) = torch.autograd.grad(ours, x, down)
    (theirs,) = torch.autograd.grad(exact, x, [gradient.double() for gradient in down])
    for out, expected in zip(ours, exact, strict=True):
        assert out.shape == (2, length, core.HEADS, head) and out.dtype == x.dtype
        torch.testing.assert_close(out.double(), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)


def test_normalized_and_rotated_in_float32_whatever_comes_in(load):
    core = load()
    x = torch.randn(1, 64, 2 * core.HEADS, core.HEAD_DIM).bfloat16()
    for out, expected in zip(core.rotated_norm(x, core.rotary_table()), references.rotated_norm(core, x), strict=True):
        assert out.dtype == torch.bfloat16
        assert torch.equal(out, expected.float().bfloat16())  # rounded once, at the end


def test_scores_depend_on_distance_alone(load):
    core = load()
    query, key = torch.randn(2, 1, 1, 1, core.HEAD_DIM).expand(2, 1, core.CONTEXT, 1, core.HEAD_DIM)
    query, key = (core.rotate(x, core.rotary_table())[0, :, 0] for x in (query, key))
    scores = query @ key.T
    for distance in (0, 1, 5, 40):
        diagonal = scores.diagonal(-distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(scores[10, 10], scores[10, 5])


def test_windows_follow_the_pattern_and_the_last_layer_sees_all(load):
    core = load(DEPTH=7, WINDOW_PATTERN="SSSSL")
    assert [core.window_of(layer) for layer in range(7)] == [8, 8, 8, 8, 64, 8, 64]
    assert [block.attention.window for block in core.build_model(torch.device("meta")).blocks][-1] == 64


@pytest.mark.parametrize(("length", "window"), [(64, 64), (64, 8), (64, 1), (33, 8), (5, 8), (1, 8), (64, 63)])
def test_attention_sees_exactly_its_window(load, length, window):
    core = load()
    inputs = [torch.randn(2, length, 3, 16, requires_grad=True) for _ in range(3)]
    ours, exact = core.attend(*inputs, window), references.dense_attention(*inputs, window)
    torch.testing.assert_close(ours.double(), exact, atol=1e-5, rtol=1e-4)
    down = torch.randn_like(ours)
    for mine, theirs in zip(
        torch.autograd.grad(ours, inputs, down), torch.autograd.grad(exact, inputs, down.double()), strict=True
    ):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)


def test_a_mask_first_used_in_scoring_serves_training(load):
    core = load()
    query = torch.randn(1, 40, 1, 8, requires_grad=True)
    with torch.inference_mode():
        core.attend(*torch.randn(3, 1, 40, 1, 8), 4)
    core.attend(query, query, query, 4).sum().backward()
    assert query.grad is not None and query.grad.isfinite().all()


# ---------------------------------------------------------------------------------------------------- pairs


@pytest.mark.parametrize("vocab", [256, 1000, 8192, 65536])
def test_a_pair_has_a_row_of_the_table(load, vocab):
    core = load(VOCAB_SIZE=vocab, NGRAM_ROWS=3)
    tokens = torch.tensor([[0, 0, vocab - 1, vocab - 1, 0, 1]])
    rows = core.pairs_of(torch.cat((tokens, torch.randint(vocab, (1, 6))), dim=1))
    assert rows.dtype == torch.int64 and rows.min() >= 0 and rows.max() < 3 * vocab


def test_a_row_is_of_exactly_the_last_two_tokens(load):
    core = load(NGRAM_ROWS=16)
    tokens = torch.randint(256, (5, 20))
    rows = core.pairs_of(tokens)
    for position in range(20):
        changed = tokens.clone()
        changed[:, position] = (tokens[:, position] + 1) % 256
        differs = core.pairs_of(changed) != rows
        assert differs[:, position].all() and differs[:, position + 1 : position + 2].all()
        assert not differs[:, :position].any() and not differs[:, position + 2 :].any()
    assert torch.equal(core.pairs_of(tokens[:, 7:9])[:, 1], rows[:, 8])  # nor of where it stands


def test_the_first_token_of_a_row_pairs_with_itself(load):
    core = load(NGRAM_ROWS=16)
    tokens = torch.full((2, 3), 255)  # a row begins with BOS, and so does what is thought to be before it
    tokens[1, 1:] = 7
    rows = core.pairs_of(tokens)
    assert rows[0, 0] == rows[0, 1] == rows[1, 0] != rows[1, 1]


@pytest.mark.parametrize(("vocab", "rows"), [(256, 4), (256, 16), (1000, 16), (8192, 16)])
def test_pairs_spread_evenly_over_the_table(load, vocab, rows):
    """As by chance or better: over all pairs, after one token, before one token, and among the first tokens alone."""
    core = load(VOCAB_SIZE=vocab, NGRAM_ROWS=rows)
    every = torch.arange(vocab)
    some = every[: min(vocab, 1024)]
    samples = {
        "all": torch.cartesian_prod(some, some),
        "after": torch.cartesian_prod(torch.tensor([32]), every),
        "before": torch.cartesian_prod(every, torch.tensor([32])),
        "frequent": torch.cartesian_prod(every[:100], every[:100]),
    }
    for name, pairs in samples.items():
        expected = len(pairs) / (rows * vocab)
        counts = core.pairs_of(pairs)[:, 1].bincount(minlength=rows * vocab)
        chi_square = ((counts - expected).square() / expected).mean().item()  # 1 by chance, and 0 if quite even
        assert chi_square < 1.1, (name, chi_square)
