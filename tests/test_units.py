"""Durations and sizes as people write them."""

import math

import pytest

from autoresearch.units import format_duration, format_size, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("90s", 90),
        ("5m", 300),
        ("1.5h", 5400),
        ("1h30m", 5400),
        (" 1h 30m ", 5400),
        ("2d", 172800),
        (8, 8),
        (0.5, 0.5),
    ],
)
def test_durations(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "5x", "m", "1 0", "5m5", "1.5.2", "-5m", "five", None, True, math.inf, math.nan, "inf"]
)
def test_what_is_no_duration_says_what_is(text):
    with pytest.raises(ValueError, match="write 90s, 5m or 1h30m"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("75GB", 75 * 10**9),
        ("64 MB", 64 * 10**6),
        ("1.5kb", 1500),
        ("1000", 1000),
        ("10B", 10),
        (7, 7),
        (7.5e10, 75 * 10**9),
    ],
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "1 0", "-1GB", "1GiB", "many", None, True])
def test_what_is_no_size_says_what_is(text):
    with pytest.raises(ValueError, match="write 75GB or 64MB"):
        parse_size(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"),
        (0, "0.0s"),
        (8.25, "8.2s"),
        (59.97, "1m 00s"),
        (302, "5m 02s"),
        (3599.7, "1h 00m"),
        (28740, "7h 59m"),
    ],
)
def test_durations_for_people(seconds, text):
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (None, "–"),
        (0, "0 B"),
        (512, "512 B"),
        (999.7, "1.0 KB"),
        (1.4e9, "1.4 GB"),
        (999_960, "1.0 MB"),
        (5e12, "5.0 TB"),
    ],
)
def test_sizes_for_people(size, text):
    assert format_size(size) == text
