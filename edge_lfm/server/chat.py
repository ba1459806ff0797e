"""POST /v1/chat/completions: whole or streamed, any number of choices, log probabilities, tools, reasoning."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from edge_lfm.api import (
    Completion,
    Done,
    Event,
    Model,
    Progress,
    Reasoning,
    Retry,
    Text,
    Tokenizer,
    TokenLogprobs,
    ToolCall,
    run_apart,
)
from edge_lfm.api import Request as EngineRequest
from edge_lfm.server.failures import RequestError
from edge_lfm.server.schemas import ChatRequest, as_fields, finite
from edge_lfm.server.service import Service, timings_of, usage_of
from edge_lfm.server.sse import EventStream, unless_disconnected

Json = dict[str, Any]


class Chat:
    """The route."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def __call__(self, request: Request) -> Response:
        chat, nbytes = await self._service.read(request, ChatRequest)
        chat.settle(self._service.settings.defaults)
        await self._service.work.run(chat.check, nbytes=nbytes)
        if not chat.stream:
            return await unless_disconnected(request, self._whole(chat, nbytes)) or Response()
        events = self._stream(chat, nbytes)
        await anext(events)  # whatever can be refused is refused before the stream begins
        return EventStream(events, stall_s=self._service.settings.stall_s)

    async def _whole(self, chat: ChatRequest, nbytes: int) -> Response:
        async with self._service.model_for(chat.model) as model:
            prompt = await self._service.work.run(prepare, model, chat, nbytes=nbytes)
            head, count = self._head("chat.completion"), chat.n or 1
            if chat.soft_tries is not None:
                completions = [await self._checked(model, chat, nbytes) for _ in range(count)]
            else:
                async with self._service.start_all(model, choices_of(prompt, chat)) as answers:
                    completions = await answers.completions()
            for n in range(count):
                if completions[n].problem:
                    again, messages = partial(prepare, model, chat), chat.plain_messages()
                    completions[n] = await self._service.without_fault(model, completions[n], messages, again, nbytes)
            labels = await self._labels(model, chat, prompt)

            def answer() -> Json:
                choices = [_choice(completion, n, model) for n, completion in enumerate(completions)]
                choices[0] |= labels
                return head | {
                    "choices": choices,
                    "usage": usage_of(completions, chat.n or 1),
                    "timings": timings_of(completions[0]),
                    "dropped_messages": completions[0].dropped_messages,
                    "trimmed_documents": completions[0].trimmed_documents,
                }

            return await self._service.tell(answer, sum(len(c.logprobs) for c in completions))

    async def _checked(self, model: Model, chat: ChatRequest, nbytes: int) -> Completion:
        """The soft way to a JSON schema: an answer that passes it, asked for again with what was wrong."""
        work, schema = self._service.work, chat.form().get("schema", True)

        def check(text: str) -> str | None:
            wrong, refused = run_apart("json_fault", schema if schema is not True else {"type": "object"}, text)
            if refused is not None:
                raise RequestError(refused, "response_format")
            return None if wrong is None else str(wrong)

        await work.run(check, "null")  # a schema that is none is told before anything is answered
        retry = Retry(chat.plain_messages(), check, chat.soft_tries or 1)
        free = chat.unbound()
        while True:
            prompt = await work.run(prepare, model, free, retry.messages, nbytes=nbytes)
            async with self._service.start(model, prompt) as generation:
                answer = await generation.result()
            if await work.run(retry.passes, answer.text):
                return answer

    async def _labels(self, model: Model, chat: ChatRequest, prompt: EngineRequest) -> Json:
        """For a choice with log probabilities: how likely each label is as the answer to this prompt."""
        if not chat.labels:
            return {}
        work = self._service.work
        return {"label_probabilities": await work.run(model.classify, list(prompt.token_ids), chat.labels)}

    async def _stream(self, chat: ChatRequest, nbytes: int) -> AsyncIterator[Json | None]:
        async with self._service.model_for(chat.model) as model:
            prompt = await self._service.work.run(prepare, model, chat, nbytes=nbytes)
            head, requests = self._head("chat.completion.chunk"), choices_of(prompt, chat)
            calls, completions = [0] * len(requests), dict[int, Completion]()
            async with self._service.start_all(model, requests) as answers:
                yield None
                for n in range(len(requests)):
                    yield head | _delta(n, {"role": "assistant", "content": ""})
                async for n, event in answers.events():
                    if isinstance(event, Done):
                        completions[n] = event.completion
                        end = _ending(event.completion, n) | {"timings": timings_of(event.completion)}
                        yield head | end | (await self._labels(model, chat, prompt) if n == 0 else {})
                        continue
                    chunk = _chunk(event, n, calls[n], chat, model.tokenizer)
                    calls[n] += isinstance(event, ToolCall)
                    if chunk is not None:
                        yield head | chunk
            if chat.stream_options is not None and chat.stream_options.include_usage:
                usage = usage_of([completions[n] for n in range(len(requests))], len(requests))
                yield head | {"choices": [], "usage": usage}

    def _head(self, kind: str) -> Json:
        number = f"chatcmpl-{uuid.uuid4().hex}"
        return {"id": number, "object": kind, "created": int(time.time()), "model": self._service.settings.name}


