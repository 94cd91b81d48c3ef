"""Git as a run uses it: every attempt kept, the branch moved with care, and nothing of the user's touched."""

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from autoresearch import workspace
from autoresearch.errors import Misuse, WorkspaceError
from autoresearch.workspace import Workspace, check_tag
from tests.conftest import CHEAP, Lab, contents, recording
from tests.test_cli import until

BASE = "".join(f"line {number}\n" for number in range(20))


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    workspace.create(tmp_path / "repo", {"a.py": BASE, "sub/b.py": "b\n"}, "Start")
    return tmp_path / "repo"


@pytest.fixture
def space(root: Path) -> Workspace:
    return Workspace(root)


def git(root: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=A", "-c", "user.email=a@b", *arguments]
    return subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout.rstrip("\n")


def test_a_commit_is_made_without_touching_tree_index_or_head(root: Path, space: Workspace) -> None:
    (root / "a.py").write_text("dirty\n")
    (root / "staged.txt").write_text("staged\n")
    git(root, "add", "staged.txt")
    before = contents(root, without=(".git/objects", ".git/refs/autoresearch"))
    base = space.head()
    made = space.commit("t", 1, base, {"a.py": "new\n"}, "Title\n\nWhy\n")
    assert contents(root, without=(".git/objects", ".git/refs/autoresearch")) == before
    assert git(root, "show", f"{made}:a.py") == "new" and git(root, "rev-parse", f"{made}^") == base
    assert git(root, "diff", "--name-only", base, made) == "a.py"
    assert git(root, "rev-parse", "refs/autoresearch/t/1") == made == space.attempt("t", 1)
    assert git(root, "log", "-1", "--format=%s|%b", made) == "Title|Why"


def test_who_is_interrupted_in_the_middle_of_a_file_waits_no_longer(root: Path, tmp_path: Path) -> None:
    """The command's own Ctrl-C, while git has told the beginning of a file and not yet the rest."""
    slow, told, real = tmp_path / "bin" / "git", tmp_path / "told", shutil.which("git")
    slow.parent.mkdir()
    file = f'{real} "$@" | {{ head -c 70; touch {told}; sleep 3; cat; }}'
    slow.write_text(f'#!/bin/sh\ncase "$*" in *check*) ;; *cat-file*) {file}; exit;; esac\nexec {real} "$@"\n')
    slow.chmod(0o755)
    reader = (
        "import signal; from pathlib import Path; from autoresearch.interrupts import listen; "
        "from autoresearch.workspace import Workspace; listen(signal.SIGINT); "
        f"Workspace(Path('.')).read('{git(root, 'rev-parse', 'HEAD')}', 'a.py')"
    )
    environ = {**os.environ, "PATH": f"{slow.parent}:{os.environ['PATH']}"}
    process = subprocess.Popen([sys.executable, "-c", reader], cwd=root, env=environ, stderr=subprocess.PIPE, text=True)
    try:
        until(told.exists, process)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == -signal.SIGINT and "KeyboardInterrupt" in err


def test_an_attempt_outlasts_a_power_cut(
    root: Path, space: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As git tells of itself, every object of an attempt and its ref is brought to the disk before the command ends."""
    if tuple(map(int, git(root, "version").split()[2].split(".")[:2])) < (2, 36):
        pytest.skip("git cannot sync references")
    monkeypatch.setenv("GIT_TRACE2_EVENT", str(tmp_path / "trace"))
    base = space.head()
    made = space.commit("t", 1, base, {"a.py": "new\n"}, "Title\n\nWhy\n")
    space.start("t", base)
    space.keep("t", made, base)
    events = [json.loads(line) for line in (tmp_path / "trace").read_text().splitlines()]
    names = {event["sid"]: event["name"] for event in events if event["event"] == "cmd_name"}
    synced = [names[event["sid"]] for event in events if event.get("key") == "fsync/hardware-flush"]
    assert sorted(synced) == ["commit-tree", "hash-object", *["update-ref"] * 3, "write-tree"]


def test_what_a_killed_commit_has_left_is_in_the_way_of_none_and_goes(root: Path, space: Workspace) -> None:
    staging = space.state / "runs" / "t" / "staging"
    staging.mkdir(parents=True)
    (staging / "index").write_text("half an index")
    (staging / "index.lock").touch()
    made = space.commit("t", 1, space.head(), {"a.py": "new\n"}, "m")
    assert git(root, "show", f"{made}:a.py") == "new"
    assert not staging.exists()


def test_a_lock_that_a_power_cut_has_left_is_named(root: Path, space: Workspace) -> None:
    lock = root / ".git" / "refs" / "autoresearch" / "t" / "1.lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    with pytest.raises(WorkspaceError, match=re.escape(f"{lock}': File exists")):
        space.mark("t", 1, space.head())


def test_modes_and_bytes_are_kept(root: Path, space: Workspace) -> None:
    (root / "a.py").chmod(0o755)
    (root / "crlf.py").write_bytes(b"a\r\nb\r\n")
    git(root, "-c", "core.autocrlf=false", "add", "--all")
    git(root, "commit", "--quiet", "-m", "executable")
    git(root, "config", "core.autocrlf", "true")
    made = space.commit("t", 1, space.head(), {"a.py": "x", "crlf.py": "a\r\nc\r\n", "sub/b.py": "ü\n"}, "m")
    assert git(root, "ls-tree", made, "a.py").startswith("100755 ")
    assert space.read(made, "a.py") == "x"
    assert space.read(made, "crlf.py") == "a\r\nc\r\n"
    assert space.read(made, "sub/b.py") == "ü\n"


def test_a_file_must_be_there_plain_and_text(root: Path, space: Workspace) -> None:
    (root / "link.py").symlink_to("/etc/passwd")
    (root / "latin.py").write_bytes(b"\xff\xfe")
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "-m", "odd")
    for path, message in (
        ("no.py", "not in commit"), ("link.py", "not a plain file"), ("latin.py", "not UTF-8"), ("sub", "not a plain"),
    ):  # fmt: skip
        with pytest.raises(WorkspaceError, match=message):
            space.read(space.head(), path)


def test_the_branch_moves_only_from_where_the_run_left_it(root: Path, space: Workspace) -> None:
    base = space.head()
    space.start("t", base)
    first = space.commit("t", 2, base, {"a.py": "1\n"}, "one")
    space.keep("t", first, base)
    assert space.branch("t") == first
    space.keep("t", first, base)  # done already, as after a kill between git and the ledger
    second = space.commit("t", 3, first, {"a.py": "2\n"}, "two")
    git(root, "branch", "--force", "autoresearch/t", base)
    with pytest.raises(WorkspaceError, match=f"not at {first[:10]}.*git branch -f autoresearch/t {first[:10]}"):
        space.keep("t", second, first)
    assert space.branch("t") == base and space.attempt("t", 3) == second


def test_a_keep_of_a_branch_that_somebody_looks_at_may_be_cut_short_and_done_again(
    root: Path, space: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = space.head()
    space.start("t", base)
    one = space.commit("t", 1, base, {"a.py": "one\n"}, "One")
    two = space.commit("t", 2, one, {"a.py": "two\n"}, "Two")
    git(root, "switch", "-q", "autoresearch/t")
    space.keep("t", one, base)

    def cut_short(path: Path, _: str) -> None:
        path.open("w").close()
        raise KeyboardInterrupt

    with monkeypatch.context() as interrupted, pytest.raises(KeyboardInterrupt):
        interrupted.setattr(Path, "write_text", cut_short)
        space.keep("t", two, one)
    space.keep("t", two, one)
    assert space.branch("t") == base
    git(root, "switch", "-q", "main")
    space.catch_up("t", two)
    assert space.branch("t") == two


def test_a_commit_is_found_by_prefix_branch_and_ref(root: Path, space: Workspace) -> None:
    base = space.head()
    for name in (base, base[:7], "main", "HEAD", "refs/heads/main"):
        assert space.resolve(name) == base
    for name in ("no-such", "main:a.py", "--all", "", "0" * 40, "a b", "HEAD^{tree}"):
        with pytest.raises(Misuse, match="there is no commit"):
            space.resolve(name)


def test_an_edit_is_carried_over_to_the_tip(root: Path, space: Workspace) -> None:
    base = space.head()
    tip = space.commit("t", 1, base, {"a.py": BASE.replace("line 2\n", "line two\n")}, "kept meanwhile")
    with pytest.raises(Misuse, match=r"no edit of a\.py"):
        space.edited("a.py", tip)
    (root / "a.py").write_text(BASE.replace("line 15\n", "line fifteen\n"))
    merged = space.edited("a.py", tip)
    assert merged == BASE.replace("line 2\n", "line two\n").replace("line 15\n", "line fifteen\n")
    assert (root / "a.py").read_text() == BASE.replace("line 15\n", "line fifteen\n")
    (root / "a.py").write_text(BASE.replace("line 2\n", "line 2, otherwise\n"))
    with pytest.raises(Misuse, match=f"conflicts with what the run has kept.*git merge {tip[:10]}"):
        space.edited("a.py", tip)


def test_an_edit_that_is_committed_counts_as_one(root: Path, space: Workspace) -> None:
    tip = space.head()
    (root / "a.py").write_text(BASE + "more\n")
    git(root, "commit", "--quiet", "--all", "-m", "mine")
    assert space.edited("a.py", tip) == BASE + "more\n"


def test_an_edit_keeps_its_line_ends(root: Path, space: Workspace) -> None:
    (root / "a.py").write_bytes(BASE.replace("\n", "\r\n").encode())
    git(root, "-c", "core.autocrlf=false", "commit", "--quiet", "--all", "-m", "CRLF")
    tip = space.head()
    with pytest.raises(Misuse, match="no edit"):
        space.edited("a.py", tip)
    (root / "a.py").write_bytes(BASE.replace("3", "three").replace("\n", "\r\n").encode())
    assert space.edited("a.py", tip) == BASE.replace("3", "three").replace("\n", "\r\n")


def test_an_edit_must_be_there_and_text(root: Path, space: Workspace) -> None:
    (root / "a.py").write_bytes(b"\xff")
    with pytest.raises(Misuse, match="not UTF-8"):
        space.edited("a.py", space.head())
    (root / "a.py").unlink()
    with pytest.raises(Misuse, match=r"git restore a\.py"):
        space.edited("a.py", space.head())
    assert space.uncommitted("a.py")


@pytest.mark.parametrize("tag", ["nov20", "a", "A.b_c-9", "x" * 61])
def test_a_tag_may_be(tag: str) -> None:
    assert check_tag(tag) == tag


@pytest.mark.parametrize(
    "tag", ["", "-x", ".x", "a..b", "a.", "a.lock", "a/b", "a b", "ü", "x" * 62, "a\n", "a~1", "@{"]
)
def test_a_tag_may_not_be(tag: str) -> None:
    with pytest.raises(Misuse, match="cannot be a tag"):
        check_tag(tag)


def test_a_new_lab_wants_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    for folder in (tmp_path / "full", tmp_path / "full" / "x"):
        with pytest.raises(WorkspaceError, match="not empty"):
            workspace.create(folder, {"a": ""}, "m")


def test_a_new_lab_may_be_made_in_an_empty_folder_even_the_one_a_shell_is_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    for folder in (Path(), tmp_path / "some" / "where" / "deep"):
        workspace.create(folder, {"a.py": "a\n", "sub/b.py": "b\n"}, "Start")
        assert git(folder, "ls-files") == "a.py\nsub/b.py" and git(folder, "status", "--porcelain") == ""
        assert sorted(path.name for path in folder.iterdir()) == [".git", "a.py", "sub"]
        assert folder.stat().st_mode & 0o077 == 0o077 & ~umask()
    assert Path("a.py").read_text() == "a\n"


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


# ---------------------------------------------------------------------------------------------- a run's whole history


def test_a_run_leaves_the_users_work_as_it_was(ran: Lab, tmp_path: Path) -> None:
    """Dirty tree, staged index, checked-out branch: byte for byte the same, whether attempts are kept or not."""
    ran.git("switch", "--quiet", "--create", "mine")
    (ran.root / "README.md").write_text("staged\n")
    ran.git("add", "README.md")
    (ran.root / "README.md").write_text("and then dirty\n")
    (ran.root / "train_core.py").write_text("dirty\n")
    (ran.root / "untracked.txt").write_text("mine\n")
    (ran.root / "programs" / "tiny.md").unlink()
    ran.git("status")  # refreshes the index's times, as the user's own commands do
    own = (".git/autoresearch", ".git/objects", ".git/refs/autoresearch", ".git/refs/heads/autoresearch")
    logs = (".git/logs/refs/heads/autoresearch", ".git/packed-refs")
    before, others = (
        contents(ran.root, without=own + logs),
        ran.git("for-each-ref", "refs/heads/main", "refs/heads/mine"),
    )
    done = ran("run", "-p", "programs/quick.md", "-n", 7, "-a", recording(tmp_path / "r.jsonl", *[CHEAP] * 9))
    assert done.code == 0, done.err
    assert "train_core.py has edits that are not committed" in done.out
    assert ran("replay", "3").code == 0
    assert contents(ran.root, without=own + logs) == before
    assert ran.git("for-each-ref", "refs/heads/main", "refs/heads/mine") == others


def test_nothing_is_lost_to_gc_clean_or_reset_and_a_clone_gets_the_attempts(ran: Lab, tmp_path: Path) -> None:
    attempts = {
        f"refs/autoresearch/quick/{n}": ran.git("rev-parse", f"refs/autoresearch/quick/{n}") for n in range(1, 5)
    }
    log = ran("log", "--json").out
    ran.git("reflog", "expire", "--expire=now", "--all")
    ran.git("gc", "--quiet", "--prune=now", "--aggressive")
    ran.git("clean", "-fdx", "--quiet")
    ran.git("reset", "--hard", "--quiet")
    assert ran("log", "--json").out == log
    for ref, commit in attempts.items():
        assert ran.git("rev-parse", ref) == commit and ran.git("cat-file", "-t", commit) == "commit"

    replayed = ran("replay", attempts["refs/autoresearch/quick/3"][:9])  # discarded
    assert replayed.code == 0, replayed.err
    told = " ".join(replayed.out.split())
    assert "(discarded)" in told and "they agree" in told, told
    rows = [line.split()[:3] for line in replayed.out.splitlines() if line.startswith(("recorded", "again"))]
    assert [row[0] for row in rows] == ["recorded", "again"] and rows[0][1] != rows[1][1]
    again = ran("replay", "3", "--set", "SOFTCAP=20.0", "--json").json
    assert again["changes"] == {"SOFTCAP": 20.0} and again["agreement"] is None and again["values"][0] > 0
    assert len(ran("show", "3", "--json").json["measurements"]) == 2  # a transfer is apart

    with sqlite3.connect(ran.ledger) as db:  # a figure that nothing like it was ever measured for
        db.execute("UPDATE experiments SET value = value - 1 WHERE number = 2")
        db.execute("UPDATE measurements SET detail = json_set(detail, '$.value', detail ->> '$.value' - 1)"
                   " WHERE number = 2")  # fmt: skip
    told = " ".join(ran("replay", "2").out.split())
    assert "they do NOT agree" in told, told

    ran.git("clone", "--quiet", ran.root, tmp_path / "clone")
    clone = ran.at(tmp_path / "clone")
    clone.git("fetch", "--quiet", "origin", "refs/autoresearch/*:refs/autoresearch/*")
    assert {ref: clone.git("rev-parse", ref) for ref in attempts} == attempts
