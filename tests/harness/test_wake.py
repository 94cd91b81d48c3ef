import threading

import pytest
import torch
from torch import nn

from autoresearch.harness.wake import wake


def test_without_cuda_there_is_nothing_to_do():
    threads = threading.active_count()
    wake(torch.device("cpu"), nn.Linear(2, 3, device="meta"))()
    assert threading.active_count() == threads


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("trained", [None, nn.Linear(2, 3, device="meta")])
def test_no_random_number_is_drawn(trained):
    torch.manual_seed(7)
    before = torch.cuda.get_rng_state(), torch.get_rng_state()
    torch.cuda.reset_peak_memory_stats()
    allocated = torch.cuda.memory_allocated()
    wake(torch.device("cuda"), trained)()
    attention = 2 * 1024 * 2 * 128 * 2  # bytes of what goes in and of what comes out: so it was reached
    assert torch.cuda.max_memory_allocated() >= allocated + attention
    for state, then in zip((torch.cuda.get_rng_state(), torch.get_rng_state()), before, strict=True):
        assert torch.equal(state, then)