def prepare(model: Model, chat: ChatRequest, messages: Sequence[Mapping[str, Any]] | None = None) -> EngineRequest:
    """The engine's request for a chat, or for other messages on its terms."""
    with as_fields(chat):
        return model.prepare(
            messages if messages is not None else chat.plain_messages(),
            tools=chat.shown_tools,
            tool_choice=chat.choice,
            parallel_tool_calls=chat.parallel_tool_calls is not False,
            reasoning_budget=chat.reasoning_budget,
            reasoning_effort=chat.reasoning_effort,
            chat_template_kwargs=chat.chat_template_kwargs,
            overflow="drop_oldest" if chat.truncation == "auto" else "refuse",
            max_tokens=chat.limit,
            stop=chat.stop,
            logprobs=(chat.top_logprobs or 0) if chat.logprobs else None,
            documents=msgspec.to_builtins(chat.documents),
            cite=bool(chat.citations),
            trim_documents=bool(chat.trim_documents),
            untrusted=True,
            **chat.form(),
            **chat.options(),
        )


def choices_of(prompt: EngineRequest, chat: ChatRequest) -> list[EngineRequest]:
    """The requests of all choices: the same, each with another seed."""
    return [prompt, *(prompt.drawn_with(chat.options(n).get("seed")) for n in range(1, chat.n or 1))]


def tool_call_json(call: ToolCall) -> Json:
    """A call as OpenAI's clients know it."""
    function = {"name": call.name, "arguments": json.dumps(call.arguments, ensure_ascii=False)}
    return {"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": function}


def logprobs_json(logprobs: Iterable[TokenLogprobs], tokenizer: Tokenizer) -> list[Json]:
    """Log probabilities as OpenAI's chat interface tells them."""

    def entry(token_id: int, logprob: float) -> Json:
        raw = tokenizer.bytes_of(token_id)
        return {"token": raw.decode("utf-8", "replace"), "logprob": finite(logprob), "bytes": list(raw)}

    return [entry(t.token_id, t.logprob) | {"top_logprobs": [entry(*pair) for pair in t.top]} for t in logprobs]


def _choice(completion: Completion, n: int, model: Model) -> Json:
    message: Json = {"role": "assistant", "content": completion.text or (None if completion.tool_calls else "")}
    if completion.reasoning:
        message["reasoning_content"] = completion.reasoning
    if completion.tool_calls:
        message["tool_calls"] = [tool_call_json(call) for call in completion.tool_calls]
    if completion.citations:
        message["citations"] = [asdict(citation) for citation in completion.citations]
    logprobs, asked = completion.text_logprobs, bool(completion.logprobs)
    return {
        "index": n,
        "message": message,
        "logprobs": {"content": logprobs_json(logprobs, model.tokenizer)} if asked and model.tokenizer else None,
        "finish_reason": completion.finish_reason,
    }


def _ending(completion: Completion, n: int) -> Json:
    """The last chunk of the n-th choice."""
    citations = [asdict(citation) for citation in completion.citations]
    return _delta(n, {}, finish_reason=completion.finish_reason) | ({"citations": citations} if citations else {})


def _chunk(event: Event, n: int, calls: int, chat: ChatRequest, tokenizer: Tokenizer | None) -> Json | None:
    """What a stream tells of one event; nothing of some."""
    match event:
        case Text(text, logprobs):
            entries: Sequence[Json] | None = logprobs_json(logprobs, tokenizer) if chat.logprobs and tokenizer else None
            return _delta(n, {"content": text}, entries)
        case Reasoning(text):
            return _delta(n, {"reasoning_content": text})
        case ToolCall():
            return _delta(n, {"tool_calls": [{"index": calls} | tool_call_json(event)]})
        case Progress() if chat.return_progress:
            return {"choices": [], "prompt_progress": progress_json(event)}
    return None


def progress_json(progress: Progress) -> Json:
    """llama.cpp's prompt_progress."""
    return {"total": progress.total, "cache": progress.cached, "processed": progress.done}


def _delta(n: int, delta: Json, logprobs: Sequence[Json] | None = None, finish_reason: str | None = None) -> Json:
    tokens = {"content": logprobs} if logprobs is not None else None
    return {"choices": [{"index": n, "delta": delta, "logprobs": tokens, "finish_reason": finish_reason}]}
