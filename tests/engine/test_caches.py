"""What compilers leave: private copies, two chains that never meet, and nothing but plain files."""

import contextlib
import json
import os
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from autoresearch import compilers
from autoresearch.engine import caches
from autoresearch.engine.sandbox import OFF
from tests.engine.conftest import TRAIN, kept


@pytest.fixture
def compiled(tmp_path):
    """A kept cache with a file in a folder, and where it is to be lent to."""
    (tmp_path / "made" / "inductor").mkdir(parents=True)
    (tmp_path / "made" / "inductor" / "kernel.py").write_text("compiled")
    caches.keep(caches.packed(tmp_path / "made"), str(tmp_path / "kept"))
    return tmp_path / "kept", tmp_path / "lent"


@contextlib.contextmanager
def changed(kept: Path) -> Iterator[Path]:
    """The files of a kept cache in a folder; it is kept anew as they are in the end."""
    made = kept.with_name("changed")
    caches.lend(str(kept), made)
    yield made
    caches.keep(caches.packed(made), str(kept))


def found(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


def packed(kept: Path | str) -> list[str]:
    """What a kept cache has: it is one file, whose name nobody can guess."""
    [hidden] = Path(kept).iterdir()
    assert len(hidden.name) == 32
    with tarfile.open(hidden) as archive:
        return sorted(archive.getnames())


def test_a_copy_is_where_the_compilers_look_and_of_its_own(compiled):
    source, lent = compiled
    caches.lend(str(source), lent)
    copy = Path(compilers.variables(lent)["TORCHINDUCTOR_CACHE_DIR"]) / "kernel.py"
    assert copy.read_text() == "compiled"
    copy.write_text("poisoned")
    with changed(source) as made:
        assert (made / "inductor" / "kernel.py").read_text() == "compiled"


def test_only_plain_files_are_copied(compiled, tmp_path):
    source, lent = compiled
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "text").write_text("held out")
    with changed(source) as made:
        (made / "link").symlink_to(tmp_path / "secret" / "text")
        (made / "inductor" / "folder").symlink_to(tmp_path / "secret")
        os.mkfifo(made / "pipe")
    caches.lend(str(source), lent)
    assert found(lent) == ["inductor/kernel.py"]


def test_a_link_in_place_of_a_cache_is_none(compiled, tmp_path):
    source, lent = compiled
    (tmp_path / "link").symlink_to(source)
    caches.lend(str(tmp_path / "link"), lent)
    assert not lent.exists()
    lent.symlink_to(source)
    caches.keep(caches.packed(lent), str(tmp_path / "taken"))
    assert not (tmp_path / "taken").exists()


GROUPS = {  # what a list of a kernel's files says in the kept cache, and in the copy; None: there it is gone
    "as triton writes it": ('{"child_paths": {"k.ptx": "/old/K/k.ptx"}}', ["k.ptx"]),
    "without places": ('{"child_paths": ["k.ptx", "k.json"]}', ["k.ptx", "k.json"]),
    "files elsewhere": ('{"child_paths": {"../../k.ptx": "/etc/k.ptx"}}', ["k.ptx"]),
    "nothing of it": ("[]", None),
    "no files": ('{"child_paths": 3}', None),
    "no names": ('{"child_paths": [3]}', None),
    "broken": ('{"child_paths": {', None),
    "deep": ("[" * 100_000, None),
    "not text": (b"\xff\xfe\x00", None),
    "long": ('{"child_paths": {}}' + " " * 10**6, None),
}


