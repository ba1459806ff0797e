"""The answers that one request asks for: each its own, all of them ended with their client."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_lfm import Completion, Done, Model
from edge_lfm.api import Request
from edge_lfm.server.choices import TOGETHER, Choices

PROMPT = "Tell me of the sun and the moon. " * 20


@pytest.fixture(scope="module")
def model(demo: dict[str, Path]) -> Iterator[Model]:
    with Model.load(demo["int4"], threads=1, parallel=6) as loaded:
        yield loaded


def requests(model: Model, count: int, **options: object) -> list[Request]:
    first = model.prepare(PROMPT, temperature=1.1, seed=0, **options)
    return [first, *(first.drawn_with(n) for n in range(1, count))]


def choices(model: Model, wanted: list[Request], ended: list[Completion | None]) -> Choices:
    def note(_text: str, completion: Completion | None) -> None:
        ended.append(completion)

    return Choices(model, wanted, model.start_async(wanted[0], on_end=note), note)


def test_more_than_are_made_at_a_time_come_in_their_order(model: Model) -> None:
    wanted, ended = requests(model, 2 * TOGETHER + 3, max_tokens=12), list[Completion | None]()
    expected = [list(model.submit(request))[-1][-1].completion.token_ids for request in wanted]

    async def all_of_them() -> list[Completion]:
        async with choices(model, wanted, ended) as answers:
            return await answers.completions()

    assert [answer.token_ids for answer in asyncio.run(all_of_them())] == expected
    assert len(ended) == len(wanted) and None not in ended


def test_all_end_when_their_client_leaves(model: Model) -> None:
    wanted, ended = requests(model, 5, max_tokens=2000, ignore_eos=True), list[Completion | None]()

    async def leave() -> set[int]:
        seen = set()
        async with choices(model, wanted, ended) as answers:
            async for n, event in answers.events():
                assert not isinstance(event, Done)
                seen.add(n)
                if len(seen) == 5:
                    break
        return seen

    assert asyncio.run(leave()) == set(range(5))
    assert ended == [None] * 5
    end = time.monotonic() + 10
    while model.activity.active:
        assert time.monotonic() < end
        time.sleep(0.01)
