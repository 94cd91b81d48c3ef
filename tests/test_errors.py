"""What a user can get wrong: one line with the remedy, the right exit code, and nothing lost."""

import contextlib
import os
import re
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import CHEAP, Done, Lab, contents, recording

RUN = ("run", "-p", "programs/quick.md", "--sandbox", "off", "-n", 9)
QUICK = ("-p", "programs/quick.md")
BEGUN = ("recording is over", "no such command", "lost ledger")  # what begins to work before it sees the mistake


def says(done: Done, code: int, *patterns: str) -> None:
    """One line on standard error, that tells all of this, and no traceback."""
    assert done.code == code, done.out + done.err
    assert "Traceback" not in done.err + done.out
    assert done.err.endswith("\n") and done.err.count("\n") == 1, done.err
    for pattern in patterns:
        assert re.search(pattern, done.err), done.err


def history(lab: Lab) -> tuple[object, ...]:
    """All that must not be lost: the ledger, the refs, every file of the working tree and of git's own."""
    ledger: list[str] = []
    if lab.ledger.is_file() and lab.ledger.read_bytes()[:6] == b"SQLite":
        with sqlite3.connect(lab.ledger) as db, contextlib.suppress(sqlite3.DatabaseError):  # a damaged one
            ledger = list(db.iterdump())
    refs = lab.git("for-each-ref") if (lab.root / ".git" / "HEAD").exists() else ""
    objects = (".git/autoresearch", ".git/objects")
    return ledger, refs, contents(lab.root, without=objects)


def untouched(lab: Lab) -> object:
    """What even a run that has begun leaves as it is: the working tree, the index, HEAD and configuration."""
    own = ("objects", "autoresearch", "refs", "logs")
    return contents(lab.root, without=(".git",)), contents(lab.root / ".git", without=own)


@dataclass(frozen=True)
class Case:
    """A mistake: how it comes about in a lab, the command, and what it says."""

    name: str
    arguments: tuple[object, ...]
    code: int
    patterns: tuple[str, ...]
    before: Callable[[Lab], object] = lambda lab: None


def edited(old: str, new: str) -> Callable[[Lab], object]:
    return lambda lab: lab.write_program(old, new)


def added(line: str) -> Callable[[Lab], object]:
    return edited("---\nbudget: 60s", f"---\nbudget: 60s\n{line}")


def linked(lab: Lab) -> None:
    """The editable file is a link that leads out of the repository."""
    (lab.root.parent / "elsewhere.py").write_text(lab.train_core.read_text())
    lab.train_core.unlink()
    lab.train_core.symlink_to(lab.root.parent / "elsewhere.py")
    lab.git("commit", "--quiet", "--all", "--message", "a link")


def linked_folder(lab: Lab) -> None:
    (lab.root.parent / "outside").mkdir()
    (lab.root.parent / "outside" / "train.py").write_text("DEPTH = 1\n")
    (lab.root / "sub").symlink_to(lab.root.parent / "outside")
    lab.git("add", "sub")
    lab.git("commit", "--quiet", "--message", "a link")
    added("edit: sub/train.py")(lab)


def without_build_model(lab: Lab) -> None:
    source = lab.train_core.read_text()
    lab.train_core.write_text(source.replace("def build_model(", "def make_model("))
    lab.git("commit", "--quiet", "--all", "--message", "no build_model")


def folder_named_stdlib(lab: Lab) -> None:
    (lab.root / "stdlib").mkdir()
    (lab.root / "stdlib" / "a.txt").write_text("not the standard library")


def another_corpus(lab: Lab) -> None:
    folder = lab.root.parent / "other"
    folder.mkdir()
    for number in range(60):
        (folder / f"{number}.txt").write_text(f"text {number} " * 200)
    assert lab("prepare", *QUICK, "--corpus", folder).code == 0


def schema_of_tomorrow(lab: Lab) -> None:
    with sqlite3.connect(lab.ledger) as db:
        db.execute("PRAGMA user_version = 99")


