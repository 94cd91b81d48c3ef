"""Git: the run's branch, a commit and a ref per attempt, keep or revert.

Commits are built with a private index and `commit-tree`: the user's working tree, index and checked-out branch are
never touched. Keeping is a compare-and-swap of the run's branch; reverting leaves it where it is.
"""

import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import git

from autoresearch.atomic import written
from autoresearch.errors import Misuse, WorkspaceError

NULL = "0" * 40
_SYNCED = ("-c", "core.fsync=loose-object,reference")  # a power cut leaves no ledger that names a commit that is gone
_NOBODY = {"NAME": "autoresearch", "EMAIL": "autoresearch@localhost"}


def check_tag(tag: str) -> str:
    """A run's tag is part of a branch's, a ref's and a folder's name: Misuse if it cannot be."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,60}", tag) or ".." in tag or tag.endswith((".", ".lock")):
        raise Misuse(f"{tag!r} cannot be a tag.", "Use letters, digits, '.', '_' and '-', such as nov20.")
    return tag


class _Refused(WorkspaceError):
    """A git command failed; `said` is the line of what it printed that names a lock in its way, or else the last."""

    def __init__(self, name: str, error: git.GitCommandError) -> None:
        self.stderr = str(error.stderr)
        lines = [line.strip() for line in self.stderr.splitlines() if line.strip()]
        telling = [line for line in lines if ".lock'" in line] or lines
        self.said = telling[-1].removeprefix("stderr: ").strip("'\" ") if lines else "it gave no reason"
        super().__init__(f"git {name} failed ({self.said}).", "Once git works here, run again: nothing is lost.")


class Workspace:
    """The git repository around `path`. WorkspaceError if there is none, if it is bare, or without a commit."""

    def __init__(self, path: Path) -> None:
        _check_git()
        try:
            self._repo = git.Repo(path, search_parent_directories=True)
        except git.InvalidGitRepositoryError:
            raise WorkspaceError(
                f"{path} is not in a git repository.", "Make a lab with `autoresearch init DIR` and run there."
            ) from None
        except git.NoSuchPathError:
            raise WorkspaceError(
                f"there is no folder {path}.", "Go to a lab made by `autoresearch init DIR`."
            ) from None
        if self._repo.bare:
            raise WorkspaceError(f"the repository at {path} is bare.", "Clone it, and run in the clone.")
        if not self._head():
            raise WorkspaceError(
                "the repository has no commits.", "Commit first: `git add -A && git commit -m 'Start'`."
            )
        self.root = Path(str(self._repo.working_tree_dir))
        self.state = Path(str(self._repo.common_dir)) / "autoresearch"

    # ------------------------------------------------------------------------------------------ reading

    def head(self) -> str:
        """The commit that is checked out. WorkspaceError if there is none any more."""
        if not (commit := self._head()):
            raise WorkspaceError("the checked-out branch has no commit.", "Check out one that has: `git switch -`.")
        return commit

    def _head(self) -> str | None:
        try:
            return self._git("rev-parse", "--verify", "--quiet", "HEAD^{commit}")
        except _Refused as error:
            if error.stderr:
                raise  # git does not work here; where there is no commit, it says nothing
            return None

    def read(self, commit: str, path: str) -> str:
        """Text of a file in a commit. WorkspaceError if it is missing, a link, or not UTF-8."""
        mode, blob = self._entry(commit, path)
        if mode not in ("100644", "100755"):
            raise WorkspaceError(
                f"{path} is not a plain file in commit {commit[:10]}.", "Replace it by one and commit."
            )
        try:
            return self._text(blob)
        except UnicodeDecodeError:
            raise WorkspaceError(f"{path} is not UTF-8 text in commit {commit[:10]}.", "Convert it.") from None

    def _entry(self, commit: str, path: str) -> tuple[str, str]:
        line = self._git("ls-tree", "-z", "--full-tree", commit, "--", path).rstrip("\0")
        if not line or "\0" in line:
            raise WorkspaceError(
                f"{path} is not in commit {commit[:10]}.",
                f"Commit it, or name another file as `edit` (the commit is the one you have checked out: {path} must "
                "be tracked).",
            )
        mode, _, rest = line.partition(" ")
        return mode, rest.split(" ", 1)[1].split("\t")[0]

    def uncommitted(self, path: str) -> bool:
        """Whether the working tree's copy of a file differs from the checked-out commit's."""
        return not (self.root / path).exists() or self._as_committed(path) != self.read(self.head(), path)

    def _as_committed(self, path: str) -> str:
        """The working tree's copy of a file as git would commit it, with its line endings converted if git is so set.

        Misuse if it is not there, or not UTF-8 text."""
        if not (self.root / path).is_file():
            raise Misuse(f"there is no file {path} in the working tree.", f"Restore it: `git restore {path}`.")
        try:
            return self._text(self._git("hash-object", "-w", f"--path={path}", "--", str(self.root / path)))
        except UnicodeDecodeError:
            raise Misuse(f"{path} is not UTF-8 text.", "Convert it.") from None

    def _text(self, blob: str) -> str:
        return self._output("cat-file", "blob", blob).decode("utf-8")

    def resolve(self, name: str) -> str:
        """The full id of a commit given by a prefix, a branch or a ref. Misuse if unknown or ambiguous."""
        try:
            return self._git("rev-parse", "--verify", "--end-of-options", f"{name}^{{commit}}")
        except _Refused as error:
            if "ambiguous" in error.stderr:
                raise Misuse(f"{name} is the beginning of several commits.", "Give more of it.") from None
            raise Misuse(f"there is no commit {name}.", "`autoresearch log` lists them.") from None

    def diff(self, old: str, new: str) -> str:
        return self._git("diff", "--no-color", "--no-ext-diff", old, new)

    def edited(self, path: str, tip: str) -> str:
        """The working tree's edit of a file, on top of the tip's: merged with what the run has kept in between.

        Raises Misuse if the two conflict, or if the working tree has no edit.
        """
        base = self.read(self._git("merge-base", self.head(), tip), path)
        theirs, ours = self._as_committed(path), self.read(tip, path)
        if theirs == base:
            raise Misuse(f"there is no edit of {path} to try.", "Edit it first; it need not be committed.")
        with tempfile.TemporaryDirectory(prefix="autoresearch-merge-") as folder:
            files = [Path(folder) / name for name in ("tip", "base", "edit")]
            for file, text in zip(files, (ours, base, theirs), strict=True):
                file.write_bytes(text.encode())
            try:
                self._git("merge-file", *map(str, files))
            except _Refused:
                raise Misuse(
                    f"your edit of {path} conflicts with what the run has kept since.",
                    f"Merge that first: `git merge {tip[:10]}`.",
                ) from None
            return files[0].read_bytes().decode()

    def branch(self, tag: str) -> str | None:
        """Where the run's branch points; None if there is no such branch."""
        return self._ref(f"refs/heads/autoresearch/{tag}")

    # ------------------------------------------------------------------------------------------ writing

    def start(self, tag: str, base: str, old: str | None = None) -> None:
        """Make the run's branch at `base`, or move it there from `old`. Raises if something is in the way."""
        self.check_free(tag)
        branch, found = f"refs/heads/autoresearch/{tag}", self.branch(tag)
        for blocking in ("refs/heads/autoresearch", f"{branch}/**"):
            for ref in self._git("for-each-ref", "--count=1", "--format=%(refname)", blocking).split():
                if ref == blocking or blocking != "refs/heads/autoresearch":
                    name = ref.removeprefix("refs/heads/")
                    raise WorkspaceError(
                        f"a branch named {name} is in the way of autoresearch/{tag}.",
                        f"Rename it: `git branch -m {name} something-else`; or name the run with --tag.",
                    )
        if found and found not in (base, old):
            raise WorkspaceError(
                f"there is a branch autoresearch/{tag} already, and this run did not make it.",
                f"Rename it: `git branch -m autoresearch/{tag} something-else`; or name the run with --tag.",
            )
        if found != base:
            self._move(branch, base, old or NULL)

    def commit(self, tag: str, number: int, parent: str, files: Mapping[str, str], message: str) -> str:
        """A commit of `files` on top of `parent`, held by refs/autoresearch/<tag>/<number>: its id."""
        with self._staging(tag) as folder:
            env = {"GIT_INDEX_FILE": str(folder / "index"), **_identity(self._repo)}
            self._git("read-tree", parent, env=env)
            for path, text in files.items():
                mode, _ = self._entry(parent, path)
                # As it is, past any line-ending or clean filter.
                (folder / "blob").write_bytes(text.encode())
                blob = self._git("hash-object", "-w", "--no-filters", "--", str(folder / "blob"))
                self._git("update-index", "--cacheinfo", f"{mode},{blob},{path}", env=env)
            tree = self._git("write-tree", env=env)
            commit = self._git("commit-tree", tree, "-p", parent, "-m", message, env=env)
        self.mark(tag, number, commit)
        return commit

    def mark(self, tag: str, number: int, commit: str) -> None:
        """Hold a commit by the attempt's ref, so that nothing collects it."""
        self._git("update-ref", f"refs/autoresearch/{tag}/{number}", commit)

    def attempt(self, tag: str, number: int) -> str | None:
        """The commit an attempt's ref holds, if any."""
        return self._ref(f"refs/autoresearch/{tag}/{number}")

    def _ref(self, name: str) -> str | None:
        return self._git("for-each-ref", "--format=%(objectname)", name) or None

    def keep(self, tag: str, commit: str, tip: str) -> None:
        """Move the run's branch from `tip` to `commit`. Done already is fine; anything else there is an error.

        A branch that is checked out stays where it is, or its working tree would look edited: `catch_up` moves it."""
        branch, left = self.branch(tag), self._left(tag)
        old = branch if branch and left.exists() and branch == left.read_text() else tip
        if branch == commit:
            left.unlink(missing_ok=True)
        elif self.checked_out(tag):
            with written(left) as partial:
                partial.write_text(old)
        else:
            self._move(f"refs/heads/autoresearch/{tag}", commit, old)
            left.unlink(missing_ok=True)

    def catch_up(self, tag: str, commit: str) -> None:
        """Move the run's branch to `commit` if it was checked out when it was to move, and is not any more."""
        left = self._left(tag)
        if left.exists() and self.branch(tag) == left.read_text():
            self.keep(tag, commit, left.read_text())

    def _left(self, tag: str) -> Path:
        """Says where a run's branch is that was not moved."""
        return self.state / "runs" / tag / "branch"

    def _move(self, ref: str, new: str, old: str) -> None:
        try:
            self._git("update-ref", ref, new, old)
        except _Refused as error:
            name = ref.removeprefix("refs/heads/")
            raise WorkspaceError(
                f"branch {name} is not at {old[:10]}, where this run left it ({error.said}).",
                f"Put it back with `git branch -f {name} {old[:10]}`, or start another run with --tag.",
            ) from None

    def check_free(self, tag: str) -> None:
        """WorkspaceError if the run's branch is checked out, in this worktree or another: a run moves it."""
        if worktree := self.checked_out(tag):
            raise WorkspaceError(
                f"autoresearch/{tag} is checked out in {worktree}, and a run moves it.",
                "Check out another branch there: `git switch -`.",
            )

    def checked_out(self, tag: str) -> str | None:
        """The worktree that has the run's branch checked out, this one or another."""
        worktree = ""
        for line in self._git("worktree", "list", "--porcelain").splitlines():
            worktree = line.removeprefix("worktree ") if line.startswith("worktree ") else worktree
            if line == f"branch refs/heads/autoresearch/{tag}":
                return worktree
        return None

    @contextmanager
    def _staging(self, tag: str) -> Iterator[Path]:
        """An empty folder in which a run's next commit is put together. Always the same: what a killed process has left
        there goes."""
        folder = self.state.absolute() / "runs" / tag / "staging"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _git(self, *command: str, env: Mapping[str, str] | None = None) -> str:
        """The text that a git command prints, without the end of its last line."""
        return self._output(*command, env=env).decode("utf-8", "surrogateescape").removesuffix("\n")

    def _output(self, name: str, *arguments: str, env: Mapping[str, str] | None = None) -> bytes:
        """What a git command prints. Each is a process of its own: one that is kept, as GitPython does to read objects,
        makes an interrupted reader wait for ever for the rest of its answer."""
        # The user's working tree may be a worktree or have GIT_* set; GitPython runs in it, and that is what we want.
        try:
            return bytes(
                self._repo.git.execute(
                    ["git", *_SYNCED, name, *arguments],
                    env=dict(env or {}),
                    stdout_as_string=False,
                    strip_newline_in_stdout=False,
                )
            )
        except git.GitCommandError as error:
            raise _Refused(name, error) from None


