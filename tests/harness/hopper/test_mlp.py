"""The MLP against its definition in float64."""

import pytest
import torch
from torch import Tensor

pytestmark = pytest.mark.gpu


def exact(x: Tensor, up: Tensor, down: Tensor) -> Tensor:
    x, up, down = x.double(), up.double(), down.double()
    return (x @ up.T).clamp_min(0).square() @ down.T


def inputs(rows: int, channels: int, hidden: int) -> list[Tensor]:
    shapes = ((rows, channels), (hidden, channels), (channels, hidden))
    sizes = (1.0, channels**-0.5, hidden**-0.5)
    drawn = (size * torch.randn(shape, device="cuda") for shape, size in zip(shapes, sizes, strict=True))
    return [x.bfloat16().requires_grad_() for x in drawn]


@pytest.mark.parametrize(
    ("rows", "channels", "hidden"),
    [(4096, 640, 2560), (131072, 128, 512), (1000, 384, 1536), (129, 40, 256), (1, 64, 256), (300, 712, 768)],
)
def test_it_is_the_mlp_and_so_are_its_gradients(rows, channels, hidden):
    given = inputs(rows, channels, hidden)
    down = torch.randn(rows, channels, device="cuda", dtype=torch.bfloat16)
    expected = exact(*given)
    theirs = torch.autograd.grad(expected, given, down.double())
    with torch.inference_mode():
        scored = torch.ops.autoresearch.squared_relu_mlp(*given)[0]
    result = torch.ops.autoresearch.squared_relu_mlp(*given)[0]
    assert torch.equal(scored, result)
    assert (result.double() - expected).norm() < 0.005 * expected.norm()
    for mine, gradient in zip(torch.autograd.grad(result, given, down), theirs, strict=True):
        assert mine.dtype == torch.bfloat16 and mine.shape == gradient.shape
        assert (mine.double() - gradient.double()).norm() < 0.01 * gradient.double().norm()


def test_it_compiles_and_takes_what_is_no_whole_tensor():
    _, up, down = inputs(512, 128, 512)
    whole = torch.randn(512, 256, device="cuda", dtype=torch.bfloat16, requires_grad=True)

    def function(*tensors: Tensor) -> Tensor:
        half, up, down = tensors
        return torch.ops.autoresearch.squared_relu_mlp(2 * half[:, 64:192], up.T.contiguous().T, down)[0].square().sum()

    plain = torch.autograd.grad(function(whole, up, down), (whole, up, down))
    compiled = torch.autograd.grad(torch.compile(function, fullgraph=True)(whole, up, down), (whole, up, down))
    for one, other in zip(plain, compiled, strict=True):
        assert (one - other).norm() < 0.01 * one.norm()


@pytest.mark.parametrize(("channels", "hidden"), [(100, 256), (128, 320)])
def test_what_does_not_divide_is_refused(channels, hidden):
    with pytest.raises(ValueError, match="multiple of 8 channels and of 256 hidden ones"):
        torch.ops.autoresearch.squared_relu_mlp(*inputs(64, channels, hidden))
