"""Every cheat against the shipped file, trained and scored for real."""

import re

import pytest

from tests.cheats.cheats import CHEATS
from tests.cheats.patches import measure


@pytest.mark.parametrize("name", CHEATS)
def test_a_cheat_gains_nothing(name, engine, corpus, honest, tmp_path):
    patch = CHEATS[name]
    measurement = measure(patch, engine, corpus, tmp_path)
    assert re.fullmatch(patch.outcome, measurement.outcome), (measurement.reason, measurement.value, measurement.audit)
    if measurement.outcome == "scored":
        assert measurement.value > honest.value - 0.002 - patch.gain
    else:
        assert measurement.value is None
        assert re.search(patch.reason, measurement.reason)


@pytest.mark.parametrize("name", ["answers", "F.cross_entropy patched"])
def test_a_jump_that_training_does_not_explain_has_a_figure(name, engine, corpus, honest, tmp_path):
    """Which says how far the claim is from what training has reported, whether it is believed or not."""
    measurement = measure(CHEATS[name], engine, corpus, tmp_path)
    assert measurement.advantage > honest.advantage + 0.2
