import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from autoresearch import knobs
from tests.train_core.cores import TEXT, TINY


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def load(tmp_path: Path):
    """Imports the core by path with some knobs set, as an experiment does."""
    names: list[str] = []

    def loaded(changes: dict[str, knobs.Value] | None = None, source: str = TEXT, **more: knobs.Value) -> ModuleType:
        name = f"core_{tmp_path.name}_{len(names)}"
        path = tmp_path / f"{name}.py"
        path.write_text(knobs.assign(source, {**TINY, "BATCH_ROWS": 8, **(changes or {}), **more}))
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        names.append(name)
        spec.loader.exec_module(module)
        return module

    yield loaded
    for name in names:
        del sys.modules[name]
    if torch.cuda.is_available():
        torch._dynamo.reset()  # so that no test counts what another has compiled
