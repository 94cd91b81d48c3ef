from itertools import islice

import numpy as np
import pytest
import torch

from autoresearch.harness.data import TrainingData
from autoresearch.records import TokenFile

CPU = torch.device("cpu")


@pytest.fixture
def numbers(tmp_path) -> TokenFile:
    """A stream in which each token is its own place, and large enough to need all sixteen bits."""
    np.arange(60_000, dtype="<u2").tofile(tmp_path / "tokens.bin")
    return TokenFile(str(tmp_path / "tokens.bin"), 60_001, 60_000, 60_000, 60_000, "")


def test_rows_begin_with_bos_and_targets_are_the_next_tokens(numbers):
    inputs, targets = TrainingData(numbers, 0, CPU).batch(7, 50)
    assert inputs.dtype == targets.dtype == torch.int64
    assert inputs.shape == targets.shape == (7, 50)
    assert (inputs[:, 0] == 60_000).all()
    assert (inputs[:, 1:] == targets[:, :-1]).all()
    assert (targets.diff(dim=1) % 60_000 == 1).all()


def test_an_epoch_has_each_token_once_as_a_target(numbers):
    data = TrainingData(numbers, 0, CPU)
    epochs = [torch.cat([data.batch(8, 100)[1] for _ in range(75)]) for _ in range(2)]
    for epoch in epochs:
        assert (epoch.flatten().bincount() == 1).all()
    assert (epochs[0] != epochs[1]).any()


def test_the_seed_decides_the_order(numbers):
    first, same, other = (TrainingData(numbers, seed, CPU).batch(4, 10)[1] for seed in (3, 3, 4))
    assert (first == same).all()
    assert (first != other).any()


def test_two_contexts_share_one_stream(numbers):
    data = TrainingData(numbers, 0, CPU)
    assert data.batch(2, 10)[0].shape == (2, 10)
    assert data.batch(3, 70_000)[0].shape == (3, 70_000)  # longer than the stream: it is a ring
    assert data.batch(2, 10)[0].shape == (2, 10)


def test_warmup_batches_hold_nothing_of_the_text(numbers):
    inputs, targets = next(islice(TrainingData(numbers, 0, CPU).warmup(16, 50), 3, None))
    assert inputs.shape == targets.shape == (16, 50)
    assert (inputs[:, 1:] == targets[:, :-1]).all()
    assert (targets.diff(dim=1) == 1).float().mean() < 0.01
    assert targets.min() >= 0 and 32767 < targets.max() < 60_001


def test_warmup_changes_nothing_of_what_follows(numbers):
    warmed = TrainingData(numbers, 3, CPU)
    list(islice(warmed.warmup(4, 10), 3))
    for ours, theirs in zip(warmed.batch(4, 10), TrainingData(numbers, 3, CPU).batch(4, 10), strict=True):
        assert torch.equal(ours, theirs)
