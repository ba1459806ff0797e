"""WebSocket /v1/stream: chat requests in, one at a time, and their events out, for applications that prefer a socket.

A request is the JSON of /v1/chat/completions; while it is answered, {"type": "cancel"} stops it. Events are {"type":
"progress" | "text" | "reasoning" | "tool_call" | "done" | "error", ...}.
"""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.websockets import WebSocket, WebSocketDisconnect

from edge_lfm.api import AsyncGeneration, Done, Event, Progress, Reasoning, Text, ToolCall
from edge_lfm.server.chat import prepare, tool_call_json
from edge_lfm.server.failures import RequestError, describe
from edge_lfm.server.schemas import ChatRequest, decode
from edge_lfm.server.service import Service, timings_of, usage_of

Json = dict[str, Any]


class Socket:
    """The route."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def serve(self, socket: WebSocket) -> None:
        """The connection, until its client leaves."""
        await socket.accept()
        try:
            while True:
                text = await self._receive(socket)
                try:
                    await self._answer(socket, decode(text, ChatRequest))
                except WebSocketDisconnect:
                    raise
                except Exception as error:
                    await socket.send_json({"type": "error", **describe(error)[1]})
        except WebSocketDisconnect:
            return

    async def _receive(self, socket: WebSocket) -> bytes:
        message = await socket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1000))
        text = message.get("text")
        return text.encode("utf-8", "replace") if text is not None else message.get("bytes") or b""

    async def _answer(self, socket: WebSocket, chat: ChatRequest) -> None:
        chat.check()
        if (chat.n or 1) != 1:
            raise RequestError("a socket gives one choice", "n")
        async with self._service.model_for(chat.model) as model:
            prompt = await run_in_threadpool(prepare, model, chat)
            async with self._service.start(model, prompt) as generation:
                talking = asyncio.ensure_future(self._tell(socket, generation))
                listening = asyncio.ensure_future(self._receive(socket))
                try:
                    await asyncio.wait({talking, listening}, return_when=asyncio.FIRST_COMPLETED)
                    if listening.done():
                        listening.result()  # raises if the client has left; whatever it says means: stop
                        await socket.send_json({"type": "done", "finish_reason": "cancelled"})
                    else:
                        talking.result()
                finally:
                    for task in (talking, listening):
                        task.cancel()
                    await asyncio.gather(talking, listening, return_exceptions=True)

    async def _tell(self, socket: WebSocket, generation: AsyncGeneration) -> None:
        async for event in generation:
            await socket.send_json(event_json(event))


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
