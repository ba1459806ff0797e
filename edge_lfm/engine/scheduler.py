"""The engine thread: each step serves all jobs that want one, as far as it has room (`gathering.py`).

A job is a generator that yields feeds and is sent their logits; what it puts goes into a bounded channel that its
consumer reads from any thread. What the generator returns, if anything, is the last item, which comes together with
the end. A consumer who reads slowly, or leaves, delays no one else; a step that fails is run again for each job alone,
so that it fails those only whose fault it was. Knows neither models nor text.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from edge_lfm.engine.expert_use import ExpertUse
from edge_lfm.engine.feeds import DraftAsk, Drafting, Drafts, Feed, Logits, Steps, no_drafts
from edge_lfm.engine.gathering import Pace, Room, gather
from edge_lfm.errors import BusyError, CancelledError, ShuttingDownError, UsageError

T = TypeVar("T")
CHANNEL_ITEMS = 256
"""Items that wait for a slow consumer before its job pauses."""


@dataclass
class Spent:
    """What a job's steps took so far: their number, all their rows, others' included, and their seconds. experts: of
    steps without prompts."""

    steps: int = 0
    rows: int = 0
    seconds: float = 0.0
    experts: ExpertUse = field(default_factory=ExpertUse)

    def add(self, rows: int, seconds: float, experts: ExpertUse) -> None:
        """Count a step."""
        self.steps, self.rows, self.seconds = self.steps + 1, self.rows + rows, self.seconds + seconds
        self.experts += experts


class Job(Generic[T]):
    """One job and its channel. The engine thread writes; one consumer reads, by iteration or by `poll`."""

    def __init__(self, scheduler: Scheduler, after: Job[Any] | None = None) -> None:
        self._scheduler, self._after = scheduler, after
        self._items: deque[T] = deque()
        self._changed = threading.Condition()
        self._error: BaseException | None = None
        self._ended = self._cancelled = self._released = False
        self.submitted = time.perf_counter()
        self.steps: Steps[T | None] | None = None
        self.feed: Feed | DraftAsk | None = None
        """What the job waits for; None before it has begun."""
        self.spent = Spent()
        self.listener: Callable[[], object] | None = None
        """Called, from the engine thread, when there is something to `poll`."""

    def cancelled(self) -> bool:
        """Whether the consumer has left."""
        return self._cancelled

    @property
    def may_begin(self) -> bool:
        """Whether the job that this one is to come after, if any, has let it, or has ended."""
        return self._after is None or self._after._released or self._after._ended

    def release(self) -> None:
        """For the engine thread: let those begin that are to come after this one."""
        self._released = True

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


@dataclass
class StepCounts:
    """What steps have held since the model was loaded. feeds: sequences, of all steps together; prompt_rows: rows of
    prompts, and of tokens that a grammar forced; shared: steps of several sequences; experts: of steps without rows of
    prompts, which share nearly all experts."""

    steps: int = 0
    feeds: int = 0
    rows: int = 0
    prompt_rows: int = 0
    shared: int = 0
    experts: ExpertUse = field(default_factory=ExpertUse)

    def note(self, feeds: int, rows: int, prompt_rows: int) -> None:
        """Count a step."""
        self.steps, self.feeds, self.shared = self.steps + 1, self.feeds + feeds, self.shared + (feeds > 1)
        self.rows, self.prompt_rows = self.rows + rows, self.prompt_rows + prompt_rows


class Scheduler:
    """`parallel`: jobs that are served; others wait in the order in which they came. `run`: runs a step.

    room: of a step.
    token_wait: the most seconds that prompts may add to an answer's next token.
    experts: tells those of all steps that were run so far.
    draft: makes drafts for all who ask before the same step.
    """

    def __init__(
        self,
        parallel: int,
        run: Run,
        room: Room,
        token_wait: float,
        experts: Callable[[], ExpertUse] = ExpertUse,
        draft: Drafting = no_drafts,
    ) -> None:
        self.parallel, self._run, self._room, self._experts, self._draft = parallel, run, room, experts, draft
        self._pace = Pace(token_wait, room.rows)
        self.counts = StepCounts()
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

    def submit(
        self,
        make_steps: Callable[[Job[T]], Steps[T | None]],
        queue_limit: int | None = None,
        after: Job[Any] | None = None,
    ) -> Job[T]:
        """Queue a job; its steps run on the engine thread.

        after: a job whose prompt this one can use: it begins once that one has read it (`Job.release`), or has ended.

        Raises:
            BusyError: `queue_limit` jobs are waiting already.
            ShuttingDownError: the scheduler is closed.
            UsageError: it belongs to the process that this one was forked from.
        """
        self._check_process()
        job: Job[T] = Job(self, after)
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
            jobs: list[Job[Any]] = []
            with self._changed:
                while not self._closing and not self._calls and not (jobs := self._ready()):
                    self._changed.wait()
                if self._closing:
                    break
                call = self._calls.popleft() if self._calls else None
            if call is not None:
                self._run_call(*call)
            else:
                self._take_turn(jobs)
        for job in [*self._active, *self._waiting, *(job for _, job in self._calls)]:
            _close(job)
            job.end(ShuttingDownError("the model was closed", hint="load it again"))

    def _ready(self) -> list[Job[Any]]:
        """The jobs that can go on; who has waited longest comes first."""
        for job in [job for job in self._waiting if job.cancelled()]:
            self._waiting.remove(job)
            job.end(CancelledError("the request was cancelled"))
        for job in [job for job in self._waiting if job.may_begin][: self.parallel - len(self._active)]:
            self._waiting.remove(job)
            self._active.append(job)
        return [job for job in self._active if job.cancelled() or not job.full]

    def _take_turn(self, jobs: Sequence[Job[Any]]) -> None:
        """Run a step, and then the jobs that it has served until each wants the next."""
        started = time.perf_counter()
        going_on: list[Job[Any]] = []
        for job in jobs:
            if job.cancelled():
                self._end(job, CancelledError("the request was cancelled"))
            elif job.feed or self._begin(job):
                going_on.append(job)
        self._make_drafts(going_on)
        wanting = [(job, job.feed) for job in going_on if isinstance(job.feed, Feed)]
        if wanting:
            chosen = gather([feed for _, feed in wanting], self._room, self._pace.tokens)
            served = [(wanting[n][0], feed) for n, feed in chosen]
            for (job, _), outcome in zip(served, self._run_step(served), strict=True):
                self._go_on(job, outcome)
            self._note(served, time.perf_counter() - started)
        self.last_step = time.monotonic()

    def _make_drafts(self, jobs: Sequence[Job[Any]]) -> None:
        """One pass for all who ask for drafts; then they want a step, as the others do, or have ended."""
        asking = [(job, job.feed) for job in jobs if isinstance(job.feed, DraftAsk)]
        beside = [job.feed for job in jobs if isinstance(job.feed, Feed) and not job.feed.divisible]
        if not asking:
            return
        made: Sequence[Drafts | BaseException]
        try:
            made = self._draft([ask for _, ask in asking], beside)
        except BaseException as error:  # it must not end the engine
            made = [error] * len(asking)
        for (job, _), outcome in zip(asking, made, strict=True):
            self._go_on(job, outcome)

    def _run_step(self, served: Sequence[tuple[Job[Any], Feed]]) -> Sequence[Logits | BaseException]:
        """One step for several jobs; the logits of each, or why it has none."""
        feeds, started, experts = [feed for _, feed in served], time.perf_counter(), self._experts()
        everyone = all(feed.cancellable for feed in feeds)
        befores = [feed.state.checkpoint() for feed in feeds] if len(feeds) > 1 else []
        try:
            return self._run(feeds, cancelled=(lambda: all(job.cancelled() for job, _ in served)) if everyone else None)
        except CancelledError as error:
            return [error] * len(feeds)
        except BaseException as error:  # a step that fails must not end the engine
            if len(feeds) == 1:
                return [error]
            for feed, before in zip(feeds, befores, strict=True):
                feed.state.go_back(before)
            return [self._run_step([one])[0] for one in served]
        finally:
            rows, seconds = sum(len(feed.token_ids) for feed in feeds), time.perf_counter() - started
            reads_prompts = any(feed.divisible for feed in feeds)
            experts = ExpertUse() if reads_prompts else self._experts() - experts
            self.counts.experts += experts
            for job, _ in served:
                job.spent.add(rows, seconds, experts)

    def _begin(self, job: Job[Any]) -> Feed | DraftAsk | None:
        """What a new job wants first; None: it has ended."""
        assert job.steps is not None
        return self._advance(job, lambda: next(job.steps))  # type: ignore[arg-type]

    def _go_on(self, job: Job[Any], outcome: Logits | Drafts | BaseException) -> None:
        """Give a job what came of its step, or was drafted for it, until it wants the next."""
        steps = job.steps
        assert steps is not None
        if isinstance(outcome, BaseException):
            self._advance(job, lambda: steps.throw(outcome))
        else:
            self._advance(job, lambda: steps.send(outcome))

    def _advance(self, job: Job[Any], run: Callable[[], Feed | DraftAsk]) -> Feed | DraftAsk | None:
        """Run a job until it wants the next step; None: it has ended."""
        try:
            job.feed = run()
            return job.feed
        except StopIteration as ended:
            self._end(job, None, ended.value)
        except BaseException as error:  # a job that fails must not end the engine
            self._end(job, error)
        return None

    def _end(self, job: Job[Any], error: BaseException | None, last: Any = None) -> None:
        """A job leaves the line; what its cleaning up raised counts for more than why it ended."""
        error = _close(job) or error
        with self._changed:
            self._active.remove(job)
        job.end(error, last)

    def _note(self, served: Sequence[tuple[Job[Any], Feed]], seconds: float) -> None:
        """Count a step; whom it has served is behind the others from now on."""
        feeds = [feed for _, feed in served]
        prompt_tokens = sum(len(feed.token_ids) for feed in feeds if feed.divisible)
        self.counts.note(len(feeds), sum(len(feed.token_ids) for feed in feeds), prompt_tokens)
        if not all(feed.divisible for feed in feeds):
            self._pace.note(prompt_tokens, seconds)
        done = {id(job) for job, _ in served}
        if any(id(job) not in done for job in self._active):
            with self._changed:
                self._active = deque(sorted(self._active, key=lambda job: id(job) in done))

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
