"""Operators for Hopper GPUs, where there is one."""

import importlib

import pytest
import torch

HOPPER = torch.cuda.is_available() and torch.cuda.get_device_capability()[0] == 9


@pytest.fixture(autouse=True)
def operators() -> None:
    if not HOPPER:
        pytest.skip("no Hopper GPU")
    importlib.import_module("autoresearch.harness.hopper")
