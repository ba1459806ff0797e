"""Steps of several jobs: what they hold, limits, cancelling, slow readers, failures; and answers from threads and from
asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from edge_lfm import Done, Model, Progress, Text
from edge_lfm.engine.feeds import Feed, Steps
from edge_lfm.engine.gathering import Room
from edge_lfm.engine.scheduler import CHANNEL_ITEMS, Job, Scheduler
from edge_lfm.errors import BusyError, CancelledError, NumericalError, ShuttingDownError, UsageError
from edge_lfm.model.state import State

CAPITAL = "What is the capital of France?"


ROOM = Room(32, 16)


@pytest.fixture
def scheduler():
    scheduler = Scheduler(2, run, ROOM, 0.5)
    yield scheduler
    scheduler.close()


class Still(State):
    """The state of a sequence that nothing happens to."""

    def __init__(self) -> None:
        self.conv = {}
        self.position = 0


@dataclass(frozen=True, eq=False)
class Named(Feed):
    """A feed of a token that leaves its name in a log when it is run."""

    name: str = ""
    log: list[str] = field(default_factory=list)


def feed(name: str = "", log: list[str] | None = None) -> Feed:
    return Named(Still(), (0,), name=name, log=[] if log is None else log)


def run(feeds, *, cancelled=None) -> list[np.ndarray]:
    for one in feeds:
        one.log.append(one.name)
    return [np.zeros((0, 0), np.float32) for _ in feeds]


def counting(count: int, log: list[str], name: str):
    def steps(job: Job[int]) -> Steps[None]:
        for n in range(count):
            yield feed(name, log)
            job.put(n)
        log.append(f"{name} ended")

    return steps


@contextlib.contextmanager
def held(scheduler: Scheduler) -> Iterator[None]:
    """Holds the engine between two steps, so that what is submitted inside queues."""
    entered, gate = threading.Event(), threading.Event()
    blocker = threading.Thread(target=lambda: scheduler.call(lambda: (entered.set(), gate.wait())))
    blocker.start()
    entered.wait()
    try:
        yield
    finally:
        gate.set()
        blocker.join()


def wait_for(condition, seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_two_share_steps_and_a_third_waits(scheduler: Scheduler) -> None:
    log: list[str] = []
    with held(scheduler):
        jobs = [scheduler.submit(counting(3, log, name)) for name in "abc"]
    assert [list(job) for job in jobs] == [[0, 1, 2]] * 3
    assert log[:8] == ["a", "b", "a", "b", "a", "b", "a ended", "b ended"]
    assert (scheduler.counts.steps, scheduler.counts.shared, scheduler.counts.feeds) == (6, 3, 9)
    assert log.index("c") > log.index("a ended")


def test_a_full_queue_refuses(scheduler: Scheduler) -> None:
    with held(scheduler):
        jobs = [scheduler.submit(counting(1, [], "x"), queue_limit=1) for _ in range(3)]  # two will be active
        with pytest.raises(BusyError, match="requests are waiting"):
            scheduler.submit(counting(1, [], "x"), queue_limit=1)
    assert [list(job) for job in jobs] == [[0]] * 3
    assert list(scheduler.submit(counting(1, [], "x"), queue_limit=1)) == [0]


def test_a_slow_reader_pauses_and_delays_no_one(scheduler: Scheduler) -> None:
    log: list[str] = []
    slow = scheduler.submit(counting(3 * CHANNEL_ITEMS, log, "slow"))
    wait_for(lambda: log.count("slow") == CHANNEL_ITEMS)
    assert list(scheduler.submit(counting(2000, [], "quick"))) == list(range(2000))
    assert log.count("slow") == CHANNEL_ITEMS
    assert list(slow) == list(range(3 * CHANNEL_ITEMS))


def test_cancelling_cleans_up_on_the_engine_thread(scheduler: Scheduler) -> None:
    closed: list[str] = []

    def endless(job: Job[int]) -> Steps[None]:
        try:
            while True:
                yield feed()
                job.put(1)
        finally:
            closed.append(threading.current_thread().name)

    job = scheduler.submit(endless)
    next(job)
    job.cancel()
    with pytest.raises(CancelledError):
        list(job)
    assert closed == ["edge-lfm-engine"]
    with held(scheduler):
        waiting = scheduler.submit(endless)  # cancelled before its turn: never begun
        waiting.cancel()
    with pytest.raises(CancelledError):
        list(waiting)
    assert len(closed) == 1


def test_a_job_that_fails_hurts_no_other(scheduler: Scheduler) -> None:
    def failing(job: Job[int]) -> Steps[None]:
        yield feed()
        job.put(1)
        raise NumericalError("NaN")

    bad, good = scheduler.submit(failing), scheduler.submit(counting(100, [], "good"))
    assert next(bad) == 1
    with pytest.raises(NumericalError):
        next(bad)
    assert len(list(good)) == 100
    with pytest.raises(ZeroDivisionError):
        scheduler.call(lambda: 1 // 0)
    assert scheduler.call(lambda: 7) == 7


def test_the_error_of_a_step_is_thrown_into_its_job(scheduler: Scheduler) -> None:
    def broken(feeds, *, cancelled=None):
        raise NumericalError("NaN")

    def asks_again(job: Job[str]) -> Steps[None]:
        with pytest.raises(NumericalError):
            yield feed()
        job.put("caught")
        yield feed()

    lame = Scheduler(1, broken, ROOM, 0.5)
    job = lame.submit(asks_again)
    assert next(job) == "caught"
    with pytest.raises(NumericalError):
        next(job)
    lame.close()


def test_a_job_that_cannot_clean_up_hurts_no_other(scheduler: Scheduler) -> None:
    def untidy(job: Job[int]) -> Steps[None]:
        try:
            while True:
                yield feed()
                job.put(1)
        finally:
            raise ZeroDivisionError

    job = scheduler.submit(untidy)
    next(job)
    job.cancel()
    with pytest.raises(ZeroDivisionError):
        list(job)
    assert list(scheduler.submit(counting(3, [], "next"))) == [0, 1, 2]


def test_the_last_item_comes_with_the_end(scheduler: Scheduler) -> None:
    """It waits for no one's turn: a client that has the whole answer may ask again, and finds its place free."""

    def one_and_two(job: Job[int]) -> Steps[int]:
        yield feed()
        job.put(1)
        return 2

    with held(scheduler):
        job, other = scheduler.submit(one_and_two), scheduler.submit(counting(3, [], "other"))
    wait_for(lambda: not scheduler.active)
    assert job.poll(1) == ([1], False)
    assert job.poll(1) == ([2], True)
    assert list(other) == [0, 1, 2]