def create(folder: Path, files: Mapping[str, str], message: str) -> None:
    """A new repository with one commit of `files`, whole or not at all.

    WorkspaceError if the folder holds anything already or cannot be made, or if git fails.
    """
    _check_git()
    folder = folder.absolute()
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise WorkspaceError(f"{folder} exists and is not empty.", "Name a new folder.")
        # Made beside its place and then moved there. An empty folder stays: a shell may be in it, or it is a mount.
        beside = next(path for path in (folder, *folder.parents) if path.exists())
        with tempfile.TemporaryDirectory(prefix=".autoresearch-", dir=beside) as made:
            lab = Path(made) / "lab"
            _fill(lab, files, message)
            if beside == folder:
                for path in lab.iterdir():
                    path.rename(folder / path.name)
            else:
                folder.parent.mkdir(parents=True, exist_ok=True)
                lab.rename(folder)
    except OSError as error:
        raise WorkspaceError(
            f"{folder} cannot be made: {error.strerror or error}.", "Name a folder where you may write."
        ) from None


def _fill(root: Path, files: Mapping[str, str], message: str) -> None:
    for path, text in files.items():
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    # Whatever the user has set up for work of their own: no hook, no signature, nothing ignored.
    settings = ("-c", "core.hooksPath=/dev/null", "-c", "commit.gpgsign=false")
    try:
        with git.Repo.init(root, initial_branch="main") as repo:
            repo.git.add("--all", "--force")
            repo.git.execute(["git", *settings, "commit", "--quiet", "--message", message], env=_identity(repo))
    except git.GitCommandError as error:
        raise _Refused("commit", error) from None


def _check_git() -> None:
    if shutil.which("git") is None:
        raise WorkspaceError("git is not on the PATH.", "Install git, 2.30 or newer.")


def _identity(repo: git.Repo) -> dict[str, str]:
    """Nothing where git knows who the user is; else a name, since git refuses to commit without one."""
    try:
        repo.git.var("GIT_COMMITTER_IDENT")
    except git.GitCommandError:
        return {f"GIT_{role}_{key}": value for role in ("AUTHOR", "COMMITTER") for key, value in _NOBODY.items()}
    return {}
