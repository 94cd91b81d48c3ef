"""Deadlines do not move with the clock on the wall."""

import time

from autoresearch import steady


def test_it_is_the_time_of_day(monkeypatch):
    assert abs(steady.now() - time.time()) < 60


def test_a_clock_that_is_set_moves_nothing(monkeypatch):
    before, real = steady.now(), time.time
    monkeypatch.setattr(time, "time", lambda: real() + 1e6)
    assert 0 <= steady.now() - before < 60
