import pytest
import torch

from tests.harness import zoo


@pytest.fixture(scope="session")
def texts(tmp_path_factory) -> zoo.Texts:
    torch.set_num_threads(1)
    return zoo.texts(tmp_path_factory.mktemp("texts"))
