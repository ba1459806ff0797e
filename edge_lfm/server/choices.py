"""The answers that one request asks for: made together, each prompt read once.

Knows answers as they come; does not know how an interface writes them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence

from edge_lfm.api import AsyncGeneration, Completion, Done, Event, Model, OnEnd, Request

TOGETHER = 8
"""Answers of one request that are queued at a time: requests of others wait behind no more."""


class Choices:
    """first: the answer to the first request, which has been queued; on_end: as of `Model.start_async`."""

    def __init__(self, model: Model, requests: Sequence[Request], first: AsyncGeneration, on_end: OnEnd) -> None:
        self._model, self._requests, self._on_end = model, requests, on_end
        self._answers = [first]

    async def __aenter__(self) -> Choices:
        return self

    async def __aexit__(self, *_: object) -> None:
        for answer in self._answers:
            answer.close()

    async def events(self) -> AsyncIterator[tuple[int, Event]]:
        """The number of an answer, and what comes of it, until all are there; `Done` is the last of each.

        Raises:
            EdgeLfmError: of the first answer that fails.
        """
        waiting = deque(range(len(self._requests)))
        coming: dict[asyncio.Future[Event | None], int] = {}
        try:
            while waiting or coming:
                while waiting and len(coming) < TOGETHER:
                    n = waiting.popleft()
                    coming[self._next(n)] = n
                done, _ = await asyncio.wait(coming, return_when=asyncio.FIRST_COMPLETED)
                for task in sorted(done, key=coming.__getitem__):
                    n, event = coming.pop(task), task.result()
                    if event is not None:
                        coming[self._next(n)] = n
                        yield n, event
        finally:
            for task in coming:
                task.cancel()
            await asyncio.gather(*coming, return_exceptions=True)

    async def completions(self) -> list[Completion]:
        """All of them, in the requests' order. Raises as `events`."""
        whole = {n: event.completion async for n, event in self.events() if isinstance(event, Done)}
        return [whole[n] for n in range(len(self._requests))]

    def _next(self, n: int) -> asyncio.Future[Event | None]:
        """The next event of the n-th answer, None behind the last; it is queued now if it has not been."""
        if n == len(self._answers):
            self._answers.append(self._start(self._requests[n]))
        return asyncio.ensure_future(anext(self._answers[n], None))

    def _start(self, request: Request) -> AsyncGeneration:
        """Queue a request, behind an earlier one with the same prompt if there is one."""
        earlier = zip(self._answers, self._requests, strict=False)
        first = next((a for a, other in earlier if other.token_ids == request.token_ids), None)
        after = None if request.prompt_logprobs else first  # which compute all of the prompt anew
        return self._model.start_async(request, on_end=self._on_end, after=after)
