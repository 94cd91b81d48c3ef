"""The kernels without a GPU, by Triton's interpreter: in a process of its own, since Triton reads the switch once."""

import importlib.util
import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from tests.train_core import references
from tests.train_core.cores import ROOT

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1" and not torch.cuda.is_available()
interpreted = pytest.mark.skipif(not INTERPRETED, reason="run below, in a process of its own")


@pytest.mark.skipif(INTERPRETED or importlib.util.find_spec("triton") is None, reason="no Triton")
def test_kernels_are_what_they_stand_for():
    command = [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", __file__]
    environ = os.environ | {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environ, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "11 passed, 1 skipped" in done.stdout, done.stdout


@interpreted
@pytest.mark.parametrize("share", [0.0, 0.25, 0.5])
@pytest.mark.parametrize(("head", "length"), [(32, 1), (64, 100), (128, 64)])
def test_rotated_norm(load, share, head, length):
    core = load(CONTEXT=128, HEAD_DIM=head, ASPECT=head, DEPTH=3, LATE_SHARE=share)
    x = torch.randn(2, length, 2 * core.HEADS, head, requires_grad=True)
    ours, exact = core.RotatedNorm.apply(x, core.rotary_table()), references.rotated_norm(core, x)
    down = [torch.randn_like(out) for out in ours]
    (mine,) = torch.autograd.grad(ours, x, down)
    (theirs,) = torch.autograd.grad(exact, x, [gradient.double() for gradient in down])
    for one, other in zip((*ours, mine), (*exact, theirs), strict=True):
        torch.testing.assert_close(one.double(), other.double(), atol=1e-4, rtol=1e-4)


@interpreted
@pytest.mark.parametrize("vocabulary", [256, 300])
def test_cross_entropy(load, vocabulary):
    core = load(VOCAB_SIZE=vocabulary, SOFTCAP=7.0)
    x, weight = (torch.randn(rows, 64, requires_grad=True) for rows in (50, vocabulary))
    targets = torch.randint(vocabulary, (50,))
    ours = core.CrossEntropy.apply(x, weight, targets)
    exact = F.cross_entropy(7 * torch.tanh(x @ weight.T / 7), targets)
    torch.testing.assert_close(ours, exact)
    for one, other in zip(*(torch.autograd.grad(3 * loss, (x, weight)) for loss in (ours, exact)), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
