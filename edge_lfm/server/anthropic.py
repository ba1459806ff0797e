"""POST /v1/messages and /v1/messages/count_tokens: Anthropic's interface, over the same chats as OpenAI's."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from edge_lfm.api import Done, Model
from edge_lfm.api import Request as EngineRequest
from edge_lfm.server.anthropic_input import CountRequest, MessagesRequest
from edge_lfm.server.anthropic_output import Blocks, Named, blocks_of, ending_of, named, usage_of
from edge_lfm.server.chat import prepare
from edge_lfm.server.failures import RequestError
from edge_lfm.server.schemas import ChatRequest
from edge_lfm.server.service import Service
from edge_lfm.server.settings import Defaults
from edge_lfm.server.sse import EventStream, unless_disconnected

Json = dict[str, Any]


class Messages:
    """The routes."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def create(self, request: Request) -> Response:
        """POST /v1/messages"""
        body, nbytes = await self._service.read(request, MessagesRequest)
        chat = await self._service.work.run(_checked, body, self._service.settings.defaults, nbytes=nbytes)
        if not body.stream:
            return JSONResponse(await unless_disconnected(request, self._whole(body, chat, nbytes)))
        events = self._stream(body, chat, nbytes)
        await anext(events)  # whatever can be refused is refused before the stream begins
        return EventStream(events, done=None, stall_s=self._service.settings.stall_s, ping=named("ping"))

    async def count(self, request: Request) -> Response:
        """POST /v1/messages/count_tokens"""
        body, nbytes = await self._service.read(request, CountRequest)
        chat = await self._service.work.run(_checked, body, self._service.settings.defaults, nbytes=nbytes)
        async with self._service.model_for(chat.model) as model:
            return JSONResponse({"input_tokens": await self._service.work.run(_count, model, chat, nbytes=nbytes)})

    async def _whole(self, body: MessagesRequest, chat: ChatRequest, nbytes: int) -> Json:
        async with self._service.model_for(chat.model) as model:
            prompt = await self._service.work.run(_prepared, model, chat, nbytes=nbytes)
            async with self._service.start(model, prompt) as generation:
                answer = await generation.result()
            again = partial(prepare, model, chat)
            answer = await self._service.without_fault(model, answer, chat.plain_messages(), again, nbytes)
            content = blocks_of(answer, body.tells_thoughts)
            return self._head() | {"content": content, "usage": usage_of(answer)} | ending_of(answer)

    async def _stream(self, body: MessagesRequest, chat: ChatRequest, nbytes: int) -> AsyncIterator[Named | None]:
        async with self._service.model_for(chat.model) as model:
            prompt = await self._service.work.run(_prepared, model, chat, nbytes=nbytes)
            async with self._service.start(model, prompt) as generation:
                yield None
                usage = {"input_tokens": len(prompt.token_ids), "output_tokens": 0}
                yield named("message_start", message=self._head() | {"usage": usage})
                blocks = Blocks(body.tells_thoughts)
                async for event in generation:
                    for told in blocks.end_block() if isinstance(event, Done) else blocks.tell(event):
                        yield told
                answer = await generation.result()
            yield named("message_delta", delta=ending_of(answer), usage=usage_of(answer))
            yield named("message_stop")

    def _head(self) -> Json:
        """A message of which nothing has been told."""
        return {
            "id": f"msg_{uuid.uuid4().hex}",
            "type": "message",
            "role": "assistant",
            "model": self._service.settings.name,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
        }


def _checked(body: CountRequest, defaults: Defaults) -> ChatRequest:
    chat = body.chat()
    chat.settle(defaults)
    chat.check()
    return chat


def _prepared(model: Model, chat: ChatRequest) -> EngineRequest:
    """The engine's request. Of an effort that no template can tell, `high` is what Anthropic's clients mean by none.

    Raises:
        RequestError: another effort cannot be told.
    """
    known = model.template is not None and "reasoning_effort" in model.template.switches
    if chat.reasoning_effort == "low" and not known:
        field = "output_config.effort"
        raise RequestError(f"{field} is low, and the chat template has no switch for how much to think", field)
    if chat.reasoning_effort == "high" and not known:
        chat.reasoning_effort = None
    return prepare(model, chat)


def _count(model: Model, chat: ChatRequest) -> int:
    messages, switches = chat.plain_messages(), chat.chat_template_kwargs
    return len(model.encode_prompt(messages, tools=chat.shown_tools, chat_template_kwargs=switches))
