"""Edits land exactly where they were meant, or are refused with the block's name and the lines nearest to it."""

import time

import pytest

from autoresearch.agent.patch import apply
from autoresearch.agent.reply import PatchError, read_edits
from tests.agent.edits import EDITS, HEADER, PATH, TRAIN_FILE, RealEdit, as_blocks, as_diff, as_file


def patched(reply: str, files: dict[str, str] | None = None) -> dict[str, str]:
    return dict(apply(read_edits(reply), files or {PATH: TRAIN_FILE}).files)


def refused(reply: str, files: dict[str, str] | None = None) -> str:
    with pytest.raises(PatchError) as error:
        patched(reply, files)
    return str(error.value)


def block(search: str, replace: str, path: str = PATH) -> str:
    return f"{path}\n<<<<<<< SEARCH\n{search}\n=======\n{replace}\n>>>>>>> REPLACE\n"


def hunks_of(edit: RealEdit) -> int:
    return as_blocks(TRAIN_FILE, edit.after).count("<<<<<<< SEARCH")


def test_there_are_enough_real_edits_and_each_has_several_hunks():
    assert len(EDITS) * 3 >= 60
    assert all(hunks_of(edit) >= 2 for edit in EDITS)


@pytest.mark.parametrize("form", ["blocks", "diff", "file"])
@pytest.mark.parametrize("number", range(len(EDITS)), ids=[edit.name for edit in EDITS])
def test_a_real_edit_applies_exactly_as_meant(number, form):
    edit = EDITS[number]
    reply = (
        HEADER.format(name=edit.name)
        + {
            "blocks": as_blocks(TRAIN_FILE, edit.after),
            "diff": as_diff(TRAIN_FILE, edit.after, seed=number),
            "file": as_file(edit.after),
        }[form]
    )
    assert patched(reply) == {PATH: edit.after}


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.name)
def test_a_real_edit_keeps_windows_line_endings(edit):
    files = {PATH: TRAIN_FILE.replace("\n", "\r\n")}
    for reply in (as_blocks(TRAIN_FILE, edit.after), as_diff(TRAIN_FILE, edit.after, 1), as_file(edit.after)):
        assert patched(reply, files) == {PATH: edit.after.replace("\n", "\r\n")}
        assert patched(reply.replace("\n", "\r\n")) == {PATH: edit.after}


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.name)
def test_one_wrong_line_in_a_real_edit_refuses_all_of_it_and_names_the_block(edit):
    reply = as_blocks(TRAIN_FILE, edit.after)
    last = reply.rindex("<<<<<<< SEARCH\n") + len("<<<<<<< SEARCH\n")
    message = refused(reply[:last] + "    this_line_is_nowhere = 1\n" + reply[last:])
    assert f"block {hunks_of(edit)}" in message


