"""The table of models: honest ones are scored, cheats are not believed, broken ones say what is broken."""

import math
import re

import numpy as np
import pytest

from tests.harness import zoo
from tests.harness.scoring import score


@pytest.mark.parametrize("name", zoo.HONEST)
def test_honest_model_is_scored(name, texts, tmp_path):
    result = score(zoo.HONEST[name], tmp_path, texts)
    assert (result.outcome, result.reason) == ("scored", None)
    assert 3.0 < result.value < 5.5
    assert result.value == pytest.approx(result.claim, abs=1e-6)
    assert result.bytes == texts.validation[256].bytes
    assert abs(result.audit.largest) < 0.01


@pytest.mark.parametrize("name", zoo.CHEATS)
def test_cheat_is_not_believed(name, texts, tmp_path):
    result = score(zoo.BIGRAM + zoo.CHEATS[name], tmp_path, texts)
    assert result.outcome == "quarantined"
    assert result.value is None
    assert "information it should not have" in result.reason
    assert result.claim < 3.80, "an honest bigram model has 3.82: this cheat claims less, or it would be none"


@pytest.mark.parametrize("name", zoo.BROKEN)
def test_broken_model_crashes_with_its_reason(name, texts, tmp_path):
    source, reason = zoo.BROKEN[name]
    result = score(zoo.BIGRAM + source, tmp_path, texts, limit=6 if name == "too slow" else 120)
    assert (result.outcome, result.value) == ("crashed", None)
    assert reason in result.reason
    assert "IGNORE" not in result.reason  # never the candidate's own words


def test_model_that_draws_its_predictions_is_not_reproducible(texts, tmp_path):
    result = score(zoo.BIGRAM + zoo.NOISE, tmp_path, texts)
    assert result.outcome == "quarantined"
    assert re.search("does not reproduce|information it should not have", result.reason)  # by what it happens to draw


def test_same_text_same_score_whatever_the_rows_per_batch(texts, tmp_path):
    few, many = (score(zoo.HONEST["gru"], tmp_path / str(rows), texts, rows=rows) for rows in (7, 200))
    assert few.outcome == many.outcome == "scored"
    assert few.targets == many.targets == texts.validation[256].tokens
    assert few.value == pytest.approx(many.value, rel=1e-6)


def test_uniform_model_scores_exactly_log2_of_the_vocabulary(texts, tmp_path):
    uniform = zoo.BIGRAM + "class Model(Bigram):\n    def forward(self, tokens): return 0 * self.table[tokens]\n"
    result = score(uniform, tmp_path, texts)
    assert result.value == pytest.approx(math.log2(256) * result.targets / result.bytes, rel=1e-6)


def test_incumbent_of_another_vocabulary_guides_the_audit(texts, tmp_path):
    """The losses kept beside a score are those of the claim, and serve a challenger with other tokens."""
    first = score(zoo.HONEST["another vocabulary"], tmp_path / "a", texts)
    kept = np.load(tmp_path / "a" / "losses.npz")
    assert kept["losses"].sum(dtype=np.float64) / math.log(2) / first.bytes == pytest.approx(first.claim)
    second = score(
        zoo.BIGRAM + zoo.CHEATS["leak in one row of twenty"],
        tmp_path / "b",
        texts,
        audit=96,
        incumbent=tmp_path / "a" / "losses.npz",
    )
    assert second.outcome == "quarantined"
