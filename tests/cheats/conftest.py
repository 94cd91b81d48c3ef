from collections.abc import Iterator

import pytest

from autoresearch.engine.local import LocalEngine
from autoresearch.records import CorpusView
from tests.cheats.patches import Shipped, make_corpus, make_engine, measure_shipped
from tests.cheats.world import World, make_world


@pytest.fixture(scope="session")
def engine(tmp_path_factory) -> Iterator[LocalEngine]:
    engine = make_engine(tmp_path_factory.mktemp("scratch"))
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> CorpusView:
    return make_corpus(tmp_path_factory.mktemp("texts"))


@pytest.fixture(scope="session")
def shipped(engine, corpus, tmp_path_factory) -> Shipped:
    """What a patch is to better."""
    return measure_shipped(engine, corpus, tmp_path_factory.mktemp("shipped"))


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> Iterator[World]:
    with make_world(tmp_path_factory.mktemp("world")) as world:
        yield world