class TestMatching:
    SOURCE = "A = 1\n\n\ndef f(x):\n    y = x\n    return y\n\n\ndef g(x):\n    y = x\n    return y + 1\n"

    def apply(self, search: str, replace: str) -> str:
        return patched(block(search, replace), {PATH: self.SOURCE})[PATH]

    def test_several_matches_are_refused_with_the_line_of_each(self):
        message = refused(block("    y = x", "    y = 2 * x"), {PATH: self.SOURCE})
        assert "block 1" in message and "2 times" in message and "5, 10" in message

    def test_no_match_shows_the_nearest_lines_with_their_numbers_and_the_first_difference(self):
        message = refused(
            block("def g(x):\n    y = x\n    return y + 2", "def g(x):\n    return x"), {PATH: self.SOURCE}
        )
        assert "block 1" in message and "matches nowhere" in message
        assert "    9 | def g(x):" in message and "   11 |     return y + 1" in message
        assert "SEARCH has\n    return y + 2\nand the file has\n    return y + 1" in message

    def test_no_equal_line_shows_the_most_similar_one(self):
        message = refused(block("    return yy + 1", "    return 0"), {PATH: self.SOURCE})
        assert "   11 |     return y + 1" in message

    def test_a_part_of_a_line_is_no_match(self):
        assert "MATRIX_LR = 0.04  # [0.01, 0.16] log" in refused(block("MATRIX_LR = 0.04", "MATRIX_LR = 0.05"))

    def test_trailing_whitespace_does_not_count(self):
        assert "y = 3" in self.apply("def g(x):   \n    y = x\t", "def g(x):\n    y = 3")
        ragged = self.SOURCE.replace("y = x\n    return y +", "y = x   \n    return y +")
        assert "y = 3" in patched(block("def g(x):\n    y = x", "def g(x):\n    y = 3"), {PATH: ragged})[PATH]

    def test_a_uniform_shift_of_indentation_shifts_the_replacement(self):
        assert self.apply("y = x\nreturn y + 1", "if x:\n    y = x\nreturn y + 2") == self.SOURCE.replace(
            "    y = x\n    return y + 1\n", "    if x:\n        y = x\n    return y + 2\n"
        )
        assert self.apply("      A = 1", "      A = 2\n      B = 3").startswith("A = 2\nB = 3\n")

    def test_blank_lines_of_a_shifted_replacement_stay_empty(self):
        assert "    z = 0\n\n    return y + 2\n" in self.apply("y = x\nreturn y + 1", "z = 0\n\nreturn y + 2")

    def test_an_uneven_shift_is_no_match(self):
        assert "matches nowhere" in refused(block("  y = x\nreturn y + 1", "return x"), {PATH: self.SOURCE})

    def test_a_shift_that_fits_two_places_is_refused(self):
        source = self.SOURCE.replace("return y + 1", "return y")
        message = refused(block("y = x\nreturn y", "return x"), {PATH: source})
        assert "2 times" in message and "5, 10" in message

    def test_an_exact_match_is_preferred_to_shifted_ones(self):
        source = "x = 1\nif x:\n    x = 1\n"
        assert patched(block("    x = 1", "    x = 2"), {PATH: source}) == {PATH: "x = 1\nif x:\n    x = 2\n"}
        assert patched(block("x = 1", "x = 2"), {PATH: source}) == {PATH: "x = 2\nif x:\n    x = 1\n"}

    def test_a_replacement_that_cannot_be_shifted_is_refused(self):
        assert "block 1" in refused(block("        y = x\n        return y + 1", "return x"), {PATH: self.SOURCE})

    def test_tabs_are_shifted_as_tabs(self):
        source = "def f(x):\n\tif x:\n\t\treturn 1\n"
        assert patched(block("if x:\n\treturn 1", "if x:\n\treturn 2"), {PATH: source})[PATH] == source.replace(
            "1", "2"
        )

    def test_blocks_see_what_earlier_blocks_did(self):
        reply = block("A = 1", "A = 2\nB = 2") + block("B = 2", "B = 3")
        assert patched(reply, {PATH: self.SOURCE})[PATH].startswith("A = 2\nB = 3\n")

    def test_an_empty_search_is_refused(self):
        assert "block 1: SEARCH is empty" in refused(block("", "B = 2"))
        assert "hunk 1: SEARCH is empty" in refused(f"--- a/{PATH}\n+++ b/{PATH}\n@@ -1,0 +1,1 @@\n+B = 2\n")

    def test_an_empty_replacement_deletes(self):
        reply = f"{PATH}\n<<<<<<< SEARCH\nA = 1\n=======\n>>>>>>> REPLACE\n"
        assert patched(reply, {PATH: self.SOURCE})[PATH] == self.SOURCE.removeprefix("A = 1\n")

    def test_the_end_of_the_file_stays_as_it_was(self):
        assert self.apply("    return y + 1", "    return 3").endswith("    return 3\n")
        bare = self.SOURCE.rstrip("\n")
        assert patched(block("    return y + 1", "    return 3"), {PATH: bare})[PATH].endswith("    return 3")
        windows = bare.replace("\n", "\r\n")
        assert patched(block("    return y + 1", "    return 3"), {PATH: windows})[PATH].endswith("\r\n    return 3")
        assert "return 3\r\n" in patched(block("    return y", "    return 3"), {PATH: windows})[PATH]

    def test_a_search_longer_than_the_file_is_refused(self):
        assert "matches nowhere" in refused(block(self.SOURCE * 3, "A = 1"), {PATH: self.SOURCE})


TWO_FILES = {"src/model.py": "A = 1\n", "src/train.py": "B = 1\n"}


