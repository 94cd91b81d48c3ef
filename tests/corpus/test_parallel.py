"""Results in order, from many threads, with little read ahead."""

import threading
from collections.abc import Iterator

import pytest

from autoresearch.corpus.parallel import in_order
from autoresearch.machine import cores


def test_results_come_in_the_order_of_the_items_whichever_is_done_first() -> None:
    gates = [threading.Event() for _ in range(4)]

    def work(number: int) -> int:
        if number < 3:
            assert gates[number + 1].wait(60)  # each waits for the one after it
        gates[number].set()
        return number * number

    assert list(in_order(work, range(4), threads=4)) == [0, 1, 4, 9]


def test_no_more_is_read_than_keeps_the_threads_busy() -> None:
    read: list[int] = []

    def items() -> Iterator[int]:
        for number in range(1000):
            read.append(number)
            yield number

    most = max(len(read) - done for done, _ in enumerate(in_order(abs, items(), threads=3)))
    assert 3 <= most <= 7 and len(read) == 1000


def test_an_error_comes_where_its_result_would() -> None:
    results = in_order(lambda number: 10 // number, [5, 2, 0, 1], threads=2)
    assert [next(results), next(results)] == [2, 5]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert not list(results)


def test_it_uses_what_it_may_use() -> None:
    seen: set[int] = set()
    barrier = threading.Barrier(cores())

    def work(_: int) -> None:
        barrier.wait(60)  # passes only if as many work at once
        seen.add(threading.get_ident())

    assert len(list(in_order(work, range(cores())))) == len(seen) == cores()
