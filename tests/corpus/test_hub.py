"""Corpora of the hub, prepared by the command from a server with the hub's layout, and its failures."""

import hashlib
import io
import os
import random
import resource
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from autoresearch.corpus import hub as hubs
from autoresearch.corpus import store
from autoresearch.corpus.manifest import SPLITS
from autoresearch.corpus.split import read_batches
from autoresearch.corpus.store import Corpus
from tests.conftest import Done, Lab
from tests.corpus.hubserver import Hub

CLIMBMIX, TINYSTORIES = (hubs.DATASETS[name].repo for name in ("climbmix", "tinystories"))
HELD_OUT = "shard_06542.parquet"
PROGRAM = "---\nbudget: 60s\ncorpus: climbmix\nvocab_sizes: [256]\ndevice: cpu\n---\nBetter.\n"
TWICE = "A document that is held out, and in two of the shards to train on as well.\n" * 3


def rows(seed: int, count: int = 120) -> list[str]:
    draw = random.Random(seed)
    words = ["".join(draw.choices("etaoinshrdlu", k=draw.randint(1, 9))) for _ in range(3000)]
    return [" ".join(draw.choices(words, k=draw.randint(60, 240))) for _ in range(count)]


def parquet(texts: list[str], compression: str = "zstd") -> bytes:
    buffer = io.BytesIO()
    table = pa.table({"text": texts})
    pq.write_table(table, buffer, row_group_size=64, use_dictionary=False, compression=compression)
    return buffer.getvalue()


SHARDS = {f"shard_{number:05}.parquet": [*rows(number), *([TWICE] if number < 2 else [])] for number in range(5)}
PINNED = [*rows(6542), TWICE]
FILES = {name: parquet(texts) for name, texts in {**SHARDS, HELD_OUT: PINNED}.items()}
TRAIN = [len("".join(texts)) for texts in SHARDS.values()]
FIRST = "shard_00000.parquet"


@pytest.fixture
def hub() -> Iterator[Hub]:
    stories = {"data/stories-1.parquet": parquet(rows(7)), "data/stories-2.parquet": parquet(rows(8))}
    with Hub({CLIMBMIX: FILES, TINYSTORIES: stories}) as server:
        yield server