def test_closing_ends_all_jobs() -> None:
    scheduler = Scheduler(1, run, ROOM, 0.5)
    started = threading.Event()

    def endless(job: Job[int]) -> Steps[None]:
        while True:
            started.set()
            yield feed()
            job.put(1)

    jobs = [scheduler.submit(endless) for _ in range(2)]
    started.wait()
    scheduler.close()
    scheduler.close()
    for job in jobs:
        with pytest.raises(ShuttingDownError):
            list(job)
    with pytest.raises(ShuttingDownError):
        scheduler.submit(endless)
    Scheduler(1, run, ROOM, 0.5).close()  # one that was never used


@pytest.fixture(scope="module")
def model(demo: dict[str, Path]):
    with Model.load(demo["int4"], threads=1, parallel=2) as loaded:
        yield loaded


def test_events_in_their_order(model: Model) -> None:
    events = list(model.stream(CAPITAL))
    kinds = [type(event) for event in events]
    assert kinds[0] is Progress and kinds[-1] is Done and set(kinds[1:-1]) == {Text}
    done = events[-1].completion
    assert "".join(e.text for e in events if isinstance(e, Text)) == done.text == "The capital of France is Paris."
    assert done.timings.queued_s >= 0 and done.timings.decode_tps > 0


def test_a_long_prompt_reports_progress_and_can_be_left(model: Model) -> None:
    text = "The cat sat on the mat. " * 200
    generation = model.stream(text, raw=True, max_tokens=2)
    progress = [event for event in generation if isinstance(event, Progress)]
    assert [p.done for p in progress] == sorted({p.done for p in progress}) and len(progress) >= 3
    assert progress[-1].done == progress[-1].total == generation.result().timings.prompt_tokens
    left = model.stream("Dogs bark. " * 250, raw=True)
    next(left)
    left.close()
    with pytest.raises(UsageError, match="stopped"):
        left.result()
    again = model.generate("Dogs bark. " * 250, raw=True, max_tokens=1)
    assert again.timings.cached_tokens >= 128  # what was read before it was left


def test_many_threads_get_what_one_gets(model: Model) -> None:
    options = {"temperature": 1.2, "raw": True, "max_tokens": 24}
    prompts = [(f"{n} cats", {**options, "seed": n}) for n in range(16)]
    alone = [model.generate(prompt, **o).token_ids for prompt, o in prompts]
    found: dict[int, tuple[int, ...]] = {}
    threads = [
        threading.Thread(target=lambda n=n, p=p, o=o: found.__setitem__(n, model.generate(p, **o).token_ids))
        for n, (p, o) in enumerate(prompts)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[n] for n in range(16)] == alone


