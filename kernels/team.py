"""The thread team: persistent threads that run one compiled step together.

Between steps the threads sleep on a semaphore; within a step they spin at the barriers of `sync.py`.
The calling thread is thread 0. ctypes releases the interpreter lock for the whole step.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from edge_lfm.errors import EdgeLfmError


class Team:
    """`count` threads, the caller included; a context manager, or end it with `close`."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._work: Callable[[int], object] | None = None
        self._start = [threading.Semaphore(0) for _ in range(count - 1)]
        self._done = threading.Semaphore(0)
        self._failed = False
        self._threads = [
            threading.Thread(target=self._serve, args=(n,), name=f"edge-lfm-{n + 1}", daemon=True)
            for n in range(count - 1)
        ]
        for thread in self._threads:
            thread.start()

    def run(self, work: Callable[[int], object]) -> None:
        """Call `work(n)` on every thread n, and return when all have returned."""
        self._work = work
        for start in self._start:
            start.release()
        try:
            work(0)
        finally:
            for _ in self._start:
                self._done.acquire()
        if self._failed:
            raise EdgeLfmError("a worker thread ended unexpectedly")

    def close(self) -> None:
        """End the threads. A closed team can be closed again, not run."""
        self._work = None
        for start in self._start:
            start.release()
        for thread in self._threads:
            thread.join()
        self._start, self._threads = [], []

    def _serve(self, n: int) -> None:
        while True:
            self._start[n].acquire()
            work = self._work
            if work is None:
                return
            try:
                work(n + 1)
            except BaseException:  # the caller waits: it must be told whatever happened
                self._failed = True
            finally:
                self._done.release()

    def __enter__(self) -> Team:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
