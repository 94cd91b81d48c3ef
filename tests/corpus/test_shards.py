"""How much of a dataset is reckoned to be needed, before any of it is here."""

from pathlib import Path

import pytest

from autoresearch.corpus import hub, shards
from autoresearch.corpus.files import FileRecord
from autoresearch.errors import CorpusError

CLIMBMIX, TINYSTORIES = hub.DATASETS["climbmix"], hub.DATASETS["tinystories"]


def listing(dataset: hub.Dataset, count: int, size: int) -> hub.Listing:
    names = [f"shard_{number:05}.parquet" for number in range(count)] + ([dataset.held_out] if dataset.held_out else [])
    files = tuple(hub.Shard(name, FileRecord(size=size, sha256=f"{n:064}")) for n, name in enumerate(names))
    return hub.Listing(dataset, "https://hub.example", "0" * 40, files)


def test_five_minutes_of_an_h200_are_ten_or_eleven_shards_and_the_pinned_one() -> None:
    wanted = int(1.2 * 300 * 1.7e6)
    plan = shards.plan(listing(CLIMBMIX, 6542, 96_000_000), [8192], wanted, None)
    assert 11 <= len(plan.files) <= 12 and plan.files[0].path == CLIMBMIX.held_out
    assert wanted * 4.09 <= (len(plan.files) - 1) * 96e6 * CLIMBMIX.expansion  # characters a token of 400 G in 6543
    said = shards.describe(plan)
    assert f"{len(plan.files)} files of karpathy/climbmix-400b-shuffle, 1.2 GB to download (0 B are here)" in said


def test_of_several_vocabularies_the_largest_needs_most_text() -> None:
    there = listing(CLIMBMIX, 6542, 96_000_000)
    counts = [len(shards.plan(there, sizes, 10**9, None).files) for sizes in ([256], [8192], [256, 8192], [65536])]
    assert counts[0] < counts[1] == counts[2] < counts[3]


def test_one_file_is_the_least_and_all_are_the_most() -> None:
    assert len(shards.plan(listing(TINYSTORIES, 3, 1000), [256], 0, None).files) == 1
    assert len(shards.plan(listing(TINYSTORIES, 3, 1000), [256], 10**12, None).files) == 3


def test_a_disk_that_is_too_small_is_said_before_anything_is_fetched(tmp_path: Path) -> None:
    shards.check_disk(shards.plan(listing(CLIMBMIX, 2, 1000), [8192], 1000, None), tmp_path)
    plan = shards.plan(listing(CLIMBMIX, 9, 10**17), [8192], 10**18, None)
    with pytest.raises(CorpusError, match=r"The disk is too small: climbmix needs about .* TB .* are free\..*--tokens"):
        shards.check_disk(plan, tmp_path / "not" / "there" / "yet")


@pytest.mark.parametrize("there", [listing(CLIMBMIX, 6542, 96_000_000), listing(TINYSTORIES, 1, 673_000_000)])
def test_without_the_network_it_is_reckoned_as_with_it(there: hub.Listing) -> None:
    """Whole shards, the pinned one, and the margin; and no more than there is."""
    for tokens in (0, 10**8, 612_000_000, 10**10):
        asked, unasked = (shards.plan(of, [256, 8192], tokens, None) for of in (there, hub.expected(there.dataset)))
        assert unasked.download == asked.download and unasked.space == asked.space
        assert bool(there.held_out) == (unasked.files[0].path == there.dataset.held_out)


def test_text_is_there_twice_while_it_is_split() -> None:
    assert shards.space(1e9, []) == (1e9, 2e9)
    assert shards.space(1e9, [256]) == (3e9, 3e9)
    assert shards.space(1e9, [256, 256]).work == 5e9