class TestPaths:
    def test_two_files_in_one_reply(self):
        reply = block("A = 1", "A = 2", "src/model.py") + block("B = 1", "B = 2", "src/train.py")
        assert patched(reply, TWO_FILES) == {"src/model.py": "A = 2\n", "src/train.py": "B = 2\n"}

    def test_only_changed_files_are_in_the_patch(self):
        assert patched(block("A = 1", "A = 2", "src/model.py"), TWO_FILES) == {"src/model.py": "A = 2\n"}

    @pytest.mark.parametrize("path", ["model.py", "./src/model.py", "a/home/lab/src/model.py", "**`src/model.py`**:"])
    def test_a_file_is_known_by_the_end_of_its_path(self, path):
        assert patched(block("A = 1", "A = 2", path), TWO_FILES) == {"src/model.py": "A = 2\n"}

    def test_without_a_name_the_last_one_holds(self):
        reply = block("B = 1", "B = 2\nC = 3", "src/train.py") + block("C = 3", "C = 4", "")
        assert patched(reply, TWO_FILES) == {"src/train.py": "B = 2\nC = 4\n"}

    def test_no_name_at_all_is_refused_where_two_files_can_be_edited(self):
        assert "names no file" in refused(block("A = 1", "A = 2", ""), TWO_FILES)

    def test_an_ambiguous_name_is_refused(self):
        files = {"a/train.py": "A = 1\n", "b/train.py": "A = 1\n"}
        assert "several editable files" in refused(block("A = 1", "A = 2", "train.py"), files)

    @pytest.mark.parametrize("path", ["harness.py", "/etc/passwd.txt", "../../train_core.py.bak", "src\\evil.py"])
    def test_other_files_are_refused(self, path):
        message = refused(block("A = 1", "A = 2", path), {"train_core.py": "A = 1\n"})
        assert "block 1" in message and "may touch only train_core.py" in message

    def test_a_diff_of_another_file_is_refused(self):
        reply = "--- a/harness.py\n+++ b/harness.py\n@@ -1 +1 @@\n-A = 1\n+A = 2\n"
        assert "harness.py is not an editable file" in refused(reply, {PATH: "A = 1\n"})


class TestResult:
    def test_a_change_that_is_none_is_refused(self):
        assert "changes nothing" in refused(block("MOMENTUM_START = 0.85", "MOMENTUM_START = 0.85"))

    def test_a_syntax_error_shows_the_line_as_edited(self):
        message = refused(block("MOMENTUM_START = 0.85", "MOMENTUM_START = (0.85"))
        assert "would not compile" in message and "| MOMENTUM_START = (0.85" in message

    def test_what_only_the_compiler_sees_is_refused(self):
        assert "would not compile" in refused(block("MOMENTUM_START = 0.85", "MOMENTUM_START = 0.85\nreturn 3"))

    @pytest.mark.parametrize("code", ["A = '\x00'", "A = " + "(" * 300 + ")" * 300, "A = " + "-" * 100_000 + "1"])
    def test_code_that_upsets_the_compiler_is_refused(self, code):
        assert "would not compile" in refused(block("MOMENTUM_START = 0.85", code))

    def test_a_file_of_another_kind_is_not_compiled(self):
        assert patched(block("a", "a b (", "notes.txt"), {"notes.txt": "a\n"}) == {"notes.txt": "a b (\n"}

    def test_a_file_that_grows_beyond_measure_is_refused(self):
        assert "longer than" in refused(block("A = 1", "A = 1\n" * 90_000), {PATH: "A = 1\n"})

    @pytest.mark.parametrize(
        "line", ["# ... rest of the code unchanged ...", "    # ... (existing code)", "# … same as before"]
    )
    def test_a_comment_in_place_of_code_is_refused(self, line):
        assert "stands for code that was left out" in refused(block("MOMENTUM_START = 0.85", line))


class TestWholeFile:
    def test_an_excerpt_does_not_erase_the_rest(self):
        assert "too short to be a whole file" in refused("```python\nMATRIX_LR = 0.05\n```\n")

    def test_an_excerpt_beside_the_whole_file_is_left_alone(self):
        after = EDITS[0].after
        reply = f"The change is\n```python\nWARMDOWN = 0.9\n```\nThe whole file:\n```python\n{after}```\n"
        assert patched(reply) == {PATH: after}

    def test_two_whole_files_are_refused(self):
        assert "2 code blocks" in refused(as_file(EDITS[0].after) + as_file(EDITS[1].after))

    def test_a_reply_that_is_cut_off_is_refused(self):
        assert "cut off" in refused(as_file(EDITS[0].after).removesuffix("```\n"))

    def test_the_file_name_in_the_fence(self):
        assert patched(f"```python {PATH}\n{EDITS[0].after}```\n") == {PATH: EDITS[0].after}

    def test_a_longer_fence_holds_shorter_ones(self):
        after = TRAIN_FILE + 'NOTE = """\n```\nnot the end\n```\n"""\n'
        assert patched(f"````python\n{after}````\n") == {PATH: after}


def test_messages_stay_short_and_quick_for_hostile_replies():
    start = time.process_time()
    for search in ("x" * 900_000, "\n".join(["    "] * 9000 + ["pass"] * 9000), "norm(x)\n" * 50_000, "é" * 300_000):
        assert len(refused(block(search, "y"))) < 6000
    assert time.process_time() - start < 10
