"""POST /v1/responses: OpenAI's newer interface. Earlier responses are kept, the last few hundred, to be continued."""

from __future__ import annotations

import time
import uuid
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from edge_lfm.api import Completion, Model
from edge_lfm.api import Request as EngineRequest
from edge_lfm.server.chat import tool_call_json
from edge_lfm.server.failures import RequestError
from edge_lfm.server.messages import join_parts
from edge_lfm.server.namespaces import functions_of, namespaces_of
from edge_lfm.server.response_input import Item, add_item, as_item
from edge_lfm.server.response_items import Items, Json, Named, output_of
from edge_lfm.server.schemas import ResponsesRequest, as_fields
from edge_lfm.server.service import Service
from edge_lfm.server.sse import EventStream, unless_disconnected
from edge_lfm.server.tools import allowed, check_tools

MAX_KEPT, MAX_KEPT_BYTES = 512, 32 << 20


class Responses:
    """The routes, and the responses kept: each as the bytes of its JSON and of its messages', so that what is counted
    is what they take."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._kept: OrderedDict[str, tuple[bytes, bytes, list[str]]] = OrderedDict()  # and the ids of its items
        self._kept_bytes = 0
        self._places: dict[str, str] = {}  # of an item's id: the response that it belongs to

    async def create(self, request: Request) -> Response:
        """POST /v1/responses"""
        body, nbytes = await self._service.read(request, ResponsesRequest)
        body.settle(self._service.settings.defaults)
        await self._service.work.run(_check, body, nbytes=nbytes)
        if not body.stream:
            return JSONResponse(await unless_disconnected(request, self._whole(body, nbytes)))
        events = self._stream(body, nbytes)
        await anext(events)
        return EventStream(events, done=None, stall_s=self._service.settings.stall_s)

    async def one(self, request: Request) -> Response:
        """GET or DELETE /v1/responses/{number}"""
        number = request.path_params["number"]
        if number not in self._kept:
            raise RequestError(f"there is no response {number!r:.60}", status=404)
        if request.method == "DELETE":
            self._forget(number)
            return JSONResponse({"id": number, "object": "response", "deleted": True})
        return Response(self._kept[number][0], media_type="application/json")

    async def _whole(self, body: ResponsesRequest, nbytes: int) -> Json:
        async with self._service.model_for(body.model) as model:
            messages = await self._service.work.run(self._messages, body, nbytes=nbytes)
            prompt = await self._service.work.run(_prepare, model, body, messages, nbytes=nbytes)
            async with self._service.start(model, prompt) as generation:
                completion = await generation.result()
            again = partial(_prepare, model, body)
            completion = await self._service.without_fault(model, completion, messages, again, nbytes)
            response = (
                self._head(body) | _ending(completion) | {"output": output_of(completion, namespaces_of(body.tools))}
            )
            self._remember(body, response, [*messages, _answer_of(completion)])
            return response

    async def _stream(self, body: ResponsesRequest, nbytes: int) -> AsyncIterator[Named | None]:
        async with self._service.model_for(body.model) as model:
            messages = await self._service.work.run(self._messages, body, nbytes=nbytes)
            prompt = await self._service.work.run(_prepare, model, body, messages, nbytes=nbytes)
            async with self._service.start(model, prompt) as generation:
                yield None
                items = Items(self._head(body), namespaces_of(body.tools))
                yield items.event("response.created", response=items.head)
                yield items.event("response.in_progress", response=items.head)
                async for event in generation:
                    for named in items.tell(event):
                        yield named
                completion = await generation.result()
            for named in items.close_item():
                yield named
            response = items.head | _ending(completion) | {"output": items.output}
            self._remember(body, response, [*messages, _answer_of(completion)])
            kind = "response.completed" if response["status"] == "completed" else "response.incomplete"
            yield items.event(kind, response=response)

    def _messages(self, body: ResponsesRequest) -> list[Json]:
        """All messages so far, without the instructions, which hold for one response only."""
        before: list[Json] = []
        if body.previous_response_id is not None:
            kept = self._kept.get(body.previous_response_id)
            if kept is None:
                raise RequestError(
                    f"there is no response {body.previous_response_id!r:.60}",
                    "previous_response_id",
                    "previous_response_not_found",
                    404,
                )
            self._kept.move_to_end(body.previous_response_id)
            before = msgspec.json.decode(kept[1])
        return [*before, *_read_input(body.input, self._item)]

    def _item(self, number: str) -> Json | None:
        """An item of a response that is kept."""
        kept = self._kept.get(self._places.get(number, ""))
        items: list[Json] = msgspec.json.decode(kept[0])["output"] if kept is not None else []
        return next((item for item in items if item["id"] == number), None)

    def _head(self, body: ResponsesRequest) -> Json:
        return {
            "id": f"resp_{uuid.uuid4().hex}",
            "object": "response",
            "created_at": int(time.time()),
            "status": "in_progress",
            "model": self._service.settings.name,
            "instructions": body.instructions,
            "previous_response_id": body.previous_response_id,
            "max_output_tokens": body.max_output_tokens,
            "temperature": body.temperature,
            "top_p": body.top_p,
            "tools": [tool.echo() for tool in body.tools or []],
            "tool_choice": msgspec.to_builtins(body.tool_choice) or "auto",
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "truncation": body.truncation or "disabled",
            "store": body.store is not False,
            "metadata": body.metadata or {},
            "text": {"format": _shown_format(body)},
            "error": None,
            "incomplete_details": None,
            "output": [],
            "usage": None,
        }

    def _remember(self, body: ResponsesRequest, response: Json, messages: list[Json]) -> None:
        if body.store is False:
            return
        items = [item["id"] for item in response["output"]]
        self._places |= dict.fromkeys(items, response["id"])
        shown, turns = msgspec.json.encode(response), msgspec.json.encode(messages)
        self._kept[response["id"]] = shown, turns, items
        self._kept_bytes += len(shown) + len(turns)
        while len(self._kept) > MAX_KEPT or self._kept_bytes > MAX_KEPT_BYTES:
            self._forget(next(iter(self._kept)))

    def _forget(self, number: str) -> None:
        shown, turns, items = self._kept.pop(number)
        self._kept_bytes -= len(shown) + len(turns)
        for item in items:
            self._places.pop(item, None)


def _answer_of(completion: Completion) -> Json:
    """An answer as a message of the conversation."""
    answer: Json = {"role": "assistant", "content": completion.text}
    if completion.reasoning:
        answer["thinking"] = completion.reasoning
    if completion.tool_calls:
        answer["tool_calls"] = [tool_call_json(call) for call in completion.tool_calls]
    return answer


def _check(body: ResponsesRequest) -> None:
    check_tools(functions_of(body.tools))
    if body.text is not None and body.text.format is not None and body.text.format.soft is not None:
        raise RequestError("text.format.soft is for /v1/chat/completions", "text.format.soft")


def _shown_format(body: ResponsesRequest) -> Json:
    """The format as it was asked for."""
    if body.text is None or body.text.format is None:
        return {"type": "text"}
    shown: Json = msgspec.to_builtins(body.text.format)
    return {name: value for name, value in shown.items() if value is not None}


def _prepare(model: Model, body: ResponsesRequest, messages: Sequence[Mapping[str, Any]]) -> EngineRequest:
    system = [{"role": "system", "content": body.instructions}] if body.instructions else []
    tools, choice = allowed(functions_of(body.tools), body.tool_choice)
    with as_fields(body):
        return model.prepare(
            [*system, *messages],
            tools=[{"type": "function", "function": tool.plain()} for tool in tools],
            overflow="drop_oldest" if body.truncation == "auto" else "refuse",
            tool_choice=choice,
            parallel_tool_calls=body.parallel_tool_calls is not False,
            reasoning_effort=body.reasoning.effort if body.reasoning is not None else None,
            chat_template_kwargs=body.chat_template_kwargs,
            max_tokens=body.max_output_tokens,
            untrusted=True,
            **body.form(),
            **body.options(),
        )


def _read_input(value: str | Sequence[Item | Json], find: Callable[[str], Json | None] = lambda _: None) -> list[Json]:
    """Messages from a text, or from input items: messages, calls and their results, thoughts before them.

    `find` gives an item that is kept, by its id.
    """
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    messages: list[Json] = []
    thoughts: list[str] = []  # of the assistant's turn that comes next
    for n, item in enumerate(value):
        place, item = f"input[{n}]", as_item(item)
        if item.type == "item_reference":
            kept = find(item.id or "")
            if kept is None:
                raise RequestError(f"{place} refers to {item.id!r:.60}, which is not kept", f"{place}.id")
            item = as_item(kept)
        if item.type == "reasoning":
            thoughts.append(join_parts(item.content or item.summary))
            continue
        add_item(messages, item, place)
        if thoughts and messages[-1]["role"] == "assistant":
            messages[-1]["thinking"] = "\n".join(thoughts)
        thoughts = []
    return messages


def _ending(completion: Completion) -> Json:
    t, cut = completion.timings, completion.finish_reason == "length"
    return {
        "status": "incomplete" if cut else "completed",
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        "usage": {
            "input_tokens": t.prompt_tokens,
            "input_tokens_details": {"cached_tokens": t.cached_tokens, "cache_write_tokens": 0},
            "output_tokens": t.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": completion.reasoning_tokens},
            "total_tokens": t.prompt_tokens + t.completion_tokens,
        },
    }
