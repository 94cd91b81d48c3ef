"""Ten thousand replies at random: refused in words or applied, never a crash, never a file outside `edit`."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autoresearch.agent.patch import apply
from autoresearch.agent.reply import MAX_HYPOTHESIS, MAX_TITLE, PatchError, read_edits, read_header
from autoresearch.records import FAMILIES

FILES = {
    "train_core.py": (
        "A = 1\nB = 2  # [1, 4]; note\n\n\ndef f(x):\n    y = x\n    return y\n\n\n"
        "def g(x):\n    y = x\n    return y + 1\n"
    ),
    "lib/other.py": "C = 3\r\nif C:\r\n\tD = 4\r\n",
}
LINES = [line for text in FILES.values() for line in text.splitlines()]

grammar = st.sampled_from(
    [
        "<<<<<<< SEARCH", "=======", ">>>>>>> REPLACE", "<<<<< SEARCH", "=====", ">>>>> REPLACE", "<<<<<<< SEARCH x.py",
        "```", "```python", "~~~", "````", "```diff", "--- a/train_core.py", "+++ b/train_core.py", "+++ b/../evil.py",
        "@@ -1,3 +1,3 @@", "@@", "diff --git a/x b/x", "train_core.py", "lib/other.py", "other.py", "/etc/passwd.py",
        "../train_core.py", "**train_core.py**", "TITLE: t", "FAMILY: optimizer", "HYPOTHESIS: h", "EXPECT: -0.1",
        "\\ No newline at end of file", "# ... rest unchanged", "",
    ]
)  # fmt: skip
real = st.sampled_from(LINES)
shifted = st.tuples(
    st.sampled_from(["", " ", "    ", "\t", "-", "+"]), real, st.sampled_from(["", " ", "\r", "x"])
).map("".join)
line = st.one_of(grammar, grammar, real, shifted, st.text(max_size=12))
loose = st.lists(line, max_size=40).map("\n".join)


def _block(path: str, search: list[str], replace: list[str]) -> str:
    return "\n".join([path, "<<<<<<< SEARCH", *search, "=======", *replace, ">>>>>>> REPLACE"])


paths = st.sampled_from(["train_core.py", "other.py", "lib/other.py", "", "evil.py", "../lib/other.py"])
pieces = st.builds(lambda start, size: LINES[start : start + size], st.integers(0, len(LINES)), st.integers(0, 6))
body = st.one_of(pieces, st.lists(line, max_size=6))
formed = st.lists(st.builds(_block, paths, body, body), min_size=1, max_size=4).map("\n".join)
hunk = st.lists(st.one_of(shifted, real.map(lambda text: " " + text)), max_size=8).map("\n".join)
diff = st.builds(lambda path, body: f"--- a/{path}\n+++ b/{path}\n@@ -1 +1 @@\n{body}\n", paths, hunk)
fence = st.builds(
    lambda path, body: f"{path}\n```python\n{body}\n```", paths, st.lists(line, max_size=20).map("\n".join)
)

# Mostly right: whole pieces of one file, and replacements that tend to compile.
apt = st.sampled_from(["A = 2", "B = 3", "C = 4", "def h():", "    y = 2 * x", "    return y", "", "    pass"])
place = st.sampled_from(
    ["A = 1", "B = 2  # [1, 4]; note", "def f(x):", "def g(x):\n    y = x", "    return y", "return y + 1"]
)
likely = st.lists(
    st.builds(lambda text, new: _block("train_core.py", [text], [text, *new]), place, st.lists(apt, max_size=2)),
    min_size=1,
    max_size=3,
).map("\n".join)
reply = st.one_of(
    likely, likely, loose, formed, diff, fence, st.text(max_size=200), st.tuples(formed, loose).map("\n".join)
)


@pytest.mark.parametrize("part", range(5))  # apart, so that test processes can share the work
def test_a_random_reply_is_applied_or_refused(part):
    outcomes = {"applied": 0, "refused": 0}

    @settings(max_examples=2000, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(reply)
    def check(text: str) -> None:
        header = read_header(text)
        assert len(header.title) <= MAX_TITLE and len(header.hypothesis) <= MAX_HYPOTHESIS
        assert header.title.isprintable() and header.hypothesis.isprintable() and header.family in FAMILIES
        try:
            patch = apply(read_edits(text), FILES)
        except PatchError as error:
            assert error.summary and len(str(error)) < 10_000
            outcomes["refused"] += 1
            return
        outcomes["applied"] += 1
        assert set(patch.files) <= set(FILES)
        for path, new in patch.files.items():
            assert new != FILES[path]
            compile(new, path, "exec")

    check()
    assert min(outcomes.values()) > 20, outcomes  # neither side is left untried
