import pytest
import torch

from autoresearch.harness.wake import wake


def test_without_cuda_there_is_nothing_to_do():
    assert wake(torch.device("cpu"), training=True) is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("training", [False, True])
def test_no_random_number_is_drawn(training):
    torch.manual_seed(7)
    before = torch.cuda.get_rng_state(), torch.get_rng_state()
    thread = wake(torch.device("cuda"), training)
    assert thread is not None
    thread.join()
    for state, then in zip((torch.cuda.get_rng_state(), torch.get_rng_state()), before, strict=True):
        assert torch.equal(state, then)
