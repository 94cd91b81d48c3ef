"""The constants at the top of an editable file."""

import ast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch import knobs
from autoresearch.knobs import Domain

SOURCE = '''\
"""A file."""

import math

MATRIX_LR = 0.04  # [0.01, 0.16] log; Muon step size
DEPTH = 9  # [2, 16]; number of blocks
PATTERN = "SSSL"  # {"L", "SL", "SSSL"}; windows, layer by layer
CONTEXT = 2048  # tokens the model sees
TIED = True
SHIFT = -1.5  # [-2, 2]
NAME = "größer # no comment"  # {"größer # no comment", "b"}; ümlaut
WIDTH = DEPTH * 64
BETAS = (0.9, 0.95)
LONG = (
    3
)
lower = 1
A = B = 2


def f():
    LOCAL = 3
    return LOCAL
'''


def test_knobs_are_literals_of_one_line_at_the_top_level():
    assert knobs.values(SOURCE) == {
        "MATRIX_LR": 0.04,
        "DEPTH": 9,
        "PATTERN": "SSSL",
        "CONTEXT": 2048,
        "TIED": True,
        "SHIFT": -1.5,
        "NAME": "größer # no comment",
    }


def test_their_domains_and_notes():
    read = knobs.read(SOURCE)
    assert read["MATRIX_LR"].domain == Domain(0.01, 0.16, log=True) and read["MATRIX_LR"].note == "Muon step size"
    assert read["DEPTH"].domain == Domain(2, 16) and read["DEPTH"].line == 6
    assert read["PATTERN"].domain == Domain(choices=("L", "SL", "SSSL"))
    assert read["CONTEXT"].domain is None and read["CONTEXT"].note == "tokens the model sees"
    assert read["TIED"].domain is None and read["TIED"].note == ""
    assert read["SHIFT"].domain == Domain(-2, 2)
    assert read["NAME"].domain == Domain(choices=("größer # no comment", "b")) and read["NAME"].note == "ümlaut"


@pytest.mark.parametrize(
    "comment",
    [
        "[3, 1]",
        "[1]",
        "[1, 2, 3]",
        "[0, 1] log",
        "['a', 'b']",
        "[True, False]",
        "[1, 1e999]",
        "{1}",
        "{[1], [2]}",
        "[x, y]",
        "[(",
        "{",
    ],
)
def test_a_domain_that_makes_no_sense_is_none(comment):
    assert knobs.read(f"A = 1  # {comment}\n")["A"].domain is None


def test_log_is_a_word():
    assert knobs.read("A = 1  # [1, 2] logits\n")["A"].domain == Domain(1, 2)
    assert knobs.read("A = 1  #[1,2]log;x\n")["A"].domain == Domain(1, 2, log=True)


@pytest.mark.parametrize("source", ["A = (", "A = 1\x00", "(" * 5000, "A = 1e999", "A: int = 1", "A += 1", ""])
def test_a_file_without_knobs(source):
    assert knobs.read(source) == {}


@pytest.mark.parametrize("odd", ["\x0c", "\x0b", "\u2028", "\x85", "\x1c"])
def test_characters_that_end_no_line_for_the_parser(odd):
    source = f'"""{odd}"""\nA = 1  # [0, 2]; a\nB = 2  # [1, 4]; b\n'
    assert knobs.read(source)["B"].domain == Domain(1, 4)
    assert knobs.assign(source, {"A": 2, "B": 3}) == f'"""{odd}"""\nA = 2  # [0, 2]; a\nB = 3  # [1, 4]; b\n'


def test_assign_keeps_everything_else_byte_for_byte():
    new = knobs.assign(SOURCE, {"MATRIX_LR": 0.0523, "PATTERN": "SL", "NAME": "b", "SHIFT": 2})
    assert new == (
        SOURCE.replace("0.04 ", "0.0523 ")
        .replace('PATTERN = "SSSL"', "PATTERN = 'SL'")
        .replace('NAME = "größer # no comment"', "NAME = 'b'")
        .replace("SHIFT = -1.5", "SHIFT = 2.0")
    )
    windows = SOURCE.replace("\n", "\r\n")
    assert knobs.assign(windows, {"DEPTH": 12}) == windows.replace("DEPTH = 9", "DEPTH = 12")
    assert knobs.assign("A = 1", {"A": 2}) == "A = 2"


def test_two_on_one_line():
    assert knobs.assign("A = 1; B = (2)  # [1, 4]; b\n", {"A": 100, "B": 3}) == "A = 100; B = (3)  # [1, 4]; b\n"
    assert knobs.read("A = 1; B = (2)  # [1, 4]; b\n")["B"].domain == Domain(1, 4)


def test_assign_names_a_knob_that_is_not_there():
    with pytest.raises(KeyError, match="WIDTH"):
        knobs.assign(SOURCE, {"WIDTH": 3})


@given(st.floats(allow_nan=False, allow_infinity=False, width=32) | st.integers() | st.booleans() | st.text())
def test_what_is_assigned_is_read_back(value):
    new = knobs.assign("A = 1\nB = 2\n", {"A": value})
    read = knobs.values(new)
    assert read["B"] == 2
    assert read["A"] == (pytest.approx(value, rel=1e-5) if isinstance(value, float) else value)
    ast.parse(new)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("-0.5", -0.5),
        ("True", True),
        ("'a'", "a"),
        ("SSL", "SSL"),
        ("[1]", "[1]"),
        ("1e999", "1e999"),
        ("", ""),
    ],
)
def test_values_from_a_command_line(text, value):
    parsed = knobs.parse_value(text)
    assert parsed == value and type(parsed) is type(value)