@pytest.fixture
def user(tmp_path: Path, hub: Hub) -> Lab:
    """A folder with a program, and a home, caches and hub of its own."""
    (tmp_path / "home").mkdir()
    (tmp_path / "program.md").write_text(PROGRAM)
    return Lab(
        tmp_path, tmp_path / "home", tmp_path / "cache", {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf")}
    )


def prepare(user: Lab, tokens: int = TRAIN[0] // 2, corpus: str = "climbmix", **options) -> Done:
    return user("prepare", "--program", "program.md", "--corpus", corpus, "--tokens", tokens, **options)


def good(done: Done) -> Done:
    assert done.code == 0, done.err
    return done


def failed(done: Done) -> str:
    """The one line of an error."""
    said = done.err.splitlines()
    assert done.code == 1 and "Traceback" not in done.err
    assert said[-1].startswith("autoresearch: ")
    return said[-1]


def documents(corpus: Corpus, split: str) -> list[bytes]:
    return [document for batch in read_batches(corpus.layout, split, 10**6) for document in batch]


def blob(user: Lab, path: str = FIRST) -> Path:
    folder = f"datasets--{CLIMBMIX.replace('/', '--')}"
    return user.root / "hf" / "hub" / folder / "blobs" / hashlib.sha256(FILES[path]).hexdigest()


def partials(user: Lab) -> list[Path]:
    return list((user.root / "hf").rglob("*.incomplete"))


# ------------------------------------------------------------------------------------------ the whole


def test_climbmix_is_as_many_shards_as_are_wanted_and_the_halves_of_the_pinned_one(user: Lab, hub: Hub) -> None:
    done = good(prepare(user, sum(TRAIN[:2]) - 5000))
    assert "climbmix: 3 files of karpathy/climbmix-400b-shuffle" in done.err
    assert "to download" in done.err and "of text and tokens" in done.err and "cores" in done.err
    corpus = store.open("climbmix", user.cache)
    store.verify(corpus)
    train, validation, test = ([text.decode() for text in documents(corpus, split)] for split in SPLITS)
    held_out = sorted(set(PINNED), key=lambda text: hashlib.sha256(text.encode()).digest())
    assert validation + test == held_out and TWICE in held_out
    assert all(hashlib.sha256(text.encode()).digest()[0] < 128 for text in validation) and len(validation) > 30
    assert all(hashlib.sha256(text.encode()).digest()[0] >= 128 for text in test) and len(test) > 30
    first, second, *_ = SHARDS.values()
    assert set(train) == {*first, *second} - {TWICE}
    assert corpus.manifest.duplicates == 2
    assert corpus.manifest.origin and corpus.manifest.origin.files == 2 and corpus.manifest.origin.of == 5
    assert len(hub.downloads()) == 3


def test_what_is_fetched_lies_where_other_tools_look_for_it(user: Lab, hub: Hub) -> None:
    good(prepare(user))
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(
        CLIMBMIX, FIRST, cache_dir=user.root / "hf" / "hub", revision=hub_commit(hub), repo_type="dataset"
    )
    assert isinstance(found, str) and Path(found).read_bytes() == FILES[FIRST]
    assert Path(found).resolve() == blob(user).resolve() and not partials(user)


def hub_commit(hub: Hub) -> str:
    return next(asked.path.split("/")[-1] for asked in hub.asked if "/tree/" in asked.path)


def test_tinystories_is_all_its_files_split_by_hash(user: Lab, hub: Hub) -> None:
    good(prepare(user, 10**9, "tinystories"))
    corpus = store.open("tinystories", user.cache)
    store.verify(corpus)
    found = {text.decode() for split in SPLITS for text in documents(corpus, split)}
    assert found == {*rows(7), *rows(8)}
    share = len(documents(corpus, "train")) / len(found)
    assert 0.8 < share < 0.97
    asked = len(hub.asked)
    good(prepare(user, 10**9, "tinystories"))  # there is no more of it
    assert len(hub.asked) == asked


def test_the_budget_says_how_much_is_fetched(user: Lab, hub: Hub) -> None:
    from autoresearch.machine import cores

    budget = sum(TRAIN[:2]) / (1.2 * 15e3 * cores())  # seconds: somewhat more than one shard, with the margin
    (user.root / "program.md").write_text(PROGRAM.replace("60s", f"{budget * 0.9:.3f}s"))
    good(user("prepare", "--program", "program.md"))
    assert len(hub.downloads()) == 3
    (user.root / "program.md").write_text(PROGRAM)
    assert "note: an experiment reads about" in good(user("prepare", "--program", "program.md")).out
    assert len(hub.downloads()) == 6


def test_a_token_goes_to_the_hub_and_not_to_where_it_sends_us(user: Lab, hub: Hub) -> None:
    good(prepare(user.at(user.root, HF_TOKEN="hf_secret")))
    asked = [a for a in hub.asked if "/karpathy/" in a.path or a.host == "cdn"]
    tokens = {host: {a.token for a in asked if a.host == host} for host in ("hub", "cdn")}
    assert tokens == {"hub": {"Bearer hf_secret"}, "cdn": {None}}


# ------------------------------------------------------------------------------------------ more of it


def test_asked_for_more_it_grows_and_asked_for_as_much_it_needs_no_network(user: Lab, hub: Hub) -> None:
    good(prepare(user))
    small = store.open("climbmix", user.cache)
    asked = len(hub.asked)
    good(prepare(user))
    assert len(hub.asked) == asked
    good(prepare(user, sum(TRAIN[:3]) - 5000))
    large = store.open("climbmix", user.cache)
    assert large.manifest.origin.files == 3 and large.root != small.root
    assert len(hub.downloads()) == 4  # what was here was not fetched again
    assert store.open("climbmix", user.cache, small.fingerprint).root == small.root
    assert documents(large, "validation") == documents(small, "validation")


def test_text_that_gives_fewer_tokens_than_was_reckoned_is_made_up_for(user: Lab, hub: Hub) -> None:
    (user.root / "program.md").write_text(PROGRAM.replace("[256]", "[300]"))
    hub.datasets[CLIMBMIX] = {
        name: parquet(["aaaa " * 40 + text for text in rows(n, 40)]) if name != HELD_OUT else FILES[HELD_OUT]
        for n, name in enumerate(FILES)
    }
    wanted = 15_000
    good(prepare(user, wanted))
    assert store.open("climbmix", user.cache).view(300).train.tokens >= wanted


def test_a_vocabulary_more_needs_no_network(user: Lab, hub: Hub) -> None:
    good(prepare(user, 1000))
    asked = len(hub.asked)
    (user.root / "program.md").write_text(PROGRAM.replace("[256]", "[256, 300]"))
    good(prepare(user, 1000))
    assert len(hub.asked) == asked
    assert store.open("climbmix", user.cache).view(300).train.tokens


# ------------------------------------------------------------------------------------------ interrupted


@pytest.mark.parametrize("place", [1, 4096, 50_001, -1])
def test_a_connection_that_is_cut_goes_on_at_that_byte(user: Lab, hub: Hub, place: int) -> None:
    place %= len(FILES[FIRST])
    hub.cut[FIRST] = [place]
    good(prepare(user))
    assert [asked.range for asked in hub.downloads(FIRST)] == [None, f"bytes={place}-"]
    assert blob(user).read_bytes() == FILES[FIRST]


def test_cut_again_and_again_it_asks_for_the_rest_and_never_for_what_it_has(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    draw, dataset = random.Random(3), hubs.DATASETS["climbmix"]
    there = hubs.listing(dataset, hub.url)
    for shard in there.shards:
        places = sorted(draw.sample(range(1, shard.record.size), 5))
        hub.cut[shard.path] = list(places)
        noted: list[int] = []
        assert hubs.fetch(there, shard, noted.append).read_bytes() == FILES[shard.path]
        assert [asked.range for asked in hub.downloads(shard.path)] == [None, *(f"bytes={at}-" for at in places)]
        assert noted == sorted(noted) and noted[-1] == shard.record.size


def test_a_server_without_ranges_is_asked_from_the_beginning(user: Lab, hub: Hub) -> None:
    hub.cut[FIRST] = [10_000]
    hub.ranges = False
    good(prepare(user))
    assert blob(user).read_bytes() == FILES[FIRST]


def test_killed_in_the_middle_of_a_download_it_goes_on_there(user: Lab, hub: Hub) -> None:
    hub.stall[FIRST] = 40_000
    process = user.start("prepare", "--program", "program.md", "--tokens", 1000)
    assert hub.stalled.wait(120)
    while sum(partial.stat().st_size for partial in partials(user)) < 40_000:  # what was sent arrives
        assert process.poll() is None
        time.sleep(0.02)
    (partial,) = partials(user)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    hub.go_on.set()
    had, before = partial.stat().st_size, len(hub.asked)
    good(prepare(user, 1000))
    again = [asked for asked in hub.asked[before:] if asked.host == "cdn"]
    assert [asked.range for asked in again] == [f"bytes={had}-"]  # that shard alone, and its rest alone
    assert blob(user).read_bytes() == FILES[FIRST] and not partials(user)


def test_a_hub_that_goes_away_is_one_line_and_what_came_is_kept(user: Lab, hub: Hub) -> None:
    hub.cut[FIRST] = [30_000] * 5
    line = failed(prepare(user))
    assert (
        FIRST in line and "cannot be fetched" in line and "HF_ENDPOINT" in line and "What was fetched is kept" in line
    )
    assert blob(user, HELD_OUT).exists()
    before = len(hub.asked)
    good(prepare(user))
    again = [asked for asked in hub.asked[before:] if asked.host == "cdn"]
    assert [asked.range for asked in again] == ["bytes=30000-"]


def test_two_prepares_at_once_fetch_each_file_once(user: Lab, hub: Hub) -> None:
    both = [user.start("prepare", "--program", "program.md", "--tokens", 1000) for _ in range(2)]
    assert [process.communicate(timeout=120) and process.returncode for process in both] == [0, 0]
    assert len(hub.downloads()) == 2
    store.verify(store.open("climbmix", user.cache))


# ------------------------------------------------------------------------------------------ damaged, missing, refused


def test_a_damaged_shard_is_fetched_again(user: Lab, hub: Hub) -> None:
    hub.damaged[FIRST] = 1
    good(prepare(user))
    assert len(hub.downloads(FIRST)) == 2 and blob(user).read_bytes() == FILES[FIRST]


def test_a_shard_that_comes_damaged_twice_is_one_line(user: Lab, hub: Hub) -> None:
    hub.damaged[FIRST] = 2
    line = failed(prepare(user))
    assert f"{FIRST} of {CLIMBMIX} came damaged twice" in line and "HF_ENDPOINT" in line
    assert not blob(user).exists() and blob(user, HELD_OUT).exists()
    good(prepare(user))


@pytest.mark.parametrize("harm", ["a bit", "the end"])
def test_a_shard_that_was_damaged_in_the_cache_is_fetched_again(user: Lab, hub: Hub, harm: str) -> None:
    good(prepare(user))
    data = bytearray(FILES[FIRST])
    data[1000] ^= 1
    blob(user).write_bytes(data if harm == "a bit" else data[:-1000])
    good(prepare(user, sum(TRAIN[:2]) - 5000))
    assert len(hub.downloads(FIRST)) == 2 and len(hub.downloads(HELD_OUT)) == 1
    assert blob(user).read_bytes() == FILES[FIRST]


def test_a_missing_shard_is_one_line(user: Lab, hub: Hub) -> None:
    hub.missing.add("shard_00001.parquet")
    line = failed(prepare(user, sum(TRAIN[:2]) - 5000))
    assert f"shard_00001.parquet of {CLIMBMIX} is not at {hub.url} (404)" in line
    assert blob(user).exists() and blob(user, HELD_OUT).exists()


def test_a_hub_without_the_pinned_shard_is_one_line(user: Lab, hub: Hub) -> None:
    hub.datasets[CLIMBMIX] = {name: data for name, data in FILES.items() if name != HELD_OUT}
    assert f"has no {HELD_OUT}" in failed(prepare(user))


@pytest.mark.parametrize(("status", "remedy"), [(401, "hf auth login"), (403, "Accept its terms"), (404, "Look at")])
def test_a_dataset_that_is_refused_is_one_line(user: Lab, hub: Hub, status: int, remedy: str) -> None:
    hub.status = status
    line = failed(prepare(user))
    assert f"({status})" in line and remedy in line


def test_what_is_no_hub_is_one_line(user: Lab, hub: Hub) -> None:
    hub.html = True
    assert "does not answer as a hub does" in failed(prepare(user))


def test_an_endpoint_where_nothing_listens_is_one_line(user: Lab, hub: Hub) -> None:
    hub.__exit__()
    line = failed(prepare(user))
    assert f"cannot be fetched from {hub.url}" in line and "Check the network" in line


def test_offline_by_choice_is_one_line(user: Lab, hub: Hub) -> None:
    assert "HF_HUB_OFFLINE forbids it" in failed(prepare(user.at(user.root, HF_HUB_OFFLINE="1")))
    assert hub.asked == []


def test_a_full_disk_is_one_line_and_what_came_is_kept(user: Lab, hub: Hub) -> None:
    limit = 40_000
    hub.datasets[CLIMBMIX] = {**FILES, HELD_OUT: (small := parquet(rows(1, 20)))}
    assert len(small) < limit < len(FILES[FIRST])
    line = failed(prepare(user, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))))
    assert "The disk is full" in line and FIRST in line and "HF_HOME" in line
    before = len(hub.asked)
    good(prepare(user))
    assert [asked.range for asked in hub.asked[before:] if asked.host == "cdn"] == [f"bytes={limit}-"]


# ------------------------------------------------------------------------------------------ used


def test_prepared_once_a_run_needs_no_network_and_keeps_its_corpus_when_more_is_prepared(
    lab: Lab, hub: Hub, tmp_path: Path
) -> None:
    online = lab.at(lab.root, HF_ENDPOINT=hub.url, HF_HOME=str(tmp_path / "hf"))
    assert "is not prepared" in failed(online("run", "--program", lab.program, "--corpus", "climbmix", "-n", 1))
    arguments = ("--program", lab.program, "--corpus", "climbmix")
    good(online("prepare", *arguments, "--tokens", 1000))
    small = store.open("climbmix", lab.cache)
    offline = lab.at(lab.root, HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path / "none"))
    good(offline("run", *arguments, "--experiments", 1, "--agent", "search"))
    good(online("prepare", *arguments, "--tokens", sum(TRAIN[:2]) - 5000))
    assert store.open("climbmix", lab.cache).fingerprint != small.fingerprint
    good(offline("run", *arguments, "--experiments", 1, "--agent", "search"))
    good(offline("replay", 1))
    used = [measurement["corpus"] for measurement in offline("show", 1, "--json").json["measurements"]]
    assert used == [small.fingerprint] * 2
