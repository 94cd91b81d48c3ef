"""A small folder of varied text, and what is prepared from it."""

import random
from pathlib import Path

import pytest

from autoresearch.corpus.prepare import prepare
from autoresearch.corpus.store import Corpus

SIZES = (256, 300, 512)
SPECIAL = "<|bos|> and <|endoftext|> are <|plain|> text"
EMOJI = "family 👨‍👩‍👧‍👦 flag 🏴‍☠️ e\u0301 naïve 漢字 \u200b\ufffd\n" * 20


def write_documents(folder: Path, count: int = 60, words: int = 120, seed: int = 0) -> None:
    """Text files with words of a small made-up language, numbers, odd characters and a duplicate."""
    draw = random.Random(seed)
    vocabulary = ["".join(draw.choices("etaoinshrdlu", k=draw.randint(1, 8))) for _ in range(400)]
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        text = " ".join(draw.choices(vocabulary, k=draw.randint(1, words)))
        (folder / f"{number:04}.txt").write_text(f"{text} {draw.randint(0, 10**6)}\n", encoding="utf-8")
    (folder / "special.md").write_text(SPECIAL, encoding="utf-8")
    (folder / "emoji.txt").write_text(EMOJI, encoding="utf-8")
    (folder / "copy.txt").write_text(SPECIAL, encoding="utf-8")


def files_below(root: Path) -> dict[str, bytes]:
    """Every file of a prepared corpus but the lock, by relative path."""
    return {
        str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file() and p.name != ".lock"
    }


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / "words"
    write_documents(path)
    return path


@pytest.fixture(scope="session")
def prepared(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Read-only for the tests: what `prepare` makes of the folder with three vocabularies."""
    return prepare(str(folder), SIZES, tmp_path_factory.mktemp("cache"))
