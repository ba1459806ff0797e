"""Work on many inputs at once, its results in their order. Knows neither models nor what the work is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import Queue
from threading import Thread
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def in_order(inputs: Iterable[T], work: Callable[[T], R], together: int) -> Iterator[R]:
    """What `work` makes of each input, `together` of them at a time.

    A result comes as soon as those before it have come: inputs are read in a thread, so that one who waits for it
    before he writes the next gets it. What reading or working raised comes in its place, and ends the work.
    """
    begun: Queue[Future[R] | None] = Queue(together)
    pool = ThreadPoolExecutor(together)

    def read() -> None:
        try:
            for one in inputs:
                begun.put(pool.submit(work, one))
        except Exception as error:
            failed: Future[R] = Future()
            failed.set_exception(error)
            begun.put(failed)
        begun.put(None)

    Thread(target=read, daemon=True).start()
    try:
        while (future := begun.get()) is not None:
            yield future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
