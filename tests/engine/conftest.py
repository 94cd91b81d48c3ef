import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from autoresearch.engine.forkserver import ForkServer
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


class Lent:
    """A fork server that is not its engine's own, and goes on when that is closed."""

    def __init__(self, server: ForkServer) -> None:
        self.forks, self.check, self.end, self.pid = server.forks, server.check, server.end, server.pid

    def close(self) -> None:
        pass


@pytest.fixture(scope="session")
def lend(tmp_path_factory):
    """In place of a fork server of one's own, which takes seconds to start: one for each kind of sandbox, and another
    once a test has ended it."""
    servers = {}

    def lend(
        device: str,
        scratch: Path,
        environ: Mapping[str, str],
        mechanisms: Callable[[], Sequence[str]],
        replaceable: bool = False,
        begun: None = None,
    ) -> Lent:
        with contextlib.suppress(OSError):  # which a measurement says
            scratch.mkdir(parents=True, exist_ok=True)
        kind = tuple(mechanisms())
        if kind in servers and not servers[kind].forks.alive():
            servers.pop(kind).close()
        if kind not in servers:
            server = ForkServer(device, tmp_path_factory.mktemp("servers"), environ, mechanisms, replaceable)
            while not server.forks.ready and server.forks.alive():
                server.forks.wait(1.0)  # or a test's own limits would have to do for its imports, too
            servers[kind] = server
        return Lent(servers[kind])

    yield lend
    for server in servers.values():
        server.close()


@pytest.fixture
def own_engine(tmp_path):
    """Makes an engine with a fork server of its own."""

    def make(device: str = "cpu", **options) -> LocalEngine:
        environ = {**os.environ, "OMP_NUM_THREADS": "1", "ANTHROPIC_API_KEY": "sesame", "HF_TOKEN": "sesame"}
        return LocalEngine(tmp_path / "scratch", environ, "run", device, **options)

    return make


@pytest.fixture
def engine(own_engine, lend, monkeypatch):
    """Makes an engine."""
    monkeypatch.setattr("autoresearch.engine.local.ForkServer", lend)
    return own_engine
