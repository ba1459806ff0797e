"""An answer is the same, to the bit, whatever runs beside it: drawn mixes of answers, each compared with itself alone.

Alone means: one answer at a time, nothing kept of earlier prompts, whole chunks. In company: eight at a time, prompts
begun from what others have read, cut to a few tokens a step.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stepping import paging_ram

from edge_lfm import Completion, Model
from edge_lfm.demo import packed_demo_drafter
from edge_lfm.engine.feeds import Steps
from edge_lfm.engine.gathering import Room
from edge_lfm.engine.runner import Runner
from edge_lfm.engine.scheduler import Job, Scheduler
from edge_lfm.engine.sequence import TokenSequence
from edge_lfm.errors import EdgeLfmError, NumericalError
from edge_lfm.kernels.load.library import load_kernels
from edge_lfm.kernels.spec.isa import runnable_tiers
from edge_lfm.model.packed_model import PackedModel
from edge_lfm.model.state import State

pytestmark = pytest.mark.slow
CONTEXT = 320
KINDS = ("whole", "int8 cache", "paged")
DRAFTING = tuple(f"{kind}, drafts" for kind in KINDS)
MIXES = int(os.environ.get("EDGE_LFM_MIXES", "6"))
"""Of each kind; `make test-mixes` draws a hundred."""
OTHER_TIERS = [tier.name for tier in runnable_tiers()[1:]]
"""Every other test runs on the best one."""
TEXTS = ("The cat sat on the mat. ", "What is the capital of France? ", "Dogs bark, and the sun sets in the west. ")
FORMS: tuple[dict[str, Any], ...] = (
    {"regex": "[a-z]{2,9}( [a-z]+){1,4}"},
    {"choices": ["Paris", "The cat", "No"]},
    {"schema": {"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"}}}},
)
SAMPLERS: tuple[dict[str, Any], ...] = (
    {"temperature": 0.0},
    {"temperature": 1.2, "top_k": 20},
    {"temperature": 2.0, "min_p": 0.05, "repeat_penalty": 1.2},
    {"temperature": 0.9, "top_p": 0.8, "presence_penalty": 0.5, "frequency_penalty": 0.3},
    {"temperature": 0.8, "dry_multiplier": 0.8, "xtc_probability": 0.4},
)


@dataclass(frozen=True)
class Wish:
    """One request. leaves_after: events after which its client leaves; None: it stays."""

    prompt: str
    options: dict[str, Any]
    leaves_after: int | None = None


def draw_wish(rng: np.random.Generator) -> Wish:
    """A request of any kind: prompts begin alike, so that some start from what others have read."""
    prompt = "".join(rng.choice(TEXTS) for _ in range(rng.choice([1, 2, 5, 12])))
    options = {
        **SAMPLERS[rng.integers(len(SAMPLERS))],
        "seed": int(rng.integers(1 << 30)),
        "raw": bool(rng.random() < 0.7),
    }
    options["max_tokens"] = None if rng.random() < 0.1 else int(rng.integers(1, 40))
    if rng.random() < 0.3:
        options |= FORMS[rng.integers(len(FORMS))]
    if rng.random() < 0.3:
        options["stop"] = [" the", "s"][: rng.integers(1, 3)]
    if rng.random() < 0.3:
        options |= {"logprobs": int(rng.integers(0, 4)), "prompt_logprobs": bool(rng.random() < 0.4)}
    if rng.random() < 0.3:
        options["lookup"] = int(rng.integers(1, 9))
    elif rng.random() < 0.8:  # others have as many drafts as pay, if there is a drafter
        options["max_drafts"] = int(rng.integers(0, 9))
    return Wish(prompt, options, int(rng.integers(1, 12)) if rng.random() < 0.15 else None)


def told(completion: Completion) -> tuple[Any, ...]:
    """All of an answer but its times."""
    c = completion
    return c.text, c.token_ids, c.finish_reason, c.reasoning, c.tool_calls, c.logprobs, c.prompt_logprobs


def in_company(model: Model, wishes: list[Wish]) -> list[tuple[Any, ...] | None]:
    """All of them at once; None for one whose client has left."""
    found: list[tuple[Any, ...] | None] = [None] * len(wishes)

    def ask(n: int) -> None:
        with model.stream(wishes[n].prompt, **wishes[n].options) as stream:
            if wishes[n].leaves_after is None:
                found[n] = told(stream.result())
            else:
                for _ in zip(range(wishes[n].leaves_after or 0), stream, strict=False):
                    pass

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(len(wishes))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


@contextmanager
def alone_and_together(folder: Path, kind: str, threads: tuple[int, int] = (1, 2)) -> Iterator[tuple[Model, Model]]:
    """A model that answers alone, without a drafter, and one that answers in company, on so many threads."""
    options: dict[str, Any] = {"context": CONTEXT, "kv_dtype": "int8" if "int8" in kind else "float16"}
    beside: dict[str, Any] = {"draft": packed_demo_drafter()} if "drafts" in kind else {}
    if "paged" in kind:
        beside["ram"] = paging_ram(folder, CONTEXT, threads=threads[1], parallel=8, **beside)
    with (
        Model.load(folder, threads=threads[0], parallel=1, cache=1, **options) as alone,
        Model.load(folder, threads=threads[1], parallel=8, token_wait=0.01, **options, **beside) as company,
    ):
        assert (company.paging is not None) == ("paged" in kind)
        yield alone, company


@pytest.fixture(scope="module", params=KINDS)
def both(request: pytest.FixtureRequest, demo: dict[str, Path]) -> Iterator[tuple[Model, Model]]:
    with alone_and_together(demo["balanced"], request.param) as models:
        yield models


@pytest.fixture(scope="module", params=DRAFTING)
def drafting(request: pytest.FixtureRequest, demo: dict[str, Path]) -> Iterator[tuple[Model, Model]]:
    """On the threads the other way round."""
    with alone_and_together(demo["balanced"], request.param, threads=(2, 1)) as models:
        yield models


def compare_mixes(alone: Model, company: Model, seed: int) -> None:
    """Sixteen drawn requests at once, each compared with itself alone."""
    rng = np.random.default_rng(seed)
    wishes = [draw_wish(rng) for _ in range(16)]
    before = company.steps.shared
    found = in_company(company, wishes)
    assert company.steps.shared > before
    for wish, answer in zip(wishes, found, strict=True):
        if wish.leaves_after is None:
            assert answer == told(alone.generate(wish.prompt, **wish.options)), wish
    assert company.activity.active == company.activity.waiting == 0


@pytest.mark.parametrize("seed", range(MIXES))
def test_an_answer_is_the_same_whatever_runs_beside_it(both: tuple[Model, Model], seed: int) -> None:
    compare_mixes(*both, seed)


@pytest.mark.parametrize("seed", range(1000, 1000 + MIXES))
def test_so_it_is_whatever_is_drafted_beside_it(drafting: tuple[Model, Model], seed: int) -> None:
    compare_mixes(*drafting, seed)


@pytest.mark.parametrize("kind", (*KINDS, *DRAFTING[:1]))
@pytest.mark.parametrize("tier", OTHER_TIERS)
def test_so_it_is_on_every_tier(demo: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tier: str, kind: str) -> None:
    """On the threads the other way round: two for the answer alone, one in company."""
    monkeypatch.setenv("EDGE_LFM_ISA", tier)
    with alone_and_together(demo["balanced"], kind, threads=(2, 1)) as (alone, company):
        assert company.isa == tier
        for seed in range(100, 102):
            compare_mixes(alone, company, seed)


def test_conversations_side_by_side_are_those_of_each_alone(both: tuple[Model, Model]) -> None:
    """With turns taken back, asked again, and forks that go on beside their origin."""
    alone, company = both

    def talk(model: Model, n: int) -> list[tuple[Any, ...]]:
        session = model.session(system=f"You are number {n % 2}.")
        options = {"temperature": 1.1, "seed": n, "max_tokens": 12}
        answers = [session.send("My name is Anna.", **options), session.send("What is my name?", **options)]
        session.undo()
        other = session.fork()
        answers += [other.send("Who are you?", **options), session.send("What is my name?", **options)]
        answers.append(session.regenerate(**{**options, "seed": n + 100}).result())
        return [told(answer) for answer in answers]

    found = at_once(8, lambda n: talk(company, n))
    assert found == [talk(alone, n) for n in range(8)]


def at_once(count: int, function: Callable[[int], Any]) -> list[Any]:
    """What a function gives for 0, 1, 2, ..., called in a thread each."""
    found: list[Any] = [None] * count
    threads = [threading.Thread(target=lambda n=n: found.__setitem__(n, function(n))) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def follow(sequence: TokenSequence, ids: list[int], rows: list[np.ndarray]) -> Callable[[Job[int]], Steps[None]]:
    """A job that reads a prompt, and then feeds what is likeliest, twelve times."""

    def steps(job: Job[int]) -> Steps[None]:
        while len(sequence.ids) < len(ids):
            logits = yield from sequence.read(ids[len(sequence.ids) :])
        for _ in range(12):
            rows.append(logits)
            logits = yield from sequence.feed(int(np.argmax(logits[-1])))
            job.put(1)

    return steps


@pytest.mark.parametrize("sick", [0, 3])
def test_a_nan_in_one_sequence_touches_no_other(sick: int, packed_cases: dict[str, dict[str, Path]]) -> None:
    rng = np.random.default_rng(sick)
    prompts = [rng.integers(0, 160, count).tolist() for count in (5, 30, 1, 17)]

    def answers(parallel: int, sick: int | None) -> tuple[list[list[np.ndarray]], list[EdgeLfmError | None]]:
        found: list[list[np.ndarray]] = [[] for _ in prompts]
        errors: list[EdgeLfmError | None] = [None] * len(prompts)
        folder = packed_cases["int8"]["moe"]
        with PackedModel(folder) as model, Runner(model, load_kernels(), 2, 24) as runner:
            scheduler = Scheduler(parallel, runner.run, Room(24, 16), 0.5)
            states = [State(runner.shape, 64) for _ in prompts]
            if sick is not None:
                states[sick].conv[0][:] = np.nan
            gate = threading.Event()
            blocker = threading.Thread(target=lambda: scheduler.call(gate.wait))
            blocker.start()
            parts = zip(states, prompts, found, strict=True)
            jobs = [scheduler.submit(follow(TokenSequence(s), ids, rows)) for s, ids, rows in parts]
            gate.set()
            for n, job in enumerate(jobs):
                try:
                    list(job)
                except EdgeLfmError as error:
                    errors[n] = error
            blocker.join()
            scheduler.close()
        return found, errors

    expected, none = answers(1, None)
    found, errors = answers(4, sick)
    assert none == [None] * 4
    assert [type(error) for error in errors] == [NumericalError if n == sick else type(None) for n in range(4)]
    for n in set(range(4)) - {sick}:
        assert len(found[n]) == 12
        assert all(np.array_equal(a, b) for a, b in zip(found[n], expected[n], strict=True))


def test_what_steps_held_is_told(both: tuple[Model, Model]) -> None:
    """Of one answer alone a row a step; drafts beside those that were taken; of two, a row of each."""
    alone, company = both
    timings = alone.generate(TEXTS[0], raw=True, max_tokens=20, ignore_eos=True).timings
    assert (timings.steps, timings.rows, timings.rows_per_step, timings.drafted) == (19, 19, 1.0, 0)
    assert timings.experts.asked == timings.experts.read > 0
    timings = alone.generate(TEXTS[0] * 8, raw=True, max_tokens=20, lookup=4, ignore_eos=True).timings
    assert timings.rows == timings.steps + timings.drafted and 0 < timings.accepted <= timings.drafted
    assert timings.steps + timings.accepted == 19
    before = company.steps.rows
    together = at_once(2, lambda n: company.generate(TEXTS[n], raw=True, max_tokens=60, ignore_eos=True).timings)
    assert max(t.rows_per_step for t in together) > 1.0
    assert min(t.experts.union_share for t in together) < 1.0
    assert company.steps.rows - before == sum(t.prompt_tokens - t.cached_tokens + 59 for t in together)


def test_answers_to_one_prompt_read_it_once_and_are_those_of_each_alone(both: tuple[Model, Model]) -> None:
    alone, company = both
    prompt = "".join(TEXTS) * 5 + "Tell me of answers to one prompt."
    wishes = [{"temperature": 1.2, "seed": n, "max_tokens": 30, "raw": True} for n in range(6)]
    requests = [company.prepare(prompt, **wish) for wish in wishes]
    jobs = [company.submit(requests[0])]
    jobs += [company.submit(request, after=jobs[0]) for request in requests[1:]]
    answers = [list(job)[-1][-1].completion for job in jobs]
    assert [told(answer) for answer in answers] == [told(alone.generate(prompt, **wish)) for wish in wishes]
    count = len(requests[0].token_ids)
    assert [answer.timings.cached_tokens for answer in answers[1:]] == [count - 1] * 5
    assert max(answer.timings.rows_per_step for answer in answers) > 2


def test_those_that_wait_for_another_to_read_their_prompt_do_without_it_if_it_fails(both: tuple[Model, Model]) -> None:
    alone, company = both
    prompt, wish = "".join(TEXTS) * 4, {"temperature": 0.0, "max_tokens": 5, "raw": True}
    first = company.submit(company.prepare(prompt, **wish))
    others = [company.submit(company.prepare(prompt, **wish), after=first) for _ in range(3)]
    first.cancel()
    expected = told(alone.generate(prompt, **wish))
    assert [told(list(job)[-1][-1].completion) for job in others] == [expected] * 3


def test_labels_are_as_likely_as_their_tokens_say(both: tuple[Model, Model]) -> None:
    """Against the logits of prompt and label, one label after the other."""
    for model in both:
        labels = ["Paris", "London is the capital", "no", "Rome, of course", "The", "a", "b", "c", "d", "e"]
        ids = model.prepare(TEXTS[1]).token_ids
        end = model.tokenizer.eos_ids[:1]
        expected = []
        for label in labels:
            answer = [*model.tokenizer.encode(label), *end]
            rows = model.logits([*ids, *answer])[len(ids) - 1 : -1, : model.vocab].astype(np.float64)
            rows -= rows.max(1, keepdims=True)
            rows -= np.log(np.exp(rows).sum(1, keepdims=True))
            expected.append(rows[range(len(answer)), answer].sum())
        likely = np.exp(np.array(expected) - max(expected))
        found = model.classify(TEXTS[1], labels)
        assert np.allclose([found[label] for label in labels], likely / likely.sum(), rtol=1e-9)


def test_of_many_clients_half_leave_and_the_others_get_what_they_get_alone(both: tuple[Model, Model]) -> None:
    alone, company = both
    rng = np.random.default_rng(99)
    wishes = [draw_wish(rng) for _ in range(64)]
    wishes = [Wish(w.prompt, w.options, None if n % 2 else 1 + n % 5) for n, w in enumerate(wishes)]
    before = company.reuse.sequences
    found = in_company(company, wishes)
    stay = list(zip(wishes, found, strict=True))[1::2]
    assert [answer for _, answer in stay] == [told(alone.generate(wish.prompt, **wish.options)) for wish, _ in stay]
    assert company.activity.active == company.activity.waiting == 0
    reuse = company.reuse
    assert reuse.nbytes <= company.engine.pool.limit_bytes and reuse.sequences <= before + 64
