import math

import pytest
import torch
import torch.nn.functional as F

from autoresearch.harness import losses as module
from autoresearch.harness.losses import losses

cuda = pytest.param(
    "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")]
)
devices = pytest.mark.parametrize("device", ["cpu", cuda])


@devices
@pytest.mark.parametrize("vocabulary", [256, 300, 8192, 50_257])
@pytest.mark.parametrize(("dtype", "size"), [(torch.float32, 3.0), (torch.float32, 300.0), (torch.bfloat16, 3.0)])
def test_they_are_cross_entropies(device, vocabulary, dtype, size, monkeypatch):
    monkeypatch.setattr(module, "_PART", 2 * 5 * vocabulary)  # rows are turned into losses two at a time
    logits = (size * torch.randn(3, 5, vocabulary, device=device)).to(dtype)
    targets = torch.randint(vocabulary, (3, 5), device=device)
    expected = F.cross_entropy(logits.flatten(0, 1).double(), targets.flatten(), reduction="none")
    found = losses(logits, targets)
    assert found.dtype == torch.float32 and (found >= 0).all()
    torch.testing.assert_close(found.double(), expected, atol=1e-5 + 2e-7 * size, rtol=1e-5)


@devices
def test_whatever_the_layout(device):
    logits = torch.randn(300, 5, 3, device=device).permute(2, 1, 0)
    targets = torch.randint(300, (5, 3), device=device).T
    expected = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    torch.testing.assert_close(losses(logits, targets), expected, atol=1e-5, rtol=1e-5)


@devices
def test_one_that_is_sure_is_not_below_zero(device):
    logits = torch.full((1, 4, 9000), -1e4, device=device)
    logits[:, :, 17] = 1234.567
    assert losses(logits, torch.full((1, 4), 17, device=device)).tolist() == [0.0] * 4


@devices
@pytest.mark.parametrize("place", [0, 8999])
@pytest.mark.parametrize(
    ("logit", "target", "loss"),
    [(math.nan, 5, math.nan), (math.inf, 5, math.nan), (-math.inf, 5, 1.0), (-math.inf, None, math.inf)],
)
def test_what_is_not_finite_is_not_made_finite(device, place, logit, target, loss):
    """But for a token that is given no chance and does not come."""
    logits = torch.zeros(1, 2, 9000, device=device)
    logits[0, 1, place] = logit
    targets = torch.full((1, 2), place if target is None else target, device=device)
    plain, found = losses(logits, targets).tolist()
    assert plain == pytest.approx(math.log(9000))
    if loss == 1.0:
        assert found == pytest.approx(math.log(8999))
    else:
        assert found == loss or (math.isnan(found) and math.isnan(loss))


@devices
def test_nothing_but_impossible_tokens_is_no_prediction(device):
    logits = torch.full((1, 2, 300), -math.inf, device=device)
    assert not losses(logits, torch.zeros(1, 2, dtype=torch.long, device=device)).isfinite().any()
