"""Corpora of the Hugging Face hub: what is there, and one file of it, whole and proved.

Files lie in huggingface_hub's own cache (HF_HOME), where other tools find them. They are fetched here and not by
`hf_hub_download`, since that gives a download up with its process: a partial file is kept beside the blob, gone on
with by a range request, and becomes the blob once its size and SHA-256 are those the hub lists.
"""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from filelock import FileLock

from autoresearch.corpus.files import FULL, FileRecord, has_size, is_intact
from autoresearch.errors import CorpusError, first_line

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoFile

ENDPOINT = "https://huggingface.co"
_KEPT = "What was fetched is kept."
_TRIES = 4  # in a row in which no byte comes
_PATIENCE = 30.0  # seconds for an answer, and between two pieces of it

Note = Callable[[int], None]  # told how many bytes of a file are here


@dataclass(frozen=True, slots=True)
class Dataset:
    """A corpus that is published on the hub as parquet files with a column `text`."""

    name: str  # as `--corpus` has it
    repo: str
    files: str  # a pattern of the names of its parquet files
    held_out: str | None  # the file whose two halves are validation and test; None: by hash, as of a folder
    # What is said before the hub is asked or a file is here, so all of it is rough:
    expansion: float  # bytes of text that a byte of parquet holds
    count: int  # of files
    size: int  # bytes of one of them


DATASETS = {
    dataset.name: dataset
    for dataset in (
        Dataset(
            "climbmix",
            "karpathy/climbmix-400b-shuffle",
            r"shard_\d{5}\.parquet",
            "shard_06542.parquet",
            2.6,
            6543,
            96_000_000,
        ),
        Dataset("tinystories", "karpathy/tinystories-gpt4-clean", r".*\.parquet", None, 3.2, 1, 673_000_000),
    )
}


class Shard(NamedTuple):
    """A file of a dataset as the hub lists it."""

    path: str  # in the repository
    record: FileRecord


class Listing(NamedTuple):
    """A dataset's files at one commit, in the order of their names."""

    dataset: Dataset
    endpoint: str
    commit: str
    shards: tuple[Shard, ...]

    @property
    def held_out(self) -> tuple[Shard, ...]:
        """The file that is never trained on, if the dataset has one."""
        return tuple(shard for shard in self.shards if shard.path == self.dataset.held_out)

    @property
    def training(self) -> tuple[Shard, ...]:
        """The other files."""
        return tuple(shard for shard in self.shards if shard.path != self.dataset.held_out)


def expected(dataset: Dataset) -> Listing:
    """What the hub is reckoned to have of a dataset, without the network: files of one size, and no two names alike."""
    record = FileRecord(size=dataset.size, sha256="0" * 64)
    names = [*(f"{number}" for number in range(dataset.count - bool(dataset.held_out))), dataset.held_out]
    return Listing(dataset, "", "", tuple(Shard(name, record) for name in names if name is not None))


def listing(dataset: Dataset, endpoint: str = ENDPOINT) -> Listing:
    """What the hub has of a dataset now. CorpusError if it cannot be reached, refuses, or has something else."""
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    endpoint = endpoint.rstrip("/")
    with _explained(dataset, endpoint, "The list of files"):
        api = HfApi(endpoint=endpoint)
        commit = api.dataset_info(dataset.repo, revision="main", timeout=_PATIENCE).sha
        if commit is None or not re.fullmatch(r"[0-9a-f]{40}", commit):
            raise ValueError("it names no commit")
        tree = api.list_repo_tree(dataset.repo, recursive=True, revision=commit, repo_type="dataset")
        files = [entry for entry in tree if isinstance(entry, RepoFile) and re.fullmatch(dataset.files, entry.path)]
        shards = tuple(sorted(map(_shard, files)))
    found = Listing(dataset, endpoint, commit, shards)
    if not found.training or (dataset.held_out and not found.held_out):
        lacking = dataset.held_out if found.training else "parquet files"
        raise CorpusError(
            f"{dataset.repo} at {endpoint} has no {lacking}.",
            "Set HF_ENDPOINT to a hub or mirror that has all of it.",
        )
    return found


def is_here(source: Listing, shard: Shard) -> bool:
    """Whether a file is in the cache, as far as its size tells."""
    return has_size(_blob(source.dataset, shard), shard.record)


