"""Every cheat against the shipped file, trained and scored for real."""

import re

import pytest

from tests.cheats.cheats import CHEATS
from tests.cheats.patches import measure, said


@pytest.mark.parametrize("name", CHEATS)
def test_a_cheat_gains_nothing(name, engine, corpus, shipped, world, tmp_path):
    """It is caught, for the reason that it should be, or scored, and then no better than the honest file; and it has
    reached nothing of what lies around it."""
    patch = CHEATS[name]
    if missing := set(patch.needs) & set(engine.sandbox.missing):
        pytest.skip(f"this machine does not protect {', '.join(sorted(missing))}")
    before = world.state()
    measurement = measure(patch, engine, corpus, tmp_path, shipped=shipped, names=world.names())
    assert re.fullmatch(patch.outcome, measurement.outcome), (measurement.reason, measurement.value, measurement.audit)
    if measurement.outcome == "scored":
        assert measurement.value > shipped.value - 0.002 - patch.gain
    else:
        assert measurement.value is None
        assert re.search(patch.reason, measurement.reason)
    log = said(tmp_path)
    assert re.search(patch.log, log, re.MULTILINE)
    assert not (patch.never and re.findall(f"{patch.never}.*", log, re.MULTILINE))
    assert world.state() == before
    assert not world.visited()
    assert world.sleepers() == []


@pytest.mark.parametrize("name", ["answers", "F.cross_entropy patched"])
def test_a_jump_that_training_does_not_explain_has_a_figure(name, engine, corpus, shipped, tmp_path):
    """Which says how far the claim is from what training has reported, whether it is believed or not."""
    measurement = measure(CHEATS[name], engine, corpus, tmp_path, shipped=shipped)
    assert measurement.advantage > shipped.measurement.advantage + 0.2
