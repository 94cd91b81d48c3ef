"""The reply grammar: tolerant of how models write, strict about what they mean."""

import pytest

from autoresearch.agent.reply import Edit, Header, PatchError, clean, read_edits, read_header

BLOCK = """\
train_core.py
<<<<<<< SEARCH
A = 1
=======
A = 2
>>>>>>> REPLACE
"""
HEADER = """\
TITLE: Twice the rate
FAMILY: optimizer
HYPOTHESIS: Steps are few, so each must go farther.
EXPECT: -0.002
"""
ONE = (Edit("block 1", "train_core.py", "A = 1", "A = 2"),)


def test_a_reply_to_the_letter():
    reply = HEADER + BLOCK
    assert read_header(reply) == Header(
        "Twice the rate", "optimizer", "Steps are few, so each must go farther.", -0.002
    )
    assert read_edits(reply) == ONE


@pytest.mark.parametrize(
    "reply",
    [
        "Here is my idea.\n\n" + BLOCK + "\nI hope that it helps!\n",
        BLOCK.replace("\n", "\r\n"),
        "```python\n" + BLOCK + "```\n",
        "```\n" + BLOCK + "```\n",
        BLOCK.replace("train_core.py\n", "train_core.py\n```python\n") + "```\n",
        BLOCK.replace("train_core.py\n", "train_core.py\n\n"),
        BLOCK.replace("train_core.py", "**train_core.py**"),
        BLOCK.replace("train_core.py", "`train_core.py`:"),
        BLOCK.replace("train_core.py", "### File: train_core.py"),
        BLOCK.replace("train_core.py\n", "").replace("SEARCH", "SEARCH train_core.py"),
        BLOCK.replace("<<<<<<<", "<<<<<").replace("=======", "=====").replace(">>>>>>>", ">>>>>"),
        BLOCK.replace("<<<<<<<", "<<<<<<<<<").replace(">>>>>>>", ">>>>>>>>"),
        BLOCK.replace("SEARCH", "SEARCH  ").replace("=======", "=======  ").replace("REPLACE", "REPLACE\t"),
        BLOCK.replace("A = 1", "```python\nA = 1\n```").replace("A = 2", "```python\nA = 2\n```"),
        BLOCK.removesuffix("\n"),
    ],
)
def test_forms_that_mean_the_same(reply):
    assert read_edits(reply) == ONE


def test_a_block_may_name_no_file():
    assert read_edits(BLOCK.removeprefix("train_core.py\n"))[0].path is None
    assert read_edits("The change:\n" + BLOCK.removeprefix("train_core.py\n"))[0].path is None


def test_text_may_hold_a_line_of_equals_signs_of_another_length():
    reply = BLOCK.replace("A = 1", "Title\n=====").replace("A = 2", "Heading\n=====")
    assert read_edits(reply) == (Edit("block 1", "train_core.py", "Title\n=====", "Heading\n====="),)


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ("", "contains no edit"),
        ("I have no idea.", "contains no edit"),
        (BLOCK.replace(">>>>>>> REPLACE\n", ""), "block 1 is not ended"),
        (BLOCK.replace(">>>>>>> REPLACE\n", "") + BLOCK, "block 1 is not ended"),
        (BLOCK + BLOCK.replace(">>>>>>> REPLACE", ""), "block 2 is not ended"),
        (BLOCK.replace("=======\n", ""), "block 1 has no line `=======`"),
        (BLOCK.replace("=======\n", "=======\n=======\n"), "block 1 has several lines `=======`"),
        (BLOCK * 201, "201 edits"),
        ("x" * 1_000_001, "longer than"),
    ],
)
def test_what_cannot_be_read_is_named(reply, message):
    with pytest.raises(PatchError, match=message):
        read_edits(reply)