def cut_short(lab: Lab) -> None:
    """As by a file system that lost its end."""
    with sqlite3.connect(lab.ledger) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    data = lab.ledger.read_bytes()
    lab.ledger.write_bytes(data[: len(data) // 2 + 100])


def damaged(lab: Lab) -> None:
    """Its first page is whole, and the rest is not."""
    with sqlite3.connect(lab.ledger) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    data = lab.ledger.read_bytes()
    lab.ledger.write_bytes(data[:4096] + b"\xa5" * (len(data) - 4096))


def garbage(lab: Lab) -> None:
    for path in lab.ledger.parent.glob("ledger.db*"):
        path.unlink()
    lab.ledger.write_text("this is no database, " * 100)


def file_as_program(data: bytes) -> Callable[[Lab], object]:
    return lambda lab: lab.program.write_bytes(data)


def lost_ledger(lab: Lab) -> None:
    for path in lab.ledger.parent.glob("ledger.db*"):
        path.unlink()


MISTAKES = [
    # --- the program; tests/test_program.py has all that it may say
    Case("unknown key", RUN, 2, (r"unknown key 'budgett'", r"did you mean 'budget'"), added("budgett: 5m")),
    Case("missing program", ("run", "-p", "programs/quik.md"), 2, (r"no program at", r"programs/quick\.md")),
    Case("program is a folder", ("run", "-p", "programs"), 2, (r"no program at|cannot read",)),
    Case("edit in .git", RUN, 2, (r"outside the repository", r"relative"), added("edit: .git/config")),
    Case("edit a link", RUN, 1, (r"not a plain file", r"Replace it"), linked),
    Case("edit below a link", RUN, 1, (r"sub/train\.py is not in commit", r"tracked"), linked_folder),
    Case("edit untracked", RUN, 1, (r"new\.py is not in commit", r"Commit it"), added("edit: new.py")),
    Case("invalid YAML", RUN, 2, (r"not valid YAML \(line 5\)", r"---"), file_as_program(b"---\na: 1\nb: [1\n---\n")),
    Case("not UTF-8", RUN, 2, (r"cannot read the program", r"UTF-8"), file_as_program(b"---\nbudget: 5m\n---\n\xff")),
    Case("unknown constant", RUN, 2, (r"sets WIDDTH", r"constants"), edited("DEPTH: 1", "WIDDTH: 1")),
    # --- the command line
    Case("wrong flag", (*RUN, "--hour", 3), 2, (r"--hour\b", r"--hours|--help")),
    Case("missing argument", ("show",), 2, (r"(?i)missing argument", r"--help")),
    Case("unknown command", ("runn",), 2, (r"runn", r"run\b.*|--help")),
    Case("negative hours", (*RUN, "--hours", -1), 2, (r"--hours", r"greater than or equal to 0")),
    Case("endless hours", (*RUN, "--hours", "nan"), 2, (r"--hours", r"greater than or equal to 0")),
    Case("no experiments", (*QUICK[:0], "run", *QUICK, "-n", 0), 2, (r"--experiments", r"greater than or equal to 1")),
    Case("unknown agent", (*RUN, "-a", "oracle"), 2, (r"no agent 'oracle'", r"search")),
    Case("no recording", (*RUN, "-a", "replay:nowhere.jsonl"), 1, (r"nowhere\.jsonl cannot be read", r"path")),
    Case("bad tag", (*RUN, "-t", "a b"), 2, (r"'a b' cannot be a tag", r"letters")),
    Case("tag above", (*RUN, "-t", "../x"), 2, (r"cannot be a tag", r"letters")),
    # --- the corpus
    Case("unprepared", (*RUN, "--corpus", "programs"), 1, (r"programs is not prepared", r"autoresearch prepare")),
    Case("like a folder", (*RUN, "--corpus", "stdlib"), 1, (r"corpus stdlib is not", r"prepare --corpus stdlib`"),
         folder_named_stdlib),
    Case("no corpus", (*RUN, "--corpus", "nowhere"), 1, (r"neither a known name nor a folder", r"stdlib")),
    Case("no such corpus", ("prepare", *QUICK, "--corpus", "nowhere"), 1, (r"neither a known name", r"stdlib")),
    # --- the file to train
    Case("no build_model", RUN, 1, (r"build_model", r"Mend train_core\.py, commit"), without_build_model),
    Case("vocabulary", RUN, 1, (r"VOCAB_SIZE is 256.*allows 300", r"commit"), edited("[256]", "[300]")),
    # --- nothing there yet
    Case("status of nothing", ("status",), 1, (r"no run has been started", r"autoresearch run")),
    Case("log of nothing", ("log",), 1, (r"no run has been started", r"autoresearch run")),
    Case("show of nothing", ("show", "1"), 1, (r"no run has been started", r"autoresearch run")),
    Case("init in a full folder", ("init", "."), 1, (r"not empty", r"new folder")),
]  # fmt: skip

MISTAKES_LATER = [
    Case("another program", ("run", "-p", "programs/other.md", "-t", "quick"), 2,
         (r"exists under another program, quick", r"--tag"), lambda lab: lab.write_program(name="other")),
    Case("another budget", RUN, 2, (r"another budget", r"--tag"), edited("budget: 60s", "budget: 61s")),
    Case("another corpus", (*RUN, "--corpus", "../other"), 1, (r"not the one run quick began with", r"--tag"),
         another_corpus),
    Case("ledger of garbage", ("status",), 1, (r"ledger.* cannot be read", r"backup"), garbage),
    Case("run on garbage", RUN, 1, (r"ledger.* cannot be read", r"backup"), garbage),
    Case("damaged ledger", ("log",), 1, (r"ledger.* cannot be read", r"backup"), damaged),
    Case("ledger cut short", ("log",), 1, (r"ledger.* cannot be read", r"backup"), cut_short),
    Case("run on a ledger cut short", RUN, 1, (r"ledger.* cannot be read", r"backup"), cut_short),
    Case("newer ledger", ("status",), 1, (r"schema 99", r"Upgrade"), schema_of_tomorrow),
    Case("run on newer", RUN, 1, (r"schema 99", r"Upgrade"), schema_of_tomorrow),
    Case("lost ledger", RUN, 2, (r"refs/autoresearch/quick/ holds the attempts", r"--tag quick-2"), lost_ledger),
    Case("unknown commit", ("show", "deadbeef"), 2, (r"no commit deadbeef", r"autoresearch log")),
    Case("unknown number", ("show", "77"), 2, (r"no experiment 77", r"autoresearch log")),
    Case("commit of no run", ("replay", "HEAD"), 2, (r"no experiment of a run", r"autoresearch log")),
    Case("an option as commit", ("replay", "--", "--all"), 2, (r"no commit --all", r"autoresearch log")),
    Case("replay of a failure", ("replay", "5"), 2, (r"has no commit", r"autoresearch log")),
    Case("set nothing", ("replay", "2", "--set", "DEPTH"), 2, (r"not NAME=VALUE", r"--set DEPTH=24")),
    Case("set unknown", ("replay", "2", "--set", "DEEP=3"), 2, (r"no constant DEEP", r"DEPTH")),
    Case("no budget", ("replay", "2", "--budget", "0"), 2, (r"--budget", r"more than 0")),
    Case("odd budget", ("replay", "2", "--budget", "soon"), 2, (r"--budget", r"5m")),
    Case("unknown tag", ("status", "-t", "other"), 2, (r"no run other", r"quick")),
    Case("nothing to try", ("try", *QUICK), 2, (r"no edit of train_core\.py", r"Edit it")),
    Case("no patch", ("try", *QUICK, "--patch", "nowhere.diff"), 2, (r"cannot read the patch", r"nowhere\.diff")),
    Case("recording is over", (*RUN, "-a", "replay:empty.jsonl"), 1, (r"has ended", r"another agent"),
         lambda lab: recording(lab.root / "empty.jsonl")),
    Case("no such command", (*RUN, "-a", "command:no-such-mind"), 1, (r"no-such-mind", r"PATH")),
]  # fmt: skip


@pytest.mark.parametrize("case", MISTAKES, ids=lambda case: case.name)
def test_a_mistake_in_a_fresh_lab(case: Case, lab: Lab) -> None:
    case.before(lab)
    before, head = untouched(lab), lab.git("rev-parse", "HEAD")
    says(lab(*case.arguments), case.code, *case.patterns)
    assert untouched(lab) == before and lab.git("rev-parse", "HEAD") == head


@pytest.mark.usefixtures("late")
@pytest.mark.parametrize("case", MISTAKES_LATER, ids=lambda case: case.name)
def test_a_mistake_with_a_history_to_lose(case: Case, ran: Lab) -> None:
    case.before(ran)
    before = history(ran)
    says(ran(*case.arguments), case.code, *case.patterns)
    assert history(ran)[case.name in BEGUN :] == before[case.name in BEGUN :]


# ---------------------------------------------------------------------------------------------- the repository


def test_outside_a_repository(lab: Lab) -> None:
    outside = lab.at(lab.root.parent)
    for arguments in (("run", "-p", lab.program), ("status",), ("log",), ("try", "-p", lab.program)):
        says(outside(*arguments), 1, r"not in a git repository", r"autoresearch init")


def test_a_repository_without_commits(lab: Lab, tmp_path: Path) -> None:
    lab.git("init", "--quiet", tmp_path / "new")
    says(lab.at(tmp_path / "new")("run", "-p", lab.program), 1, r"no commits", r"git commit")


def test_a_bare_repository(lab: Lab, tmp_path: Path) -> None:
    lab.git("clone", "--quiet", "--bare", lab.root, tmp_path / "bare.git")
    says(lab.at(tmp_path / "bare.git")("run", "-p", lab.program), 1, r"bare", r"Clone it")


@pytest.mark.usefixtures("late")
def test_a_branch_named_autoresearch(lab: Lab) -> None:
    lab.git("branch", "autoresearch")
    before = history(lab)
    says(lab(*RUN), 1, r"branch named autoresearch is in the way", r"git branch -m autoresearch")
    assert history(lab)[1:] == before[1:]


def test_a_branch_below_the_runs_name(lab: Lab) -> None:
    lab.git("branch", "autoresearch/quick/idea")
    says(lab(*RUN), 1, r"branch named autoresearch/quick/idea is in the way", r"git branch -m|--tag")


def test_a_branch_of_the_runs_name_that_no_run_made(lab: Lab) -> None:
    lab.git("commit", "--quiet", "--allow-empty", "-m", "mine")
    lab.git("branch", "autoresearch/quick", "HEAD~1")
    mine = lab.git("rev-parse", "autoresearch/quick")
    says(lab(*RUN), 1, r"autoresearch/quick exists|branch autoresearch/quick", r"--tag")
    assert lab.git("rev-parse", "autoresearch/quick") == mine


def test_the_runs_branch_is_checked_out(ran: Lab) -> None:
    ran.git("switch", "--quiet", "autoresearch/quick")
    before = history(ran)
    says(ran(*RUN), 1, r"autoresearch/quick is checked out", r"git switch")
    assert history(ran) == before


def test_the_runs_branch_is_checked_out_in_another_worktree(ran: Lab, tmp_path: Path) -> None:
    ran.git("worktree", "add", "--quiet", tmp_path / "other", "autoresearch/quick")
    says(ran(*RUN), 1, r"autoresearch/quick is checked out", r"other", r"git switch|worktree")


@pytest.mark.usefixtures("late")
def test_the_runs_branch_was_moved_by_hand(ran: Lab) -> None:
    """What is kept by a person on the run's branch is not overwritten."""
    ran.git("branch", "--force", "autoresearch/quick", "main")
    better = recording(ran.root / "r.jsonl", CHEAP)
    done = ran(*RUN[:-1], 6, "-a", better)
    assert ran.git("rev-parse", "autoresearch/quick") == ran.git("rev-parse", "main"), done.err


def test_without_git(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    without = lab.at(lab.root, PATH=str(tmp_path / "bin"))
    says(without(*RUN), 1, r"git is not on the PATH", r"Install")
    says(without("init", tmp_path / "new"), 1, r"git is not on the PATH", r"Install")
    assert not (tmp_path / "new").exists()


def test_a_lab_is_made_whole_or_not_at_all(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "bin").mkdir()
    shim = tmp_path / "bin" / "git"
    shim.write_text(f"""#!/bin/sh
case "$*" in *commit*) echo "fatal: no space left" >&2; exit 128;; esac
exec {shutil.which("git")} "$@"
""")
    shim.chmod(0o755)
    before = sorted(tmp_path.rglob("*"))
    says(lab("init", tmp_path / "file" / "lab"), 1, r"file/lab cannot be made: Not a directory", r"you may write")
    broken = lab.at(lab.root, PATH=f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    for name in ("new", "empty", "deep/er"):
        says(broken("init", tmp_path / name), 1, r"git commit failed \(fatal: no space left\)")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_lab_is_made_whatever_git_is_set_to(lab: Lab, tmp_path: Path) -> None:
    """Signatures that want a passphrase, hooks that refuse, files that are ignored."""
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    for name in ("pre-commit", "prepare-commit-msg", "commit-msg"):
        (hooks / name).write_text("#!/bin/sh\nexit 1\n")
        (hooks / name).chmod(0o755)
    (tmp_path / "ignored").write_text("*.md\n")
    (tmp_path / ".gitconfig").write_text(
        "[commit]\n\tgpgsign = true\n[gpg]\n\tprogram = false\n[core]\n"
        f"\thooksPath = {hooks}\n\texcludesFile = {tmp_path / 'ignored'}\n"
    )
    strict = lab.at(tmp_path, HOME=str(tmp_path))
    made = strict("init", "new")
    assert made.code == 0, made.err
    assert {"programs/tiny.md", "train_core.py"} <= set(strict.at(tmp_path / "new").git("ls-files").split())


@pytest.mark.usefixtures("late")
def test_a_git_that_fails(ran: Lab, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    shim = tmp_path / "bin" / "git"
    real = shutil.which("git")
    shim.write_text(f"""#!/bin/sh
case "$*" in *commit-tree*) echo "fatal: no space left" >&2; exit 128;; esac
exec {real} "$@"
""")
    shim.chmod(0o755)
    answers = recording(tmp_path / "r.jsonl", *[CHEAP] * 9)
    broken = ran.at(ran.root, PATH=f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    says(broken("run", *QUICK, "-n", 6, "-a", answers), 1, r"git commit-tree failed \(fatal: no space left\)")
    done = ran("run", *QUICK, "-n", 6, "-a", answers)
    assert done.code == 0 and "Costs no training" in done.out


def test_an_ambiguous_commit(ran: Lab) -> None:
    (ran.root / ".git" / "info").mkdir(exist_ok=True)
    kept = [ran.git("rev-parse", f"refs/autoresearch/quick/{number}") for number in (1, 2, 3, 4)]
    tree = ran.git("rev-parse", "HEAD^{tree}")
    commits: dict[str, str] = {commit[:4]: commit for commit in kept}
    stream = "".join(
        f"commit refs/tmp/x\ncommitter A <a@b> {number} +0000\ndata 0\nM 040000 {tree} \n\n" for number in range(2000)
    )
    subprocess.run(["git", "fast-import", "--quiet"], cwd=ran.root, input=stream, text=True, check=True)
    for commit in ran.git("rev-list", "refs/tmp/x").split():
        if commit[:4] in commits and commits[commit[:4]] != commit:
            prefix = commit[:4]
            break
        commits[commit[:4]] = commit
    else:
        pytest.fail("no two of 2000 commits begin alike")
    for command in ("show", "replay"):
        says(ran(command, prefix), 2, rf"{prefix} is the beginning of several", r"Give more")


# ---------------------------------------------------------------------------------------------- the machine


def test_a_cache_that_is_a_file(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("in the way")
    stuck = lab.at(lab.root, AUTORESEARCH_CACHE=str(tmp_path / "cache"))
    says(_last_line(stuck("prepare", *QUICK)), 1,
         r"cannot be written: Not a directory", r"AUTORESEARCH_CACHE|Repair")  # fmt: skip
    says(stuck(*RUN), 1, r"not prepared|cannot be", r"autoresearch prepare|AUTORESEARCH_CACHE")


def _last_line(done: Done) -> Done:
    """`prepare` tells its stages on standard error, too."""
    return Done(done.code, done.out, done.err.splitlines(keepends=True)[-1]) if done.err else done


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a file system")
def test_a_cache_that_cannot_be_written(lab: Lab, tmp_path: Path) -> None:
    read_only = 'mount -t tmpfs -o ro none "$1" || exit 77; shift; exec "$@"'
    (tmp_path / "cache").mkdir()
    done = _inside(
        lab.at(lab.root, AUTORESEARCH_CACHE=str(tmp_path / "cache")), read_only, tmp_path / "cache", "prepare", *QUICK
    )
    says(_last_line(done), 1, r"cannot be written: Read-only", r"then run")


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a file system")
def test_a_disk_that_is_full_while_preparing(lab: Lab, tmp_path: Path) -> None:
    small = 'mount -t tmpfs -o size=400k none "$1" || exit 77; shift; exec "$@"'
    (tmp_path / "cache").mkdir()
    done = _inside(
        lab.at(lab.root, AUTORESEARCH_CACHE=str(tmp_path / "cache")), small, tmp_path / "cache", "prepare", *QUICK
    )
    says(_last_line(done), 1, r"disk is full", r"Free as much", r"autoresearch prepare")


def _inside(lab: Lab, script: str, folder: Path, *arguments: object) -> Done:
    """The command in a mount namespace, with something mounted on the folder."""
    from tests.conftest import COMMAND

    command = ["unshare", "--mount", "sh", "-c", script, "sh", str(folder), str(COMMAND), *map(str, arguments)]
    done = subprocess.run(command, cwd=lab.root, env=lab.environ(), capture_output=True, text=True, timeout=120)
    if done.returncode == 77 or "unshare:" in done.stderr:
        pytest.skip("mounting is not permitted here")
    return Done(done.returncode, done.stdout, done.stderr)


def test_a_corpus_that_changed_since_the_run_began(lab: Lab, tmp_path: Path) -> None:
    """Same folder, other text: a run and a replay go on with what was prepared of it then, and never with the other."""
    folder = tmp_path / "words"
    folder.mkdir()
    for number in range(60):
        (folder / f"{number}.txt").write_text(f"text {number} " * 200)
    assert lab("prepare", *QUICK, "--corpus", folder).code == 0
    broken = lab.write_program("DEPTH: 1", "DEPTH: 1", name="words")
    done = lab("run", "-p", broken, "--corpus", folder, "-n", 1)
    assert done.code == 0, done.err
    (folder / "3.txt").write_text("other text " * 300)
    done = lab("run", "-p", broken, "--corpus", folder, "-n", 1)
    assert done.code == 0 and f"note: {folder} is not as it was when run words began" in done.out, done.err
    begun = {path.name for path in (lab.cache / "corpora").glob("words-*")}
    assert lab("prepare", *QUICK, "--corpus", folder).code == 0
    assert lab("run", "-p", broken, "--corpus", folder, "-n", 1).code == 0
    assert "they agree" in lab("replay", "1").out
    says(lab("run", "-p", broken), 1, r"not the one run words began with", r"--corpus", r"--tag words-2")

    for name in begun:
        shutil.rmtree(lab.cache / "corpora" / name)
    says(lab("run", "-p", broken, "--corpus", folder), 1, r"not the one run words began with", r"--tag words-2")
    says(lab("replay", "1"), 1, r"has changed since run words began")