def cache_folder() -> Path:
    """Where huggingface_hub keeps what is fetched."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def fetch(source: Listing, shard: Shard, note: Note) -> Path:
    """A file in the cache, fetched if it is not there. One that is damaged is deleted and fetched again, once.

    CorpusError: the hub cannot be reached, refuses, or sends something else than it lists; the disk is full."""
    blob = _blob(source.dataset, shard)
    with _explained(source.dataset, source.endpoint, shard.path):
        lock = FileLock(blob.parents[2] / ".locks" / blob.parents[1].name / f"{blob.name}.lock")
        Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
        for _ in range(2):
            with lock:
                if not blob.exists():
                    _download(source, shard, blob, note)
                if is_intact(blob, shard.record):
                    note(shard.record.size)
                    break
                blob.unlink()
                note(0)
        else:
            raise CorpusError(
                f"{shard.path} of {source.dataset.repo} came damaged twice from {source.endpoint}.",
                f"Try another endpoint (HF_ENDPOINT), or later. {_KEPT}",
            )
        return _link(source, shard)


def _shard(entry: "RepoFile") -> Shard:
    if entry.lfs is None or not re.fullmatch(r"[0-9a-f]{64}", entry.lfs.sha256) or entry.lfs.size <= 0:
        raise ValueError(f"{entry.path} has no checksum")
    return Shard(entry.path, FileRecord(size=entry.lfs.size, sha256=entry.lfs.sha256))


def _blob(dataset: Dataset, shard: Shard) -> Path:
    from huggingface_hub.file_download import repo_folder_name

    return cache_folder() / repo_folder_name(repo_id=dataset.repo, repo_type="dataset") / "blobs" / shard.record.sha256


def _link(source: Listing, shard: Shard) -> Path:
    """Let huggingface_hub give the blob its name in a snapshot: it finds the blob there, and fetches nothing."""
    from huggingface_hub import hf_hub_download

    commit, repo = source.commit, source.dataset.repo
    return Path(
        hf_hub_download(repo, shard.path, repo_type="dataset", revision=commit, endpoint=source.endpoint)
    ).absolute()


def _download(source: Listing, shard: Shard, blob: Path, note: Note) -> None:
    """Go on with the partial file until it is as long as it should be, again after each cut as long as bytes come."""
    import httpx2
    from huggingface_hub import hf_hub_url

    url = hf_hub_url(
        source.dataset.repo, shard.path, repo_type="dataset", revision=source.commit, endpoint=source.endpoint
    )
    blob.parent.mkdir(parents=True, exist_ok=True)
    partial = blob.with_name(f"{blob.name}.incomplete")
    idle = 0
    while (had := _size(partial)) < shard.record.size:
        try:
            _append(url, partial, shard.record.size, note)
            cut: Exception = httpx2.RemoteProtocolError("the answer ended early")
        except (httpx2.TimeoutException, httpx2.NetworkError, httpx2.RemoteProtocolError) as error:
            cut = error
        if _size(partial) < shard.record.size:
            idle = 0 if _size(partial) > had else idle + 1
            if idle == _TRIES:
                raise cut
            time.sleep(idle)
    partial.replace(blob)


def _append(url: str, partial: Path, size: int, note: Note) -> None:
    """One request for what a partial file lacks. Redirected to another host, it goes without the token."""
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_stream_backoff

    have = _size(partial)
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    with http_stream_backoff("GET", url, headers=headers, timeout=_PATIENCE, retry_on_exceptions=()) as response:
        hf_raise_for_status(response)
        goes_on = response.status_code == 206  # else the server knows no ranges: from the beginning
        with partial.open("ab" if goes_on else "wb") as file:
            for data in response.iter_bytes():
                file.write(data)
                file.flush()  # so that what came is kept, however this process ends
                note(file.tell())
                if file.tell() > size:
                    break  # it is not what was listed: the checksum will say so


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


@contextmanager
def _explained(dataset: Dataset, endpoint: str, what: str) -> Iterator[None]:
    """Say in one line what a failure of the hub, the network or the disk means."""
    import httpx2
    from huggingface_hub.errors import FileMetadataError, HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        yield
    except OfflineModeIsEnabled as error:
        raise CorpusError(
            f"{dataset.name} has to be fetched, and HF_HUB_OFFLINE forbids it.", "Unset it, and prepare again."
        ) from error
    except HfHubHTTPError as error:
        raise _refused(dataset, endpoint, what, error.response.status_code) from error
    except (httpx2.HTTPError, LocalEntryNotFoundError, FileMetadataError) as error:
        raise CorpusError(
            f"{what} of {dataset.repo} cannot be fetched from {endpoint}: {first_line(error)}.",
            f"Check the network, or set HF_ENDPOINT to a mirror, and prepare again. {_KEPT}",
        ) from error
    except OSError as error:
        folder = cache_folder()
        if error.errno in FULL:
            raise CorpusError(
                f"The disk is full: {what} of {dataset.repo} does not fit into {folder}.",
                f"Free some, or set HF_HOME to a folder on a larger disk, and prepare again. {_KEPT}",
            ) from error
        raise CorpusError(
            f"{folder} cannot be written: {first_line(error)}.", "Repair that, or set HF_HOME."
        ) from error
    except (ValueError, KeyError, TypeError) as error:  # whatever answers is not to be trusted with its form
        raise CorpusError(
            f"{endpoint} does not answer as a hub does: {first_line(error)}.", "Check HF_ENDPOINT and any proxy."
        ) from error


def _refused(dataset: Dataset, endpoint: str, what: str, status: int) -> CorpusError:
    page = f"{endpoint}/datasets/{dataset.repo}"
    if status in (401, 403):
        return CorpusError(
            f"{what} of {dataset.repo} is refused by {endpoint} ({status}).",
            f"Accept its terms at {page} if it has any, then log in with `hf auth login` or set HF_TOKEN. {_KEPT}",
        )
    if status == 404:
        return CorpusError(
            f"{what} of {dataset.repo} is not at {endpoint} ({status}).",
            f"Look at {page}; set HF_ENDPOINT to a hub or mirror that has it. {_KEPT}",
        )
    return CorpusError(f"{what} of {dataset.repo}: {endpoint} answers {status}.", f"Prepare again later. {_KEPT}")
