"""WebSocket /v1/stream: chat requests in, one at a time, and their events out, for applications that prefer a socket.

A request is the JSON of /v1/chat/completions; while it is answered, {"type": "cancel"} stops it. Events are {"type":
"progress" | "text" | "reasoning" | "tool_call" | "done" | "error", ...}.
"""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from edge_lfm.api import AsyncGeneration, Done, Event, Progress, Reasoning, Text, ToolCall
from edge_lfm.server.chat import prepare, tool_call_json
from edge_lfm.server.failures import RequestError, describe
from edge_lfm.server.schemas import ChatRequest, decode
from edge_lfm.server.service import Service, timings_of, usage_of

Json = dict[str, Any]
MAX_SOCKETS, MAX_MESSAGE_BYTES = 128, 2 << 20
_TRY_AGAIN = 1013


class Socket:
    """The route."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._open = 0
        self._silent: dict[_Inbox, None] = {}  # those that wait for a request, longest first

    async def serve(self, socket: WebSocket) -> None:
        """The connection, until its client leaves, or is the one of too many that has been silent longest."""
        await socket.accept()
        if self._open >= MAX_SOCKETS and not self._silent:
            await socket.close(_TRY_AGAIN, "there are too many sockets")
            return
        if self._open >= MAX_SOCKETS:
            next(iter(self._silent)).give_up()
        inbox = _Inbox(socket)
        self._open += 1
        try:
            while True:
                self._silent[inbox] = None
                text = await inbox.take()
                self._silent.pop(inbox, None)
                try:
                    await self._answer(socket, inbox, text)
                except WebSocketDisconnect:
                    raise
                except Exception as error:
                    await socket.send_json({"type": "error", **describe(error)[1]})
        except WebSocketDisconnect:
            return
        finally:
            self._open -= 1
            self._silent.pop(inbox, None)
            inbox.next.cancel()

    async def _answer(self, socket: WebSocket, inbox: _Inbox, text: bytes) -> None:
        work, nbytes = self._service.work, len(text)
        chat = await work.run(decode, text, ChatRequest, nbytes=nbytes)
        chat.settle(self._service.settings.defaults)
        await work.run(chat.check, nbytes=nbytes)
        if (chat.n or 1) != 1:
            raise RequestError("a socket gives one choice", "n")
        async with self._service.model_for(chat.model) as model:
            prompt = await work.run(prepare, model, chat, nbytes=nbytes)
            async with self._service.start(model, prompt) as generation:
                talking = asyncio.ensure_future(self._tell(socket, generation))
                try:
                    await asyncio.wait({talking, inbox.next}, return_when=asyncio.FIRST_COMPLETED)
                    whole = talking.done()
                finally:
                    talking.cancel()
                    await asyncio.gather(talking, return_exceptions=True)
            if whole:
                talking.result()
            else:
                await inbox.take()  # raises if the client has left; whatever it says means: stop
                await socket.send_json({"type": "done", "finish_reason": "cancelled"})

    async def _tell(self, socket: WebSocket, generation: AsyncGeneration) -> None:
        async for event in generation:
            await socket.send_json(event_json(event))


class _Inbox:
    """What the client says; what it says while an answer ends is kept for the next request."""

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket
        self._given_up = False
        self.next = asyncio.ensure_future(self._receive())

    def give_up(self) -> None:
        """Close the connection, whose client says nothing."""
        self._given_up = True
        self.next.cancel()

    async def take(self) -> bytes:
        """The next message.

        Raises:
            WebSocketDisconnect: the client has left, or was given up.
        """
        try:
            message = await self.next
        except asyncio.CancelledError:
            if not self._given_up:
                raise
            await self._socket.close(_TRY_AGAIN, "there are too many sockets")
            message = None
        if message is None:
            raise WebSocketDisconnect
        self.next = asyncio.ensure_future(self._receive())
        return message

    async def _receive(self) -> bytes | None:
        """A message; None when the client has left."""
        message = await self._socket.receive()
        if message["type"] == "websocket.disconnect":
            return None
        text = message.get("text")
        return text.encode("utf-8", "replace") if text is not None else message.get("bytes") or b""


def event_json(event: Event) -> Json:
    """An event of an answer as JSON."""
    match event:
        case Progress(done, total, cached):
            return {"type": "progress", "done": done, "total": total, "cached": cached}
        case Text(text):
            return {"type": "text", "text": text}
        case Reasoning(text):
            return {"type": "reasoning", "text": text}
        case ToolCall():
            return {"type": "tool_call", **tool_call_json(event)["function"]}
        case Done(completion):
            return {
                "type": "done",
                "finish_reason": completion.finish_reason,
                "usage": usage_of([completion], 1),
                "timings": timings_of(completion),
            }
