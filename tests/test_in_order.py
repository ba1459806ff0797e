"""Many inputs at once, results in their order."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator

import pytest

from edge_lfm.cli.in_order import in_order


def test_results_come_in_order_and_no_more_are_worked_on_than_may_be() -> None:
    working, most, lock = 0, 0, threading.Lock()

    def work(n: int) -> int:
        nonlocal working, most
        with lock:
            working += 1
            most = max(most, working)
        time.sleep(0.001 * ((n * 7) % 5))
        with lock:
            working -= 1
        return n * n

    assert list(in_order(range(100), work, 4)) == [n * n for n in range(100)]
    assert 1 < most <= 4


def test_who_waits_for_a_result_before_the_next_input_gets_it() -> None:
    lines: queue.Queue[str | None] = queue.Queue()
    results = in_order(iter(lines.get, None), str.upper, 8)
    for text in ("a", "b", "c"):
        lines.put(text)
        assert next(results) == text.upper()
    lines.put(None)
    assert list(results) == []


def test_a_failure_comes_in_its_place() -> None:
    def inputs() -> Iterator[int]:
        yield from (1, 2, 0, 4)
        raise KeyError("input")

    results = in_order(inputs(), lambda n: 4 // n, 2)
    assert [next(results), next(results)] == [4, 2]
    with pytest.raises(ZeroDivisionError):
        next(results)
    results = in_order(inputs(), str, 8)
    assert [next(results) for _ in range(4)] == ["1", "2", "0", "4"]
    with pytest.raises(KeyError):
        next(results)
