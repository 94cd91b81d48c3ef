import os
from pathlib import Path

import pytest

from autoresearch.engine.local import LocalEngine
from autoresearch.records import CorpusView, Kept, Trial
from autoresearch.settings import Settings
from tests.harness import zoo

TRAIN = (
    zoo.BIGRAM
    + """
class Model(Bigram): pass


def main(run):
    model = build_model(run.device)
    run.start(model)
    for inputs, targets in run.batches(8, CONTEXT):
        loss = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
        loss.backward()
        with torch.no_grad():
            model.table -= 100 * model.table.grad
        model.table.grad = None
        run.report(loss)
    run.save(model)
"""
)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> CorpusView:
    texts = zoo.texts(tmp_path_factory.mktemp("texts"), 10_000)
    return CorpusView("fingerprint", texts.train[256], texts.validation[256])


def kept(folder: Path) -> Kept:
    names = ("weights.safetensors", "losses.npz", "train-cache", "open-cache")
    return Kept(*(str(folder / name) for name in names))


@pytest.fixture
def trial(corpus, tmp_path):
    def make(source: str = TRAIN, deadline: float | None = None, **settings) -> Trial:
        values = {"budget": 60.0, "max_steps": 20, "startup_limit": 60.0, "vocab_sizes": (256,), "audit": 32}
        return Trial(
            source=source,
            seed=11,
            vocab_size=256,
            context=32,
            corpus=corpus,
            settings=Settings(**(values | settings)),
            logs=str(tmp_path / "logs"),
            keep=kept(tmp_path / "kept"),
            deadline=deadline,
        )

    return make


@pytest.fixture
def engine(tmp_path):
    def make(**options) -> LocalEngine:
        environ = {**os.environ, "OMP_NUM_THREADS": "1", "ANTHROPIC_API_KEY": "sesame", "HF_TOKEN": "sesame"}
        return LocalEngine(tmp_path / "scratch", environ, "run", device="cpu", **options)

    return make
