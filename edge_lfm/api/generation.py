"""An answer as it comes: events to iterate, from a thread or in asyncio. Closing it stops the engine within a step."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from typing import NoReturn

from edge_lfm.engine.answering import Events
from edge_lfm.engine.events import Completion, Done, Event, Text
from edge_lfm.engine.scheduler import Job
from edge_lfm.errors import CancelledError, EdgeLfmError, UsageError

OnEnd = Callable[[str, Completion | EdgeLfmError | None], object]
"""What is called when an answer ends: with its text, and its completion, the error that ended it, or None when it was
stopped."""


class _Answer:
    """What both kinds share: the text so far, the completion, and telling the conversation about the end."""

    def __init__(self, job: Job[Events], on_end: OnEnd | None) -> None:
        self.job, self._on_end = job, on_end
        self._ready: deque[Event] = deque()
        self._text: list[str] = []
        self._finished: Completion | None = None

    def close(self) -> None:
        """Stop generating."""
        self.job.cancel()
        self._tell_end()

    def _take(self, events: list[Events]) -> None:
        for event in (event for group in events for event in group):
            self._ready.append(event)

    def _next_ready(self) -> Event | None:
        if not self._ready:
            return None
        event = self._ready.popleft()
        if isinstance(event, Text):
            self._text.append(event.text)
        elif isinstance(event, Done):
            self._finished = event.completion
            self._tell_end()
        return event

    def _whole(self) -> Completion:
        if self._finished is None:
            raise UsageError("the generation was stopped before its end", hint="iterate it to its end")
        return self._finished

    def _tell_end(self, error: EdgeLfmError | None = None) -> None:
        on_end, self._on_end = self._on_end, None
        if on_end:
            on_end("".join(self._text), error or self._finished)

    def __reduce_ex__(self, _protocol: object) -> NoReturn:
        raise UsageError("an answer that comes cannot be pickled or copied", hint="take its result()")

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # at the interpreter's end anything may be gone
            self.close()


class Generation(_Answer):
    """Iterate it for events, or `texts()` for the text alone; `result()` for the whole; `close()` to stop.

    An answer that was closed ends the iteration.
    """

    def __init__(self, job: Job[Events], on_end: OnEnd | None = None) -> None:
        super().__init__(job, on_end)

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        while (event := self._next_ready()) is None:
            try:
                self._take([next(self.job)])
            except CancelledError:
                raise StopIteration from None
            except EdgeLfmError as error:
                self._tell_end(error)
                raise
        return event

    def texts(self) -> Iterator[str]:
        """The text of the answer, piece by piece."""
        for event in self:
            if isinstance(event, Text):
                yield event.text

    def result(self) -> Completion:
        """Wait for the end; the whole answer.

        Raises:
            UsageError: the generation was closed before its end.
        """
        for _ in self:
            pass
        return self._whole()

    def __enter__(self) -> Generation:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncGeneration(_Answer):
    """The same in asyncio: `async for`, `await result()`, `close()`. Cancelling the task that waits stops the
    engine."""

    def __init__(self, job: Job[Events], on_end: OnEnd | None = None) -> None:
        super().__init__(job, on_end)
        try:
            self._loop, self._some = asyncio.get_running_loop(), asyncio.Event()
        except RuntimeError:
            job.cancel()
            raise UsageError("no event loop is running here", hint="await it in a coroutine, or use stream") from None
        job.listener = self._wake
        self._wake()

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        while (event := self._next_ready()) is None:
            self._some.clear()
            try:
                groups, ended = self.job.poll()
            except CancelledError:
                raise StopAsyncIteration from None
            except EdgeLfmError as error:
                self._tell_end(error)
                raise
            self._take(groups)
            if groups:
                continue
            if ended:
                raise StopAsyncIteration
            try:
                await self._some.wait()
            except asyncio.CancelledError:
                self.close()
                raise
        return event

    async def texts(self) -> AsyncIterator[str]:
        """The text of the answer, piece by piece."""
        async for event in self:
            if isinstance(event, Text):
                yield event.text

    async def result(self) -> Completion:
        """Wait for the end; the whole answer. Raises as `Generation.result`."""
        async for _ in self:
            pass
        return self._whole()

    async def __aenter__(self) -> AsyncGeneration:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def _wake(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._some.set)
        except RuntimeError:  # the loop is closed: nobody waits any more
            self.job.cancel()
