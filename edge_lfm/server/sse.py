"""Event streams: JSON as server-sent events or as lines, pings while nothing comes, and an end as soon as the client
leaves."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from edge_lfm.server.failures import describe

PING_S = 5.0
"""Proxies and clients give up on a stream that is silent for half a minute; a prefill on a small board is."""


async def until_disconnect(receive: Receive) -> None:
    """Return when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def unless_disconnected(request: Request, work: Any) -> Any:
    """The result of an awaitable, which is cancelled when the client leaves (then there is no result: None)."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(until_disconnect(request.receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        for other in (task, gone):
            other.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


class EventStream(Response):
    """`events`: dicts, each sent as one event; an item ("name", dict) has an event name. An error becomes the last one,
    under the name that its JSON has as a type.

    done: what is sent at the end, as OpenAI's "[DONE]". stall_s: how long the client may leave the stream unread.
    ping: the event that is sent while nothing comes, in place of a comment.
    """

    media_type = "text/event-stream"
    ping = b": ping\n\n"

    def __init__(
        self,
        events: AsyncIterator[Any],
        done: str | None = "[DONE]",
        stall_s: float = 60.0,
        ping: Any = None,
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events, self._done, self._stall_s = events, done, stall_s
        if ping is not None:
            self.ping = self.encoded(ping)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        writer = asyncio.ensure_future(self._write(send, scope["path"]))
        gone = asyncio.ensure_future(until_disconnect(receive))
        try:
            await asyncio.wait({writer, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (writer, gone):
                task.cancel()
            await asyncio.gather(writer, gone, return_exceptions=True)
            with contextlib.suppress(Exception):
                await self._events.aclose()  # type: ignore[attr-defined]

    async def _write(self, send: Send, path: str) -> None:
        async def put(text: str | bytes, more: bool = True) -> None:
            body = text.encode() if isinstance(text, str) else text
            async with asyncio.timeout(self._stall_s):
                await send({"type": "http.response.body", "body": body, "more_body": more})

        pending = asyncio.ensure_future(anext(self._events, None))
        try:
            while True:
                done, _ = await asyncio.wait({pending}, timeout=PING_S)
                if not done:
                    if self.ping:
                        await put(self.ping)
                    continue
                event = pending.result()
                if event is None:
                    break
                await put(self.encoded(event))
                pending = asyncio.ensure_future(anext(self._events, None))
        except TimeoutError:  # the client does not read
            return
        except Exception as error:
            told = describe(error, path)[1]
            await put(self.encoded((told["type"], told) if "type" in told else told))
        finally:
            pending.cancel()
            await asyncio.gather(pending, return_exceptions=True)
        await put(f"data: {self._done}\n\n" if self._done else "", more=False)

    def encoded(self, event: Any) -> bytes:
        """One event's bytes."""
        name, data = event if isinstance(event, tuple) else (None, event)
        head = f"event: {name}\n".encode() if name else b""
        return head + b"data: " + msgspec.json.encode(data) + b"\n\n"


class JsonLines(EventStream):
    """The same with a line of JSON for each event; nothing comes between lines, for Ollama's clients read all of it."""

    media_type = "application/x-ndjson"
    ping = b""

    def encoded(self, event: Any) -> bytes:
        line: bytes = msgspec.json.encode(event) + b"\n"
        return line
