"""Files where a candidate can write."""

import os
from pathlib import Path

from autoresearch.engine.files import remove


def test_folders_are_removed_however_deep_and_against_their_modes(tmp_path):
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "file").touch()
    here = Path.cwd()
    root.mkdir()
    try:
        os.chdir(root)
        for _ in range(3000):  # longer than a path may be
            Path("folder").mkdir()
            os.chdir("folder")
        Path("file").touch()
    finally:
        os.chdir(here)
    (root / "link").symlink_to(elsewhere)
    for mode in (0o000, 0o500):
        locked = root / f"{mode}" / "inside"
        locked.mkdir(parents=True)
        (locked / "file").touch()
        locked.chmod(mode)
        locked.parent.chmod(mode)
    remove(root)
    assert [path.name for path in tmp_path.iterdir()] == ["elsewhere"]
    (tmp_path / "link").symlink_to(elsewhere)
    remove(tmp_path / "link")
    remove(tmp_path / "nowhere")
    assert list(tmp_path.rglob("*")) == [elsewhere, elsewhere / "file"]
