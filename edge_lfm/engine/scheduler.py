"""The engine thread: jobs take turns, one step each, so that a short answer does not wait for a long one.

A job is a generator that yields feeds and is sent their logits; what it puts goes into a bounded channel that its
consumer reads from any thread. What the generator returns, if anything, is the last item, which comes together with
the end. A consumer who reads slowly, or leaves, delays no one else. Knows neither models nor text.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, Protocol, TypeVar

from edge_lfm.engine.feeds import Feed, Logits, Steps
from edge_lfm.errors import BusyError, CancelledError, ShuttingDownError, UsageError

T = TypeVar("T")
CHANNEL_ITEMS = 256
"""Items that wait for a slow consumer before its job pauses."""


class Job(Generic[T]):
    """One job and its channel. The engine thread writes; one consumer reads, by iteration or by `poll`."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._items: deque[T] = deque()
        self._changed = threading.Condition()
        self._error: BaseException | None = None
        self._ended = self._cancelled = False
        self.submitted = time.perf_counter()
        self.steps: Steps[T | None] | None = None
        self.feed: Feed | None = None
        """What the job waits for; None before its first turn."""
        self.step_s = 0.0
        """Seconds of all steps of this job so far."""
        self.listener: Callable[[], object] | None = None
        """Called, from the engine thread, when there is something to `poll`."""

    def cancelled(self) -> bool:
        """Whether the consumer has left."""
        return self._cancelled

    def alone(self) -> bool:
        """Whether no other job waits for its turn."""
        return self._scheduler.active <= 1 and not self._scheduler.waiting

    def cancel(self) -> None:
        """Stop the job within one step. What it has given can still be read."""
        self._cancelled = True
        self._scheduler.wake()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        """The next item; waits for it. Ctrl-C interrupts the wait.

        Raises:
            EdgeLfmError: what the job raised.
            CancelledError: it was cancelled.
        """
        with self._changed:
            while not self._items and not self._ended:
                self._changed.wait()
        items, ended = self.poll(1)
        if items:
            return items[0]
        assert ended
        raise StopIteration

    def poll(self, limit: int = CHANNEL_ITEMS) -> tuple[list[T], bool]:
        """Items that are there, at most `limit`, and whether none will follow; does not wait. Raises as `__next__`."""
        with self._changed:
            was_full = self.full
            items = [self._items.popleft() for _ in range(min(limit, len(self._items)))]
            ended = self._ended and not self._items
            error = self._error if ended and not items else None
        if was_full and items:
            self._scheduler.wake()
        if error is not None:
            raise error
        return items, ended

    @property
    def full(self) -> bool:
        return len(self._items) >= CHANNEL_ITEMS

    def put(self, item: T) -> None:
        """For the engine thread: give an item."""
        with self._changed:
            self._items.append(item)
            self._changed.notify()
        if self.listener:
            self.listener()

    def end(self, error: BaseException | None = None, last: T | None = None) -> None:
        """For the engine thread: there is no more than, perhaps, a last item."""
        with self._changed:
            if last is not None:
                self._items.append(last)
            self._ended, self._error = True, error
            self._changed.notify_all()
        if self.listener:
            self.listener()


class Run(Protocol):
    """`Backend.run`."""

    def __call__(self, feeds: Sequence[Feed], *, cancelled: Callable[[], bool] | None = None) -> Sequence[Logits]: ...


