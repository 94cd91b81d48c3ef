"""Scoring tried out in the training process, on training text: there, what goes wrong may be shown to whoever wrote it.

What fails in scoring itself fails before held-out text, and is told in the house's own words alone.
"""

import contextlib
import sys
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from autoresearch.harness import candidate
from autoresearch.harness.candidate import Failure
from autoresearch.harness.weights import load
from autoresearch.harness.wire import FAILURES


def rehearse(module: ModuleType, weights: Path, tokens: Tensor, vocab_size: int) -> None:
    """Build the model anew, load the weights, and predict tokens[B, T], as scoring does. Failure if the logits are not
    what they should be; whatever else is raised goes through."""
    device = tokens.device
    if not weights.is_file():
        return  # what has become of it since it was saved is for the house to find
    # Whether there is memory enough is for scoring to find out, which has the device for itself.
    with contextlib.suppress(torch.OutOfMemoryError, MemoryError), _eagerly():
        model = candidate.build(module, device)
        load(model, weights, str(device))
        with torch.no_grad():
            logits = model.eval()(tokens.clone())
        if failure := logits_failure(logits, (*tokens.shape, vocab_size)):
            raise Failure(FAILURES[failure])


def logits_failure(logits: object, shape: tuple[int, ...]) -> int | None:
    """What is wrong with logits that should have this shape [B, T, V], by its number in FAILURES; None: nothing."""
    if not isinstance(logits, Tensor) or logits.ndim != 3 or logits.shape[:2] != shape[:2]:
        return 6
    if logits.shape[2] != shape[2]:
        return 7
    return None if logits.is_floating_point() else 8


def _eagerly() -> contextlib.AbstractContextManager[object]:
    """Without compiling, which would take longer than all the rest; and without importing the compiler for that."""
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else contextlib.nullcontext()
