"""POST /v1/responses: OpenAI's newer interface. Earlier responses are kept, the last few hundred, to be continued."""

from __future__ import annotations

import json
import time
import uuid
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from edge_lfm.api import Completion, Model
from edge_lfm.api import Request as EngineRequest
from edge_lfm.server.chat import tool_call_json
from edge_lfm.server.failures import RequestError
from edge_lfm.server.response_items import Json, Named, Told, output_of
from edge_lfm.server.schemas import ResponsesRequest, format_options
from edge_lfm.server.service import Service, read
from edge_lfm.server.sse import EventStream, unless_disconnected

MOST_KEPT, MOST_KEPT_CHARACTERS = 512, 50_000_000


class Responses:
    """The routes, and the responses kept."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._kept: OrderedDict[str, tuple[Json, list[Json], int]] = OrderedDict()

    async def create(self, request: Request) -> Response:
        """POST /v1/responses"""
        wanted = await read(request, ResponsesRequest)
        _check(wanted)
        if not wanted.stream:
            return JSONResponse(await unless_disconnected(request, self._whole(wanted)))
        events = self._stream(wanted)
        await anext(events)
        return EventStream(events, done=None, stall_s=self._service.settings.stall_s)

    async def one(self, request: Request) -> Response:
        """GET or DELETE /v1/responses/{number}"""
        number = request.path_params["number"]
        if number not in self._kept:
            raise RequestError(f"there is no response {number!r:.60}", status=404)
        if request.method == "DELETE":
            del self._kept[number]
            return JSONResponse({"id": number, "object": "response", "deleted": True})
        return JSONResponse(self._kept[number][0])

    async def _whole(self, wanted: ResponsesRequest) -> Json:
        async with self._service.model_for(wanted.model) as model:
            messages = self._messages(wanted)
            prompt = await run_in_threadpool(_prepare, model, wanted, messages)
            async with self._service.start(model, prompt) as generation:
                completion = await generation.result()
            response = self._head(wanted) | _ending(completion) | {"output": output_of(completion)}
            self._keep(wanted, response, messages, completion)
            return response

    async def _stream(self, wanted: ResponsesRequest) -> AsyncIterator[Named | None]:
        async with self._service.model_for(wanted.model) as model:
            messages = self._messages(wanted)
            prompt = await run_in_threadpool(_prepare, model, wanted, messages)
            async with self._service.start(model, prompt) as generation:
                yield None
                told = Told(self._head(wanted))
                yield told.event("response.created", response=told.head)
                yield told.event("response.in_progress", response=told.head)
                async for event in generation:
                    for named in told.tell(event):
                        yield named
                completion = await generation.result()
            for named in told.close_item():
                yield named
            response = told.head | _ending(completion) | {"output": told.output}
            self._keep(wanted, response, messages, completion)
            kind = "response.completed" if response["status"] == "completed" else "response.incomplete"
            yield told.event(kind, response=response)

    def _messages(self, wanted: ResponsesRequest) -> list[Json]:
        """All messages so far, without the instructions, which hold for one response only."""
        before: list[Json] = []
        if wanted.previous_response_id is not None:
            kept = self._kept.get(wanted.previous_response_id)
            if kept is None:
                raise RequestError(
                    f"there is no response {wanted.previous_response_id!r:.60}",
                    "previous_response_id",
                    "previous_response_not_found",
                    404,
                )
            self._kept.move_to_end(wanted.previous_response_id)
            before = kept[1]
        return [*before, *_read_input(wanted.input)]

    def _head(self, wanted: ResponsesRequest) -> Json:
        return {
            "id": f"resp_{uuid.uuid4().hex}",
            "object": "response",
            "created_at": int(time.time()),
            "status": "in_progress",
            "model": self._service.settings.name,
            "instructions": wanted.instructions,
            "previous_response_id": wanted.previous_response_id,
            "max_output_tokens": wanted.max_output_tokens,
            "temperature": wanted.temperature,
            "top_p": wanted.top_p,
            "tools": wanted.tools or [],
            "tool_choice": wanted.tool_choice or "auto",
            "parallel_tool_calls": wanted.parallel_tool_calls is not False,
            "truncation": wanted.truncation or "disabled",
            "store": wanted.store is not False,
            "metadata": wanted.metadata or {},
            "text": wanted.text or {"format": {"type": "text"}},
            "error": None,
            "incomplete_details": None,
            "output": [],
            "usage": None,
        }

    def _keep(self, wanted: ResponsesRequest, response: Json, messages: list[Json], completion: Completion) -> None:
        if wanted.store is False:
            return
        answer: Json = {"role": "assistant", "content": completion.text}
        if completion.tool_calls:
            answer["tool_calls"] = [tool_call_json(call) for call in completion.tool_calls]
        messages = [*messages, answer]
        self._kept[response["id"]] = response, messages, sum(len(str(m["content"])) for m in messages)
        while len(self._kept) > MOST_KEPT or sum(size for _, _, size in self._kept.values()) > MOST_KEPT_CHARACTERS:
            self._kept.popitem(last=False)


def _check(wanted: ResponsesRequest) -> None:
    if _format_of(wanted) and wanted.tools and wanted.tool_choice != "none":
        raise RequestError("text.format and tools exclude each other", "text.format")
    if wanted.background:
        raise RequestError("background is not supported", "background")
    if wanted.conversation is not None:
        raise RequestError("conversation is not supported; use previous_response_id", "conversation")
    if any(tool.get("type") != "function" for tool in wanted.tools or []):
        raise RequestError("tools can be functions only", "tools")
    if wanted.truncation not in (None, "auto", "disabled"):
        raise RequestError("truncation can be 'auto' or 'disabled'", "truncation")


def _format_of(wanted: ResponsesRequest) -> Json:
    return format_options((wanted.text or {}).get("format"), "text.format")


def _prepare(model: Model, wanted: ResponsesRequest, messages: list[Json]) -> EngineRequest:
    system = [{"role": "system", "content": wanted.instructions}] if wanted.instructions else []
    tools = [] if wanted.tool_choice == "none" else wanted.tools or []
    return model.prepare(
        [*system, *messages],
        tools=[{"type": "function", "function": {k: v for k, v in tool.items() if k != "type"}} for tool in tools],
        overflow="drop_oldest" if wanted.truncation == "auto" else "refuse",
        tool_choice=wanted.tool_choice or "auto",
        parallel_tool_calls=wanted.parallel_tool_calls is not False,
        max_tokens=wanted.max_output_tokens,
        strangers=True,
        **_format_of(wanted),
        **wanted.options(),
    )


def _read_input(value: str | list[Json]) -> list[Json]:
    """Messages from a text, or from input items: messages, calls that were made, and their results."""
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    messages: list[Json] = []
    for n, item in enumerate(value):
        kind = item.get("type", "message")
        if kind == "message":
            messages.append(_read_message(item, f"input[{n}]"))
        elif kind == "function_call":
            call = {"function": {"name": item.get("name"), "arguments": item.get("arguments", "{}")}}
            if messages and messages[-1].get("tool_calls"):  # calls of one turn belong together
                messages[-1]["tool_calls"].append(call)
            else:
                messages.append({"role": "assistant", "content": "", "tool_calls": [call]})
        elif kind == "function_call_output":
            output = item.get("output", "")
            messages.append({"role": "tool", "content": output if isinstance(output, str) else json.dumps(output)})
        elif kind != "reasoning":
            raise RequestError(f"input[{n}] has the unknown type {kind!r:.40}", f"input[{n}].type")
    return messages


def _read_message(item: Mapping[str, Any], where: str) -> Json:
    role, content = item.get("role"), item.get("content")
    if role not in ("system", "developer", "user", "assistant"):
        raise RequestError(f"{where} has the unknown role {role!r:.40}", f"{where}.role")
    if isinstance(content, list):
        texts = [
            p.get("text") if isinstance(p, dict) and str(p.get("type")).endswith("text") else None for p in content
        ]
        if not all(isinstance(text, str) for text in texts):
            raise RequestError("the model reads text only", f"{where}.content")
        content = "\n".join(texts)  # type: ignore[arg-type]
    if not isinstance(content, str):
        raise RequestError(f"{where} has no content", f"{where}.content")
    return {"role": "system" if role == "developer" else role, "content": content}


def _ending(completion: Completion) -> Json:
    t, cut = completion.timings, completion.finish_reason == "length"
    return {
        "status": "incomplete" if cut else "completed",
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        "usage": {
            "input_tokens": t.prompt_tokens,
            "input_tokens_details": {"cached_tokens": t.cached_tokens},
            "output_tokens": t.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": completion.reasoning_tokens},
            "total_tokens": t.prompt_tokens + t.completion_tokens,
        },
    }
