"""The thread team: persistent threads that run one compiled step together.

Between steps the threads sleep on semaphores; within a step they meet at the barriers of `sync.py`. A step may run on
fewer threads than there are, when this process has fewer processors for a while.
ctypes releases the interpreter lock for the whole step. A step that has begun is always finished by all
threads, whatever interrupts the caller: a thread that left would let the others wait at a barrier for ever.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from edge_lfm.errors import EdgeLfmError

Work = Callable[[int], object]


@dataclass(frozen=True)
class _Job:
    work: Work
    helpers: Sequence[threading.Semaphore]
    done: threading.Event = field(default_factory=threading.Event)


class Team:
    """`count` threads; a context manager, or end it with `close`.

    Python delivers Ctrl-C to the main thread only, between any two of its instructions. So a call from the
    main thread hands the step to a leader thread and waits; from other threads the caller leads itself.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._work: Work | None = None
        self._job: _Job | None = None
        self._failed = False
        self._wake = threading.Event()
        self._start = [threading.Semaphore(0) for _ in range(count - 1)]
        self._done = threading.Semaphore(0)
        targets: list[tuple[str, Callable[[], None]]] = [
            (f"edge-lfm-{n + 1}", lambda n=n: self._serve(n))  # type: ignore[misc]
            for n in range(count - 1)
        ]
        if count > 1:
            targets.append(("edge-lfm-leader", self._follow_jobs))
        self._threads = [threading.Thread(target=target, name=name, daemon=True) for name, target in targets]
        for thread in self._threads:
            thread.start()

    def run(self, work: Work, threads: int | None = None) -> None:
        """Call `work(n)` on the first `threads` threads (default: all), and return when all have returned.

        Raises:
            EdgeLfmError: one of them raised.
        """
        helpers = self._start[: self.count - 1 if threads is None else threads - 1]
        if not helpers:
            work(0)  # none waits for another, so none needs to be kept from an interrupt
        elif threading.current_thread() is threading.main_thread():
            self._hand_over(_Job(work, helpers))
        else:
            self._lead(work, helpers)
        if self._failed:
            raise EdgeLfmError("a worker thread ended unexpectedly")

    def close(self) -> None:
        """End the threads. A closed team can be closed again, not run."""
        self._work = self._job = None
        self._wake.set()
        for start in self._start:
            start.release()
        for thread in self._threads:
            thread.join()
        self._start, self._threads = [], []

    def _hand_over(self, job: _Job) -> None:
        """Let the leader run a job, and wait for its end even when interrupted; every line may run twice."""
        interrupt: BaseException | None = None
        while not job.done.is_set():
            try:
                self._job = job
                self._wake.set()
                job.done.wait()
            except BaseException as error:
                interrupt = error
        if interrupt is not None:
            raise interrupt

    def _follow_jobs(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            job = self._job
            if job is None:
                return
            if not job.done.is_set():
                self._lead(job.work, job.helpers)
                job.done.set()

    def _lead(self, work: Work, helpers: Sequence[threading.Semaphore]) -> None:
        self._work = work
        for start in helpers:
            start.release()
        self._try(work, 0)
        for _ in helpers:
            self._done.acquire()

    def _serve(self, n: int) -> None:
        while True:
            self._start[n].acquire()
            work = self._work
            if work is None:
                return
            self._try(work, n + 1)
            self._done.release()

    def _try(self, work: Work, n: int) -> None:
        try:
            work(n)
        except BaseException:  # whoever waits must be told, whatever happened
            self._failed = True

    def __enter__(self) -> Team:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