class TestHeader:
    def test_bold_and_listed_fields(self):
        reply = "**TITLE:** A\n- **Family**: Schedule\n## HYPOTHESIS: because\n* EXPECT: **-1e-3**\n"
        assert read_header(reply) == Header("A", "schedule", "because", -0.001)

    def test_a_hypothesis_of_several_lines(self):
        assert read_header("HYPOTHESIS: one\ntwo\nthree\n\nfour\n" + BLOCK).hypothesis == "one two three"
        assert read_header("HYPOTHESIS: one\n" + BLOCK).hypothesis == "one"

    def test_fields_behind_the_edit_and_words_inside_it(self):
        reply = BLOCK.replace("A = 2", "TITLE: not this one") + HEADER
        assert read_header(reply).title == "Twice the rate"

    def test_the_title_falls_back_to_the_hypothesis(self):
        assert read_header("HYPOTHESIS: Larger steps. They go farther.").title == "Larger steps"
        assert read_header("nothing at all").title == ""

    def test_an_unknown_family_is_other(self):
        assert read_header("FAMILY: wizardry").family == "other"
        assert read_header("FAMILY: attention (windows)").family == "attention"

    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("-0.002", -0.002),
            ("+0.002", 0.002),
            ("−0.002 bpb", -0.002),
            ("~ -.5", -0.5),
            ("-2e-3", -0.002),
            ("-0.002 to -0.001", None),
            ("-2%", None),
            ("a little lower", None),
            ("1e999", None),
            ("nan", None),
            ("", None),
        ],
    )
    def test_expectations(self, text, value):
        assert read_header(f"EXPECT: {text}").expect == value

    def test_fields_are_bounded_and_harmless(self):
        hostile = "\x1b[31mred\x1b[0m \x1b]0;title\x07 \u202eevil\u202c \x00\x08 line"
        header = read_header(f"TITLE: {hostile}{'x' * 5000}\nHYPOTHESIS: {hostile}{'y ' * 5000}\n")
        assert header.title.startswith("red evil line") and len(header.title) <= 120
        assert len(header.hypothesis) <= 1000
        assert (header.title + header.hypothesis).isprintable()

    def test_clean_keeps_one_line_of_any_script(self):
        assert clean("größer\n\tals  前", 100) == "größer als 前"
        assert clean("x" * 50, 10) == "x" * 9 + "…"


class TestDiff:
    DIFF = "--- a/train_core.py\n+++ b/train_core.py\n@@ -10,3 +10,3 @@ def f():\n x = 1\n-y = 1\n+y = 2\n z = 1\n"

    def test_hunks_become_edits(self):
        expected = (Edit("hunk 1", "train_core.py", "x = 1\ny = 1\nz = 1", "x = 1\ny = 2\nz = 1"),)
        assert read_edits(self.DIFF) == expected
        assert read_edits("diff --git a/train_core.py b/train_core.py\nindex 1..2 100644\n" + self.DIFF) == expected
        assert read_edits(f"Look:\n```diff\n{self.DIFF}```\nDone.\n") == expected
        assert read_edits(self.DIFF + "\nThat is all.\n") == expected
        assert read_edits(self.DIFF.replace("@@ -10,3 +10,3 @@ def f():", "@@")) == expected
        assert read_edits(self.DIFF.replace("+++ b/train_core.py", "+++ b/train_core.py\t2026-01-01")) == expected

    def test_empty_lines_and_lines_without_their_space_are_context(self):
        diff = "```diff\n@@\n def f():\n\n-    return 1\n+    return 2\nB = 1\n```\n"
        assert read_edits(diff) == (
            Edit("hunk 1", None, "def f():\n\n    return 1\nB = 1", "def f():\n\n    return 2\nB = 1"),
        )

    def test_several_hunks_and_files(self):
        edits = read_edits(self.DIFF + "@@ -1 +1 @@\n-a\n+b\n" + self.DIFF.replace("train_core", "other"))
        assert [(edit.label, edit.path) for edit in edits] == [
            ("hunk 1", "train_core.py"),
            ("hunk 2", "train_core.py"),
            ("hunk 3", "other.py"),
        ]

    def test_a_note_about_the_final_newline_is_no_text(self):
        edits = read_edits("@@ -1 +1 @@\n-a\n\\ No newline at end of file\n+b\n\\ No newline at end of file\n")
        assert edits == (Edit("hunk 1", None, "a", "b"),)
