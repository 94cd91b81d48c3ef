"""Real processes that are killed, interrupted, run at once, or run out of disk."""

import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from autoresearch.corpus import shards, store
from autoresearch.corpus.manifest import Layout, load
from autoresearch.corpus.prepare import prepare
from autoresearch.corpus.store import Corpus
from autoresearch.errors import CorpusError
from autoresearch.units import format_size
from tests.corpus.conftest import SIZES, files_below, write_documents

PREPARE = """
import os, resource, signal, sys
from pathlib import Path
from autoresearch.corpus.prepare import prepare
from autoresearch.errors import CorpusError

spec, cache, at, signum, limit, *sizes = sys.argv[1:]
if int(limit):
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
steps = 0

def step(*_):
    global steps
    steps += 1
    if steps == int(at):
        os.kill(os.getpid(), int(signum))

sys.addaudithook(lambda event, _: step() if event == "os.rename" else None)  # so also between a file and its manifest

try:
    prepare(spec, [int(size) for size in sizes], Path(cache), step)
except CorpusError as error:
    sys.exit(str(error))
print(steps)
"""


def command(
    folder: Path, cache: Path, *sizes: int, at: int = 0, signum: int = signal.SIGKILL, limit: int = 0
) -> list[str]:
    arguments = [folder, cache, at, int(signum), limit, *sizes]
    return [sys.executable, "-c", PREPARE, *map(str, arguments)]


def run(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, capture_output=True, text=True, timeout=60)


def assert_nothing_half_written(folder: Path, cache: Path) -> None:
    """Whatever an opened corpus lists is whole; without a manifest it counts as not prepared."""
    try:
        store.verify(store.open(str(folder), cache))
    except CorpusError as error:
        assert "is not prepared" in error.message


def test_killed_at_any_point_it_goes_on_and_ends_with_the_same_files(
    prepared: Corpus, folder: Path, tmp_path: Path
) -> None:
    draw = random.Random(1)
    kills = 0
    for at in [1, 40, 65, 70, 132, 136, *(draw.randint(1, 6) for _ in range(30))]:
        done = run(command(folder, tmp_path, *SIZES, at=at))
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        kills += done.returncode != 0
        assert_nothing_half_written(folder, tmp_path)
        if done.returncode == 0:
            break
    assert kills >= 8
    assert files_below(prepare(str(folder), SIZES, tmp_path).root) == files_below(prepared.root)


def test_interrupted_from_the_keyboard_it_leaves_no_partial_file(
    prepared: Corpus, folder: Path, tmp_path: Path
) -> None:
    for at in (20, 100, 1, 5):
        done = run(command(folder, tmp_path, *SIZES, at=at, signum=signal.SIGINT))
        assert done.returncode != 0 and "KeyboardInterrupt" in done.stderr
        assert not list(tmp_path.rglob("*.partial")) and not list(tmp_path.rglob("source.txt"))
        assert_nothing_half_written(folder, tmp_path)
    assert files_below(prepare(str(folder), SIZES, tmp_path).root) == files_below(prepared.root)


def test_several_prepares_at_once_make_one_corpus(prepared: Corpus, folder: Path, tmp_path: Path) -> None:
    children = [subprocess.Popen(command(folder, tmp_path, *sizes)) for sizes in (SIZES, SIZES[::-1], SIZES[:1])]
    assert [child.wait(60) for child in children] == [0, 0, 0]
    (root,) = (tmp_path / "corpora").iterdir()
    assert {k: v for k, v in files_below(root).items() if k != "manifest.json"} == {
        k: v for k, v in files_below(prepared.root).items() if k != "manifest.json"
    }
    store.verify(store.open(str(folder), tmp_path))


def finished_files(root: Path) -> dict[Path, tuple[int, int]]:
    manifest = load(Layout(root))
    assert manifest, "the text was to be finished"
    stats = {path: path.stat() for path in root.rglob("*.txt")}
    return {path: (stat.st_ino, stat.st_mtime_ns) for path, stat in stats.items()}


def test_a_file_that_may_not_grow_is_one_clear_error_and_keeps_what_is_finished(folder: Path, tmp_path: Path) -> None:
    text = sum(path.stat().st_size for path in folder.iterdir())
    done = run(command(folder, tmp_path, 256, limit=int(text * 1.2)))  # enough for the text, not for 2 bytes a token
    (root,) = (tmp_path / "corpora").iterdir()
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"The disk is full: preparing {folder} in {root} needs about ")
    assert "Free as much" in done.stderr and "autoresearch prepare" in done.stderr
    assert not list(root.rglob("*.partial"))
    finished = finished_files(root)
    corpus = prepare(str(folder), [256], tmp_path)
    assert finished_files(root) == finished
    store.verify(corpus)


@pytest.mark.skipif(not shutil.which("unshare"), reason="needs a file system of its own")
@pytest.mark.parametrize(("share", "text_done"), [(0.5, False), (1.5, False), (2.5, True)])
def test_a_full_disk_is_one_clear_error(tmp_path: Path, share: float, text_done: bool) -> None:
    # The text is there twice while it is split; then once, with two bytes a token beside it.
    folder, disk, after = tmp_path / "words", tmp_path / "disk", tmp_path / "after"
    disk.mkdir()
    write_documents(folder, count=800)
    text = sum(path.stat().st_size for path in folder.iterdir())
    kilobytes = int(share * text / 1000)
    script = (
        'mount -t tmpfs -o size="$1"k tmpfs "$2" || exit 77; d=$2; a=$3; shift 3; "$@"; c=$?; cp -r "$d" "$a"; exit $c'
    )
    unshare = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"]
    done = run([*unshare, str(kilobytes), str(disk), str(after), *command(folder, disk, 256)])
    if done.returncode == 77 or "unshare:" in done.stderr:
        pytest.skip("mounting is not permitted here")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"The disk is full: preparing {folder} in {disk}")
    assert text_done or f"needs about {format_size(shards.space(text, [256]).work)} more" in done.stderr
    assert not list(after.rglob("*.partial")) and not list(after.rglob("source.txt"))
    assert bool(list(after.rglob("manifest.json"))) == text_done
    store.verify(prepare(str(folder), [256], after))


def test_a_folder_that_cannot_be_written(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file in the way")
    with pytest.raises(CorpusError, match="cannot be written: Not a directory"):
        prepare(str(folder), [256], tmp_path / "cache")


def test_a_source_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    write_documents(tmp_path / "words")

    def meddle(stage: str, done: int, total: int) -> None:
        os.utime(tmp_path / "words" / "0000.txt", ns=(1, 1))

    with pytest.raises(CorpusError, match="changed while it was read"):
        prepare(str(tmp_path / "words"), [256], tmp_path / "cache", meddle)
    store.verify(prepare(str(tmp_path / "words"), [256], tmp_path / "cache"))
