"""Ollama's interface under /api: for programs that have its address built in. One model, answers as lines of JSON."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from edge_lfm.api import Completion, Event, Model, Reasoning, Text, ToolCall
from edge_lfm.api import Request as EngineRequest
from edge_lfm.server import chat, completions
from edge_lfm.server.ollama_input import OllamaChat, OllamaGenerate, OllamaShow
from edge_lfm.server.schemas import ChatRequest, CompletionRequest
from edge_lfm.server.service import Service
from edge_lfm.server.settings import Defaults
from edge_lfm.server.sse import JsonLines, unless_disconnected
from edge_lfm.version import VERSION

Json = dict[str, Any]
Told = Callable[[Sequence[Event]], Json]
_FOREVER = "9999-12-31T00:00:00Z"


class Ollama:
    """The routes."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def version(self, _request: Request) -> Response:
        """GET /api/version: ours, not Ollama's"""
        return JSONResponse({"version": VERSION})

    async def tags(self, _request: Request) -> Response:
        """GET /api/tags"""
        async with self._service.model_for(None) as model:
            return JSONResponse({"models": [self._card(model, name) for name in self._service.settings.names]})

    async def running(self, _request: Request) -> Response:
        """GET /api/ps"""
        model = self._service.hosting.model
        if model is None:
            return JSONResponse({"models": []})
        card = self._card(model, self._service.settings.name)
        card |= {"expires_at": _FOREVER, "size_vram": 0, "context_length": model.context}
        return JSONResponse({"models": [card]})

    async def show(self, request: Request) -> Response:
        """POST /api/show"""
        body, _ = await self._service.read(request, OllamaShow)
        async with self._service.model_for(body.model or body.name) as model:
            kind, template = _details(model)["family"], model.template
            able = ["completion", *(["tools"] if template is not None and "tools" in template.source else [])]
            info = {"general.architecture": kind, f"{kind}.context_length": model.context}
            shown: Json = {"template": template.source if template is not None else "", "parameters": ""}
            shown |= {"modelfile": "", "details": _details(model), "model_info": info, "capabilities": able}
            return JSONResponse(shown | {"modified_at": _time(model.folder.stat().st_mtime)})

    async def chat(self, request: Request) -> Response:
        """POST /api/chat"""
        return await self._answer(request, OllamaChat)

    async def generate(self, request: Request) -> Response:
        """POST /api/generate"""
        return await self._answer(request, OllamaGenerate)

    async def _answer(self, request: Request, kind: type[OllamaChat | OllamaGenerate]) -> Response:
        body, nbytes = await self._service.read(request, kind)
        asked = await self._service.work.run(_checked, body, self._service.settings.defaults, nbytes=nbytes)
        tell = _told_in_chat if isinstance(body, OllamaChat) else _told_as_text
        if asked is None:
            async with self._service.model_for(body.model):
                told = self._head(body.model) | tell([]) | {"done": True, "done_reason": "load"}
                return JSONResponse(told)
        if body.stream is False:
            return JSONResponse(await unless_disconnected(request, self._whole(asked, tell, nbytes)))
        events = self._stream(asked, tell, nbytes)
        await anext(events)  # whatever can be refused is refused before the stream begins
        return JsonLines(events, done=None, stall_s=self._service.settings.stall_s)

    async def _whole(self, asked: ChatRequest | CompletionRequest, tell: Told, nbytes: int) -> Json:
        started = time.perf_counter()
        async with self._service.model_for(asked.model) as model:
            prompt = await self._service.work.run(_prepare, model, asked, nbytes=nbytes)
            async with self._service.start(model, prompt) as generation:
                answer = await generation.result()
            if isinstance(asked, ChatRequest):
                again, messages = (lambda turns: chat.prepare(model, asked, turns)), asked.plain_messages()
                answer = await self._service.without_fault(model, answer, messages, again, nbytes)
            parts: list[Event] = [Reasoning(answer.reasoning), Text(answer.text), *answer.tool_calls]
            return self._head(asked.model) | tell(parts) | _ending(answer, started)

    async def _stream(
        self, asked: ChatRequest | CompletionRequest, tell: Told, nbytes: int
    ) -> AsyncIterator[Json | None]:
        started = time.perf_counter()
        async with self._service.model_for(asked.model) as model:
            prompt = await self._service.work.run(_prepare, model, asked, nbytes=nbytes)
            async with self._service.start(model, prompt) as generation:
                yield None
                async for event in generation:
                    if isinstance(event, Text | Reasoning | ToolCall):
                        yield self._head(asked.model) | tell([event]) | {"done": False}
                answer = await generation.result()
            yield self._head(asked.model) | tell([]) | _ending(answer, started)

    def _head(self, name: str | None) -> Json:
        return {"model": name or self._service.settings.name, "created_at": _time(time.time())}

    def _card(self, model: Model, name: str) -> Json:
        files = [path.stat() for path in model.folder.iterdir() if path.is_file()]
        return {
            "name": name,
            "model": name,
            "modified_at": _time(max(file.st_mtime for file in files)),
            "size": sum(file.st_size for file in files),
            "digest": model.files.fingerprint,
            "details": _details(model),
        }


def _checked(body: OllamaChat | OllamaGenerate, defaults: Defaults) -> ChatRequest | CompletionRequest | None:
    asked = body.chat()
    if asked is not None:
        asked.settle(defaults)
        asked.check()
    return asked


def _prepare(model: Model, asked: ChatRequest | CompletionRequest) -> EngineRequest:
    return chat.prepare(model, asked) if isinstance(asked, ChatRequest) else completions.prepare(model, asked)[0]


def _told_in_chat(events: Sequence[Event]) -> Json:
    """Parts of an answer as a message."""
    message: Json = {"role": "assistant", "content": "".join(e.text for e in events if isinstance(e, Text))}
    if thinking := "".join(e.text for e in events if isinstance(e, Reasoning)):
        message["thinking"] = thinking
    if calls := [e for e in events if isinstance(e, ToolCall)]:
        message["tool_calls"] = [{"function": {"name": call.name, "arguments": call.arguments}} for call in calls]
    return {"message": message}


def _told_as_text(events: Sequence[Event]) -> Json:
    """Parts of an answer as texts."""
    told = _told_in_chat(events)["message"]
    thinking = {"thinking": told["thinking"]} if "thinking" in told else {}
    return {"response": told["content"], **thinking}


def _ending(answer: Completion, started: float) -> Json:
    """How an answer ended, and what it took, in nanoseconds."""
    t = answer.timings
    return {
        "done": True,
        "done_reason": "length" if answer.finish_reason == "length" else "stop",
        "total_duration": int(1e9 * (time.perf_counter() - started)),
        "load_duration": 0,
        "prompt_eval_count": t.prompt_tokens,
        "prompt_eval_duration": int(1e9 * t.prefill_s),
        "eval_count": t.completion_tokens,
        "eval_duration": int(1e9 * t.decode_s),
    }


def _details(model: Model) -> Json:
    """What kind of model it is."""
    config = model.files.raw_config
    kind, recipe = str(config.get("model_type", "")), (config.get("quantization_config") or {}).get("recipe", "")
    shown = {"format": "edge-lfm", "family": kind, "families": [kind], "quantization_level": str(recipe)}
    return {"parent_model": "", "parameter_size": "", **shown}


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
