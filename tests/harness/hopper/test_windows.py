"""Attention in windows against the definition."""

import pytest
import torch

from tests.train_core.references import dense_attention

pytestmark = pytest.mark.gpu
BFLOAT16 = {"atol": 0.02, "rtol": 0.02}  # whose rounding is 0.004


@pytest.mark.parametrize(
    ("length", "window", "heads", "channels"),
    [(1024, 128, 3, 64), (1024, 256, 2, 128), (2048, 512, 1, 128), (384, 128, 3, 32), (192, 70, 2, 16), (64, 1, 2, 64)],
)
def test_it_sees_the_window_and_nothing_else(length, window, heads, channels):
    both = torch.randn(2, length, 2 * heads, channels, device="cuda", dtype=torch.bfloat16)
    value = torch.randn(2, length, heads, channels, device="cuda", dtype=torch.bfloat16)
    inputs = [*both.chunk(2, dim=2), value]  # the first two are no whole tensors
    for tensor in inputs:
        tensor.requires_grad_()
    exact = dense_attention(*inputs, window)
    down = torch.randn_like(value)
    theirs = torch.autograd.grad(exact, inputs, down.double())
    with torch.inference_mode():
        scored = torch.ops.autoresearch.windowed_attention(*inputs, window)[0]
    seen = torch.ops.autoresearch.windowed_attention(*inputs, window)[0]
    for ours in (scored, seen):
        torch.testing.assert_close(ours.double(), exact, **BFLOAT16)
    for mine, gradient in zip(torch.autograd.grad(seen, inputs, down), theirs, strict=True):
        assert (mine.double() - gradient.double()).norm() < 0.02 * gradient.double().norm() + 1e-3


def test_it_compiles():
    inputs = [torch.randn(2, 512, 2, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True) for _ in range(3)]

    def function(*tensors):
        return torch.ops.autoresearch.windowed_attention(*(2 * tensor for tensor in tensors), 128)[0].square().sum()

    plain = torch.autograd.grad(function(*inputs), inputs)
    compiled = torch.autograd.grad(torch.compile(function, fullgraph=True)(*inputs), inputs)
    for one, other in zip(plain, compiled, strict=True):
        torch.testing.assert_close(one, other, **BFLOAT16)


def test_it_is_the_same_to_the_bit_every_time():
    inputs = [torch.randn(8, 1024, 4, 128, device="cuda", dtype=torch.bfloat16, requires_grad=True) for _ in range(3)]
    down = torch.randn_like(inputs[0])
    first, second = (
        (seen, *torch.autograd.grad(seen, inputs, down))
        for seen in (torch.ops.autoresearch.windowed_attention(*inputs, 256)[0] for _ in range(2))
    )
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


@pytest.mark.parametrize(("length", "channels"), [(100, 64), (128, 48)])
def test_what_does_not_divide_is_refused(length, channels):
    x = torch.randn(2, length, 2, channels, device="cuda", dtype=torch.bfloat16)
    with pytest.raises(ValueError, match="multiple of 64 positions and 16, 32, 64 or 128 channels"):
        torch.ops.autoresearch.windowed_attention(x, x, x, 64)