@pytest.mark.parametrize("name", GROUPS)
def test_a_kernels_files_are_looked_for_in_the_copy(name, compiled):
    (source, lent), (text, names) = compiled, GROUPS[name]
    with changed(source) as made:
        (made / "triton" / "K").mkdir(parents=True)
        (made / "triton" / "K" / "__grp__k.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    caches.lend(str(source), lent)
    copy = Path(compilers.variables(lent)["TRITON_CACHE_DIR"]) / "K"
    if names is None:
        assert list(copy.iterdir()) == []
    else:
        expected = {name: str(copy / name) for name in names}
        assert json.loads((copy / "__grp__k.json").read_text()) == {"child_paths": expected}


@pytest.mark.parametrize("cache", [None, "nowhere"])
def test_without_a_cache_no_folder_is_made(cache, compiled, tmp_path):
    _, lent = compiled
    caches.lend(cache and str(tmp_path / cache), lent)
    caches.keep(caches.packed(lent), str(tmp_path / "taken"))
    assert not lent.exists()
    assert not (tmp_path / "taken").exists()


def test_one_that_is_too_large_is_dropped(compiled, tmp_path, monkeypatch):
    _, lent = compiled
    lent.mkdir()
    with (lent / "hole").open("wb") as file:
        file.truncate(caches.LARGEST + 1)
    caches.keep(caches.packed(lent), str(tmp_path / "taken"))
    assert not (tmp_path / "taken").exists()
    (lent / "hole").unlink()
    monkeypatch.setattr(caches, "LARGEST", 10**5)
    for number in range(10):
        (lent / f"{number}").touch()  # many small ones are too much, too
    caches.keep(caches.packed(lent), str(tmp_path / "taken"))
    assert not (tmp_path / "taken").exists()


def test_one_that_is_too_deep_is_dropped(compiled, tmp_path):
    _, lent = compiled
    deepest = lent / "/".join("d" * 50)
    deepest.mkdir(parents=True)
    (deepest / "file").touch()
    caches.keep(caches.packed(lent), str(tmp_path / "taken"))
    assert not (tmp_path / "taken").exists()


def test_a_kept_cache_that_is_damaged_is_none(compiled):
    source, lent = compiled
    [hidden] = source.iterdir()
    whole = hidden.read_bytes()
    for damaged in (b"", b"no archive", whole[:700], whole[:100]):
        hidden.write_bytes(damaged)
        caches.lend(str(source), lent)
        assert not lent.exists()


def test_what_is_kept_takes_the_place_of_what_was(compiled, tmp_path):
    source, lent = compiled
    lent.mkdir()
    (lent / "new").touch()
    caches.keep(caches.packed(lent), str(source))
    assert packed(source) == ["new"]


# Writes into its cache wherever it runs, and says what it had found there.
COMPILES = (
    "import os\n"
    "place = os.environ['TORCHINDUCTOR_CACHE_DIR']\n"
    "os.makedirs(place, exist_ok=True)\n"
    "print('FOUND', *sorted(os.listdir(place)), flush=True)\n"
    "task = 'training' if os.path.basename(os.getcwd()) == 'train' else 'scoring'\n"
    "open(f'{place}/{task}-{NAME}', 'w').close()\n"
)


def said(logs: Path, name: str) -> list[list[str]]:
    """What each process of a log has found in its cache, in the order of time."""
    return [line.split()[1:] for line in (logs / name).read_text().splitlines() if line.startswith("FOUND")]


def test_two_chains_that_never_meet(engine, trial, tmp_path):
    """The first run begins with nothing; a second gets what the first has left; what they lose is gone."""
    logs, first, second = tmp_path / "logs", kept(tmp_path / "first"), kept(tmp_path / "second")
    engine = engine()
    code = TRAIN + COMPILES
    begun = replace(trial(code.replace("{NAME}", "1")), keep=first)
    assert engine.measure(begun).outcome == "scored"
    assert said(logs, "train.log") == [[]]
    assert said(logs, "score.log") == [[], ["scoring-1"]]  # the open process, and the sealed one
    assert packed(first.train_cache) == ["inductor/training-1"]
    assert packed(first.open_cache) == ["inductor/scoring-1"]

    next = replace(trial(code.replace("{NAME}", "2")), keep=second, tip=first)
    assert engine.measure(next).outcome == "scored"
    assert said(logs, "train.log") == [["training-1"]]
    assert said(logs, "score.log") == [["scoring-1"], ["scoring-1", "scoring-2"]]
    assert packed(second.train_cache) == ["inductor/training-1", "inductor/training-2"]
    assert packed(second.open_cache) == ["inductor/scoring-1", "inductor/scoring-2"]
    assert packed(first.train_cache) == ["inductor/training-1"]

    again = replace(trial(code.replace("{NAME}", "3")), keep=None, tip=second)  # as a replay does
    assert engine.measure(again).outcome == "scored"
    assert said(logs, "train.log") == [["training-1", "training-2"]]
    assert packed(second.train_cache) == ["inductor/training-1", "inductor/training-2"]


LATE = """
        import os
        if torch.is_inference_mode_enabled() and os.path.exists('../weights/weights.safetensors'):
            open(os.environ['TORCHINDUCTOR_CACHE_DIR'] + '/late', 'w').close()
        return self.table[tokens]
"""


def test_what_an_open_process_compiles_when_it_knows_text_goes_with_it(engine, trial, tmp_path):
    first = kept(tmp_path / "first")
    code = TRAIN.replace("\n        return self.table[tokens]\n", LATE) + COMPILES.replace("{NAME}", "1")
    assert engine().measure(replace(trial(code), keep=first)).outcome == "scored"
    assert said(tmp_path / "logs", "score.log") == [[], ["scoring-1"]]
    assert packed(first.open_cache) == ["inductor/scoring-1"]


def test_what_training_writes_when_it_has_the_text_goes_with_it(engine, trial, tmp_path):
    """Or the next one could read it before its clock starts. Many files take their time to be packed."""
    first = kept(tmp_path / "first")
    code = TRAIN + COMPILES.replace("{NAME}", "1")
    writes = "    for n in range(300): open(f'{place}/{n:03}', 'w').close()\n"
    writes += "    run.start(model)\n    open(f'{place}/z', 'w')\n"
    code = code.replace("    run.start(model)\n", writes)
    assert engine().measure(replace(trial(code), keep=first)).outcome == "scored"
    assert packed(first.train_cache) == [*(f"inductor/{n:03}" for n in range(300)), "inductor/training-1"]


def test_a_file_that_goes_while_it_is_packed_costs_no_other(tmp_path, monkeypatch):
    for name in "abc":
        (tmp_path / name).touch()
    opened = caches.open_plain
    monkeypatch.setattr(caches, "open_plain", lambda name, folder: opened("gone" if name == "b" else name, folder))
    caches.keep(caches.packed(tmp_path), str(tmp_path / "kept"))
    assert packed(tmp_path / "kept") == ["a", "c"]


def test_what_is_not_scored_leaves_no_cache(engine, trial, tmp_path):
    failing = "return self.table[tokens] / (not torch.is_inference_mode_enabled())"
    code = TRAIN.replace("return self.table[tokens]", failing) + COMPILES.replace("{NAME}", "1")
    measurement = engine().measure(trial(code))
    assert (measurement.outcome, measurement.phase) == ("crashed", "score")
    assert said(tmp_path / "logs", "score.log") == [[]]
    assert not (tmp_path / "kept").exists()


# Scoring has seen held-out text: it writes where the next training would look, were its cache still there.
POISONS = """
if task == 'scoring':
    beside = os.path.join(place, '..', '..', 'train', 'inductor')
    os.makedirs(beside, exist_ok=True)
    open(f'{beside}/poison', 'w').close()
"""


def test_scoring_finds_no_cache_of_training_beside_its_own(engine, trial, tmp_path):
    first = kept(tmp_path / "first")
    code = TRAIN + COMPILES.replace("{NAME}", "1") + POISONS
    engine = engine(sandbox=OFF)  # in which it cannot write there
    assert engine.measure(replace(trial(code), keep=first)).outcome == "scored"
    assert packed(first.train_cache) == ["inductor/training-1"]
    assert engine.measure(replace(trial(TRAIN + COMPILES.replace("{NAME}", "2")), tip=first)).outcome == "scored"
    assert said(tmp_path / "logs", "train.log") == [["training-1"]]
