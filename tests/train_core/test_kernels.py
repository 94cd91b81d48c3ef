"""The kernels without a GPU, by Triton's interpreter: in a process of its own, since Triton reads the switch once."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.train_core.cores import ROOT, TEXT

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="no Triton")

CHECK = """
import importlib.util
import sys
import torch
import torch.nn.functional as F
from autoresearch import knobs
from tests.train_core import references

def load(**changes):
    name = f"core_{len(sys.modules)}"
    path = f"{sys.argv[1]}/{name}.py"
    open(path, "w").write(knobs.assign(open(sys.argv[2]).read(), changes))
    spec = importlib.util.spec_from_file_location(name, path)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

torch.manual_seed(0)
"""

ROTATED = """
for share in (0.0, 0.25, 0.5):
    for head, length in ((32, 1), (64, 100), (128, 64)):
        core = load(CONTEXT=128, HEAD_DIM=head, ASPECT=head, DEPTH=3, LATE_SHARE=share)
        x = torch.randn(2, length, 2 * core.HEADS, head, requires_grad=True)
        ours, exact = core.RotatedNorm.apply(x, core.rotary_table()), references.rotated_norm(core, x)
        down = [torch.randn_like(out) for out in ours]
        (mine,) = torch.autograd.grad(ours, x, down)
        (theirs,) = torch.autograd.grad(exact, x, [gradient.double() for gradient in down])
        for one, other in zip((*ours, mine), (*exact, theirs), strict=True):
            torch.testing.assert_close(one.double(), other.double(), atol=1e-4, rtol=1e-4)
print("equal")
"""

LOSS = """
for vocabulary in (256, 300):
    core = load(VOCAB_SIZE=vocabulary, SOFTCAP=7.0)
    x, weight = (torch.randn(rows, 64, requires_grad=True) for rows in (50, vocabulary))
    targets = torch.randint(vocabulary, (50,))
    ours = core.CrossEntropy.apply(x, weight, targets)
    exact = F.cross_entropy(7 * torch.tanh(x @ weight.T / 7), targets)
    torch.testing.assert_close(ours, exact)
    for one, other in zip(*(torch.autograd.grad(3 * loss, (x, weight)) for loss in (ours, exact)), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
print("equal")
"""


@pytest.mark.parametrize("code", [ROTATED, LOSS], ids=["rotated_norm", "cross_entropy"])
def test_kernels_are_what_they_stand_for(code: str, tmp_path: Path) -> None:
    (tmp_path / "file.py").write_text(TEXT)
    command = [sys.executable, "-c", CHECK + code, str(tmp_path), str(tmp_path / "file.py")]
    environ = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=environ, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout == "equal\n", done.stderr
