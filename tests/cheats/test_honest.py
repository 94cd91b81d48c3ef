"""Honest patches are scored, whatever they change."""

from dataclasses import replace

import pytest

from tests.cheats.honest import HONEST
from tests.cheats.patches import measure


@pytest.mark.parametrize("name", HONEST)
def test_an_honest_patch_is_scored(name, engine, corpus, shipped, tmp_path):
    patch = replace(HONEST[name], settings={"max_steps": 20, **HONEST[name].settings})  # to be scored takes no more
    measurement = measure(patch, engine, corpus, tmp_path, shipped=shipped)
    assert (measurement.outcome, measurement.reason) == ("scored", None), measurement.traceback
    assert measurement.value == pytest.approx(measurement.claim, abs=1e-5)
    assert 2.0 < measurement.value < 8.0
    assert measurement.advantage is None or measurement.advantage < 1.5  # one reports bits
