"""What is read, what is skipped, and when a source counts as changed."""

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from autoresearch.corpus import sources
from autoresearch.errors import CorpusError


def texts(folder: Path) -> list[str | None]:
    return [item.text for item in sources.documents(sources.find(str(folder)))]


def test_the_standard_library_is_text_of_the_running_python() -> None:
    source = sources.find("stdlib")
    names = [str(path) for path in source.files]
    assert any(name.endswith("/argparse.py") for name in names)
    assert not any("site-packages" in name or "__pycache__" in name for name in names)
    assert names == [str(path) for path in sources.find("stdlib").files]
    assert source.name == "stdlib"


def test_a_source_has_one_spelling_wherever_it_is_named_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("stdlib", "words"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert sources.canonical("stdlib") == "stdlib" == sources.find("stdlib").spec
    assert sources.find("stdlib").name == "stdlib" and len(sources.find("stdlib").files) > 100
    assert sources.canonical("./stdlib") == str(tmp_path / "stdlib")
    assert [path.read_text() for path in sources.find("./stdlib").files] == ["stdlib"]
    for spec in ("words", "./words", "~/words", "stdlib/../words", str(tmp_path / "words")):
        assert sources.canonical(spec) == str(tmp_path / "words") == sources.find(spec).spec


def test_files_that_are_not_text_are_skipped(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("grüße\r\n".encode())
    (tmp_path / "b.txt").write_bytes("grüße".encode("latin-1"))
    (tmp_path / "c.bin").write_bytes(b"text\0text")
    (tmp_path / "d").write_bytes(b"x" * 100_000 + b"\0")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "e.txt").write_text("hidden")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "f.py").write_text("deep")
    assert texts(tmp_path) == ["grüße\r\n", None, None, None, "deep"]


def test_every_row_of_a_parquet_file_is_a_document(tmp_path: Path) -> None:
    rows = ["one", "", None, "two 🎉", "<|endoftext|>"]
    kinds = [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]
    for number, kind in enumerate(kinds):
        table = pa.table({"id": range(len(rows)), "text": pa.array(rows, pa.string()).cast(kind)})
        pq.write_table(table, tmp_path / f"{number}.parquet", row_group_size=2)
    assert texts(tmp_path) == ["one", "", "", "two 🎉", "<|endoftext|>"] * len(kinds)


def test_a_parquet_row_that_is_not_utf8_is_skipped(tmp_path: Path) -> None:
    values = pa.array([b"good", b"\xff\xfe"], pa.binary())
    broken = pa.Array.from_buffers(pa.string(), 2, values.buffers())
    pq.write_table(pa.table({"text": broken}), tmp_path / "x.parquet")
    assert texts(tmp_path) == ["good", None]


def test_parquet_without_usable_text_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.parquet"
    pq.write_table(pa.table({"content": ["a"]}), file)
    with pytest.raises(CorpusError, match=r"no column `text` \(its columns: content\)"):
        texts(tmp_path)
    pq.write_table(pa.table({"text": [1, 2]}), file)
    with pytest.raises(CorpusError, match="int64, not strings"):
        texts(tmp_path)
    file.write_bytes(b"PAR1 this is not parquet")
    with pytest.raises(CorpusError, match="cannot be read as parquet"):
        texts(tmp_path)


def test_any_change_of_a_folder_makes_another_corpus(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("first")
    seen = {sources.find(str(tmp_path)).identity}
    assert sources.find(str(tmp_path)).identity in seen

    def changed() -> bool:
        before = len(seen)
        seen.add(sources.find(str(tmp_path)).identity)
        return len(seen) > before

    (tmp_path / "b.txt").write_text("added")
    assert changed()
    (tmp_path / "b.txt").rename(tmp_path / "c.txt")
    assert changed()
    os.utime(tmp_path / "c.txt", ns=(1, 1))
    assert changed()
    (tmp_path / "c.txt").unlink()
    (tmp_path / ".ignored").write_text("hidden files are no part of it")
    assert not changed()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("no/such/folder", "neither a known name nor a folder"),
        (__file__, "a file, not a folder"),
        ("nul\0byte", "cannot be looked at"),
    ],
)
def test_an_unknown_source_is_one_clear_line(spec: str, message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        sources.find(spec)


def test_a_folder_is_relative_to_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "climbmix").mkdir()
    (tmp_path / "climbmix" / "a.txt").write_text("mine")
    monkeypatch.chdir(tmp_path)
    assert sources.find("./climbmix").root == tmp_path / "climbmix"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert sources.find("~/climbmix").identity == sources.find("./climbmix").identity


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no files"):
        sources.find(str(tmp_path))