class Scheduler:
    """`parallel`: jobs that take turns; others wait in the order in which they came. `run`: runs a step."""

    def __init__(self, parallel: int, run: Run) -> None:
        self.parallel, self._run = parallel, run
        self._changed = threading.Condition()
        self._active: deque[Job[Any]] = deque()
        self._waiting: deque[Job[Any]] = deque()
        self._calls: deque[tuple[Callable[[], object], Job[Any]]] = deque()
        self._closing = False
        self._process = os.getpid()
        self._thread: threading.Thread | None = None
        self.last_step = time.monotonic()
        """When the last step ended, to tell a slow engine from a stuck one."""

    @property
    def active(self) -> int:
        return len(self._active)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def submit(self, make_steps: Callable[[Job[T]], Steps[T | None]], queue_limit: int | None = None) -> Job[T]:
        """Queue a job; its steps run on the engine thread.

        Raises:
            BusyError: `queue_limit` jobs are waiting already.
            ShuttingDownError: the scheduler is closed.
            UsageError: it belongs to the process that this one was forked from.
        """
        self._check_process()
        job: Job[T] = Job(self)
        job.steps = make_steps(job)
        with self._changed:
            self._check_open()
            if queue_limit is not None and self.waiting >= queue_limit + max(0, self.parallel - self.active):
                raise BusyError(f"{self.waiting} requests are waiting already", hint="try again later")
            self._waiting.append(job)
            self._wake_thread()
        return job

    def call(self, function: Callable[[], T]) -> T:
        """Run a function on the engine thread, between two steps; its result.

        Raises:
            ShuttingDownError: the scheduler is closed.
        """
        self._check_process()
        job: Job[T] = Job(self)
        with self._changed:
            self._check_open()
            self._calls.append((function, job))
            self._wake_thread()
        return next(job)

    def wake(self) -> None:
        """Something has changed for a job: it was cancelled, or there is room again."""
        with self._changed:
            self._changed.notify()

    def close(self) -> None:
        """End all jobs and the thread. A closed scheduler can be closed again."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def _check_process(self) -> None:
        """Threads do not survive a fork: who asked there would wait for ever."""
        if os.getpid() != self._process:
            raise UsageError("the model was loaded before this process was forked", hint="load it after the fork")

    def _check_open(self) -> None:
        if self._closing:
            raise ShuttingDownError("the model is closed", hint="load it again")

    def _wake_thread(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name="edge-lfm-engine", daemon=True)
            self._thread.start()
        self._changed.notify()

    def _serve(self) -> None:
        while True:
            job: Job[Any] | None = None
            with self._changed:
                while not self._closing and not self._calls and (job := self._choose()) is None:
                    self._changed.wait()
                if self._closing:
                    break
                call = self._calls.popleft() if self._calls else None
            if call is not None:
                self._run_call(*call)
            elif job is not None:
                self._take_turn(job)
        for job in [*self._active, *self._waiting, *(job for _, job in self._calls)]:
            _close(job)
            job.end(ShuttingDownError("the model was closed", hint="load it again"))

    def _choose(self) -> Job[Any] | None:
        """The next job that can go on; it moves to the end of the line."""
        for job in [job for job in self._waiting if job.cancelled()]:
            self._waiting.remove(job)
            job.end(CancelledError("the request was cancelled"))
        while self._waiting and len(self._active) < self.parallel:
            self._active.append(self._waiting.popleft())
        for _ in range(len(self._active)):
            job = self._active[0]
            self._active.rotate(-1)
            if job.cancelled() or not job.full:
                return job
        return None

    def _take_turn(self, job: Job[Any]) -> None:
        """Run one step of a job, and then the job itself until it wants the next."""
        error: BaseException | None = None
        last: Any = None
        try:
            if job.cancelled():
                raise CancelledError("the request was cancelled")
            job.feed = self._feed(job)
            return
        except StopIteration as ended:
            last = ended.value
        except BaseException as raised:  # a job that fails must not end the engine
            error = raised
        finally:
            self.last_step = time.monotonic()
        error = _close(job) or error
        with self._changed:
            self._active.remove(job)
        job.end(error, last)

    def _feed(self, job: Job[Any]) -> Feed:
        """Run what a job waits for; what it waits for next."""
        assert job.steps is not None
        feed = job.feed or next(job.steps)
        started = time.perf_counter()
        try:
            rows = self._run([feed], cancelled=job.cancelled if feed.cancellable else None)[0]
        except BaseException as error:
            return job.steps.throw(error)
        finally:
            job.step_s += time.perf_counter() - started
        return job.steps.send(rows)

    @staticmethod
    def _run_call(function: Callable[[], object], job: Job[Any]) -> None:
        try:
            job.put(function())
        except BaseException as error:
            job.end(error)
        else:
            job.end()


def _close(job: Job[Any]) -> BaseException | None:
    """Let a job's steps clean up; what that raised, which must not end the engine either."""
    try:
        if job.steps is not None:
            job.steps.close()
    except Exception as error:
        return error
    return None
