import io

import numpy as np
import pytest

from autoresearch.harness import sampling, validation


def losses(size):
    random = np.random.default_rng(1)
    return random.gamma(1.0, 2.0, size), random.gamma(1.0, 2.0, size)


@pytest.mark.parametrize("audit", [16, 64, 10_000])
def test_one_target_a_row_and_no_row_twice(audit):
    incumbent, claim = losses(1003)
    sample = sampling.draw(sampling.Chances.of(incumbent, claim, 10), audit, np.random.default_rng(0))
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
        sample = sampling.draw(sampling.Chances.of(incumbent, claim, 20), 50, random)
        estimates.append((sample.weights * values[sample.rows * 20 + sample.places]).sum() / len(values))
    error = np.std(estimates) / 20
    assert np.mean(estimates) == pytest.approx(values.mean(), abs=4 * error)


def test_large_claimed_gains_are_looked_at_first():
    incumbent, claim = np.full(10_000, 2.0), np.full(10_000, 2.0)
    claim[::100] = 0.0  # one target in a hundred claims all the gain
    sample = sampling.draw(sampling.Chances.of(incumbent, claim, 10), 200, np.random.default_rng(0))
    assert ((sample.rows * 10 + sample.places) % 100 == 0).mean() > 0.3


def plainly(incumbent, claim, context, size, random):
    """What `draw` does, in double precision and over the whole table."""

    def shares(values):
        return values / values.sum() if values.sum() > 0 else np.full(len(values), 1 / len(values))

    gain = np.maximum(incumbent - claim, 0)
    chance = 0.45 * shares(incumbent) + 0.45 * shares(gain) + 0.1 / len(claim)
    rows = -(-len(claim) // context)
    grid = np.concatenate([chance, np.zeros(rows * context - len(claim))]).reshape(rows, context)
    drawn = sampling._inclusion(grid.sum(axis=1), min(size, rows))
    chosen = sampling._systematic(drawn, random)
    places = [np.searchsorted(row, random.random() * row[-1], side="right") for row in grid[chosen].cumsum(axis=1)]
    return chosen, np.array(places), grid.sum(axis=1)[chosen] / (drawn[chosen] * grid[chosen, places])


@pytest.mark.parametrize("size", [1000, 1003])
@pytest.mark.parametrize("better", [0.0, 1.0])  # a claim that is worse throughout gains nothing anywhere
def test_drawn_as_the_formula_says(size, better):
    incumbent, claim = (values.astype(np.float32) for values in losses(size))
    claim = claim if better else incumbent + 1
    sample = sampling.draw(sampling.Chances.of(incumbent, claim, 10), 40, np.random.default_rng(3))
    rows, places, weights = plainly(incumbent.astype(float), claim.astype(float), 10, 40, np.random.default_rng(3))
    assert (sample.rows == rows).all()
    assert (sample.places == places).all()
    assert sample.weights == pytest.approx(weights, rel=1e-5)


@pytest.fixture
def kept(texts, tmp_path):
    """What a model of pairs has lost on the text, as it is kept."""
    text = validation.read(texts.validation[1024], 32, 10**9)
    lost = np.random.default_rng(1).gamma(1.0, 2.0, text.targets).astype(np.float32)
    with (tmp_path / "losses.npz").open("wb") as file:
        sampling.save(file, text, lost, 1.5, "a")
    return text, lost, tmp_path / "losses.npz"


def test_the_incumbents_losses_come_back_as_they_were(kept):
    text, lost, path = kept
    incumbent = sampling.incumbent(str(path), text, "a")
    assert (incumbent.losses == lost).all() and incumbent.seconds == 1.5
    assert sampling.incumbent(str(path), text, "another machine").seconds is None


def test_of_an_earlier_version_no_time_is_known(kept, tmp_path):
    text, lost, _ = kept
    np.savez(tmp_path / "earlier.npz", sizes=text.sizes, losses=lost)
    incumbent = sampling.incumbent(str(tmp_path / "earlier.npz"), text, "a")
    assert (incumbent.losses == lost).all() and incumbent.seconds is None


def test_losses_are_spread_over_the_bytes_of_another_vocabulary(texts, kept):
    pairs, lost, path = kept
    text = validation.read(texts.validation[256], 48, 10**9)
    spread, seconds = sampling.incumbent(str(path), text, "a")
    assert len(spread) == text.targets
    assert seconds == pytest.approx(1.5 * text.targets / len(lost))
    assert spread.sum() == pytest.approx(lost.sum(dtype=float), rel=1e-6)
    first = spread[: max(1, pairs.sizes[0])]  # of the bytes of the first pair
    assert first == pytest.approx(np.full(len(first), lost[0] / len(first)), rel=1e-6)


def forms(text, lost):
    """Files that are not what is kept of this text, by name."""

    def npz(**arrays):
        file = io.BytesIO()
        np.savez(file, **arrays)
        return file.getvalue()

    whole = npz(sizes=text.sizes, losses=lost)
    return {
        "cut short": whole[: len(whole) // 2],
        "empty": b"",
        "something else": b"no archive at all",
        "one array": npz(losses=lost),
        "places as numbers in double precision": npz(places=np.arange(len(lost) + 1.0), losses=lost),
        "times": npz(sizes=text.sizes, losses=lost, seconds=np.array([1.0, 2.0])),
        "other types": npz(sizes=text.sizes.astype(float), losses=lost),
        "another text": npz(sizes=text.sizes[:-1], losses=lost[:-1]),
        "not numbers": npz(sizes=text.sizes, losses=lost * np.float32("nan")),
        "no array at all": npz(sizes=np.array(3), losses=np.array(2.0)),
    }


def test_a_file_that_is_no_such_losses_is_as_good_as_none(kept, tmp_path):
    text, lost, _ = kept
    expected = sampling.unigram(text)
    for name, data in forms(text, lost).items():
        (tmp_path / "other.npz").write_bytes(data)
        assert (sampling.incumbent(str(tmp_path / "other.npz"), text, "a").losses == expected).all(), name
    assert (sampling.incumbent(str(tmp_path / "nowhere.npz"), text, "a").losses == expected).all()
