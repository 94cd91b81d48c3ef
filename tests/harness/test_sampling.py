import numpy as np
import pytest

from autoresearch.harness import sampling


def losses(size):
    random = np.random.default_rng(1)
    return random.gamma(1.0, 2.0, size), random.gamma(1.0, 2.0, size)


@pytest.mark.parametrize("audit", [16, 64, 10_000])
def test_one_target_a_row_and_no_row_twice(audit):
    incumbent, claim = losses(1003)
    sample = sampling.draw(incumbent, claim, 10, audit, np.random.default_rng(0))
    assert len(sample.rows) == min(audit, 101)
    assert len(set(sample.rows)) == len(sample.rows)
    assert (sample.rows * 10 + sample.places < 1003).all()  # never the padding of the last row
    assert (sample.places >= 0).all()
    assert (sample.places < 10).all()


def test_weights_undo_the_uneven_chances():
    """Whatever is measured at the places drawn, its weighted mean estimates the mean over all targets."""
    incumbent, claim = losses(4000)
    values = incumbent**2  # as uneven as the chances themselves
    random = np.random.default_rng(2)
    estimates = []
    for _ in range(400):
        sample = sampling.draw(incumbent, claim, 20, 50, random)
        estimates.append((sample.weights * values[sample.rows * 20 + sample.places]).sum() / len(values))
    error = np.std(estimates) / 20
    assert np.mean(estimates) == pytest.approx(values.mean(), abs=4 * error)


def test_large_claimed_gains_are_looked_at_first():
    incumbent, claim = np.full(10_000, 2.0), np.full(10_000, 2.0)
    claim[::100] = 0.0  # one target in a hundred claims all the gain
    sample = sampling.draw(incumbent, claim, 10, 200, np.random.default_rng(0))
    assert ((sample.rows * 10 + sample.places) % 100 == 0).mean() > 0.3
