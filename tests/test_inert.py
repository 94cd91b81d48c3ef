"""What is no experiment is told from what may be one."""

import pytest

from autoresearch.inert import SAME, SEED, inert

OLD = '''"""A file."""
import torch

SEED = 42
LR = 0.1  # [0.01, 1.0] log; a step


def main(run):
    """Train."""
    torch.manual_seed(run.seed)
    generator = torch.Generator().manual_seed(run.seed + SEED)
    return torch.randn(3, generator=generator) * LR
'''


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("LR = 0.1  # [0.01, 1.0] log; a step", "LR = 0.1  # the step", SAME),
        ("LR = 0.1", "LR = 0.10", SAME),
        ('"""Train."""', '"""Train well."""', SAME),
        ('    """Train."""\n', "", SAME),
        ("* LR", "*   (LR)", SAME),
        ("SEED = 42", "SEED = 137", SEED),
        ("torch.manual_seed(run.seed)", "torch.manual_seed(1337)", SEED),
        ("    torch.manual_seed(run.seed)\n", "", SEED),
        ("manual_seed(run.seed + SEED)", "manual_seed(7)", SEED),
        ("import torch\n", "import torch\n\ntorch.manual_seed(1)\n", SEED),
        ("LR = 0.1", "LR = 0.2", None),
        ("randn", "rand", None),
        ("SEED = 42", "SEED = 42\nMORE = 1", None),
        ("SEED = 42", "SEED = 43\nMORE = 1", None),
        ("* LR", "* LR * SEED", None),
        ("import torch", "import torch as", None),  # does not parse: found elsewhere
    ],
)
def test_what_is_no_experiment(old: str, new: str, why: str | None) -> None:
    assert old in OLD
    assert inert(OLD, OLD.replace(old, new)) == why


def test_a_file_too_deep_for_the_parser_may_be_anything() -> None:
    assert inert(OLD, OLD + "x = " + "(" * 5000 + "1" + ")" * 5000) is None
    assert inert("x = " + "-" * 3000 + "1", "x = " + "-" * 3001 + "1") is None