def test_asyncio(model: Model) -> None:
    async def talk() -> None:
        answers = await asyncio.gather(*(model.generate_async(CAPITAL) for _ in range(5)))
        assert {a.text for a in answers} == {"The capital of France is Paris."}
        stream = model.stream_async(CAPITAL)
        assert "".join([text async for text in stream.texts()]) == (await stream.result()).text
        session = model.session()
        async with session.stream_async("My name is Anna.") as first:
            await first.result()
        assert "Anna" in (await session.stream_async("What is my name?").result()).text

    asyncio.run(talk())


def test_cancelling_a_task_stops_the_engine(model: Model) -> None:
    async def leave() -> None:
        endless = {"raw": True, "max_tokens": 100_000, "temperature": 5.0, "logit_bias": {7: -100.0, 2: -100.0}}
        task = asyncio.create_task(model.generate_async("Once", **endless))
        await asyncio.sleep(0.05)
        assert model.scheduler.active == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with model.stream_async("Once", **endless) as stream:
            async for _ in stream:
                break

    asyncio.run(leave())
    wait_for(lambda: model.scheduler.active == 0)


def test_an_answer_that_nobody_wants_any_more_stops(model: Model) -> None:
    generation = model.stream("Once", raw=True, max_tokens=100_000, temperature=5.0)
    next(generation)
    del generation
    gc.collect()
    wait_for(lambda: model.scheduler.active == 0)


def test_stop_strings_and_logprobs(model: Model) -> None:
    plain = model.generate(CAPITAL)
    stopped = model.generate(CAPITAL, stop=[" is", "Paris"])
    assert stopped.text == "The capital of France" and stopped.finish_reason == "stop"
    assert len(stopped.token_ids) < len(plain.token_ids)
    told = model.generate(CAPITAL, logprobs=3)
    assert tuple(t.token_id for t in told.logprobs) == told.token_ids
    assert all(len(t.top) == 3 and t.top[0][0] == t.token_id for t in told.logprobs)  # greedy: the first is taken
    streamed = [t for e in model.stream(CAPITAL, logprobs=3) if isinstance(e, Text) for t in e.logprobs]
    assert tuple(streamed) == told.logprobs[:-1]  # the token that ends it has no text
    for bad in ({"stop": ""}, {"stop": ["x"] * 17}, {"stop": [3]}, {"logprobs": 21}, {"logprobs": -1}):
        with pytest.raises(UsageError):
            model.generate(CAPITAL, **bad)


def test_prompt_logprobs_are_those_of_the_logits(model: Model) -> None:
    ids = model.encode_prompt("The cat sat on the mat. " * 20, raw=True)
    found = model.generate(ids, max_tokens=1, logprobs=2, prompt_logprobs=True)
    logits = model.logits(ids)[:, : model.vocab].astype(float)
    expected = logits - logits.max(1, keepdims=True)
    expected -= np.log(np.exp(expected).sum(1, keepdims=True))
    assert [t.token_id for t in found.prompt_logprobs] == ids[1:]
    assert all(
        abs(t.logprob - row[t.token_id]) < 1e-9 for t, row in zip(found.prompt_logprobs, expected[:-1], strict=True)
    )
    assert found.token_ids == model.generate(ids, max_tokens=1).token_ids


def test_labels_are_as_likely_however_they_are_cut_into_steps(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = ["word " * 40, "yes", "Yes, of course."]
    likely = model.classify("Say a word.", labels)
    monkeypatch.setattr("edge_lfm.engine.score.LOGIT_ROWS", 5)
    assert model.classify("Say a word.", labels) == likely


FORKED = """
import os, sys
from edge_lfm import Model
from edge_lfm.errors import UsageError
with Model.load(sys.argv[1], threads=2) as model:
    model.generate("Hello")
    child = os.fork()
    if child == 0:
        for ask in (model.generate, model.stream, model.encode_prompt, lambda text: model.logits([1])):
            try:
                ask("Hello")
                print(ask.__name__, "answered")
            except UsageError as error:
                print(error.hint)
        os._exit(0)
    os.waitpid(child, 0)
    print(model.generate("Hello").finish_reason)
"""


def test_a_process_that_was_forked_is_told_so(demo: dict[str, Path]) -> None:
    """The engine's threads are not there; whoever waited for them would wait for ever."""
    command = [sys.executable, "-P", "-W", "ignore", "-u", "-c", FORKED, str(demo["int4"])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    told = "load it after the fork"
    assert done.stdout.splitlines() == [told, told, "encode_prompt answered", told, "stop"], done
