"""What counts as the length of a file."""

import pytest

from autoresearch.trial import code_lines

CODE = """\
'''A module
that says so.'''

# a comment
X = 1  # [0, 2]; a knob


def f(a,
      b):
    '''A docstring.'''
    return '''two
lines'''
"""


def test_blank_lines_comments_and_docstrings_are_no_code():
    assert code_lines(CODE) == 5


@pytest.mark.parametrize("more", ["\n\n\n", "# more\n", "    # more\n", "'''more'''\n"])
def test_deleting_what_does_nothing_makes_no_file_shorter(more):
    assert code_lines(CODE + more) == code_lines(CODE)


def test_deleting_a_statement_does():
    assert code_lines(CODE.replace("X = 1  # [0, 2]; a knob", "")) == 4


@pytest.mark.parametrize("text", ["no python at all (\n\nx", "x = \x00\n", "'''open\n"])
def test_all_lines_of_what_is_not_python(text):
    assert code_lines(text) == len(text.splitlines())
