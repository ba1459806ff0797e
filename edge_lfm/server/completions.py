"""POST /v1/completions: raw text or token ids, several prompts and choices, echo, log probabilities,
fill-in-the-middle."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from edge_lfm.api import Completion, Done, Model, Progress, Text, Tokenizer, TokenLogprobs
from edge_lfm.api import Request as EngineRequest
from edge_lfm.errors import about
from edge_lfm.server.chat import progress_json
from edge_lfm.server.failures import RequestError
from edge_lfm.server.schemas import CompletionRequest, as_fields, finite
from edge_lfm.server.service import Service, timings_of, tokenizer_of, usage_of
from edge_lfm.server.sse import EventStream, unless_disconnected

Json = dict[str, Any]


class Completions:
    """The route."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def __call__(self, request: Request) -> Response:
        body, nbytes = await self._service.read(request, CompletionRequest)
        body.settle(self._service.settings.defaults)
        body.check()
        if not body.stream:
            return await unless_disconnected(request, self._whole(body, nbytes)) or Response()
        events = self._stream(body, nbytes)
        await anext(events)
        return EventStream(events, stall_s=self._service.settings.stall_s)

    async def _whole(self, body: CompletionRequest, nbytes: int) -> Response:
        async with self._service.model_for(body.model) as model:
            requests = await self._service.work.run(prepare, model, body, nbytes=nbytes)
            async with self._service.start_all(model, requests) as answers:
                completions = await answers.completions()
            tokenizer = tokenizer_of(model)

            def answer() -> Json:
                pairs = zip(requests, completions, strict=True)
                choices = [_choice(n, *pair, body, tokenizer) for n, pair in enumerate(pairs)]
                usage = usage_of(completions, body.n or 1)
                return self._head() | {"choices": choices, "usage": usage, "timings": timings_of(completions[0])}

            tokens = sum(len(c.logprobs) for c in completions)
            return await self._service.tell(answer, tokens + sum(len(r.token_ids) for r in requests if body.echo))

    async def _stream(self, body: CompletionRequest, nbytes: int) -> AsyncIterator[Json | None]:
        async with self._service.model_for(body.model) as model:
            requests = await self._service.work.run(prepare, model, body, nbytes=nbytes)
            head, tokenizer, completions = self._head(), tokenizer_of(model), dict[int, Completion]()
            places = [_TokenPlaces(tokenizer) for _ in requests]
            async with self._service.start_all(model, requests) as answers:
                yield None
                for n, request in enumerate(requests):
                    if body.echo:
                        text = await self._service.work.run(tokenizer.decode, request.token_ids)
                        yield head | _piece(n, text, None)
                async for n, event in answers.events():
                    match event:
                        case Text(text, logprobs) if body.limit != 0:
                            shown = places[n].json([(t.token_id, t) for t in logprobs]) if logprobs else None
                            yield head | _piece(n, text, shown)
                        case Progress() if body.return_progress:
                            yield head | {"choices": [], "prompt_progress": progress_json(event)}
                        case Done(completion):
                            completions[n] = completion
                            yield head | _piece(n, "", None, completion.finish_reason)
            if body.stream_options is not None and body.stream_options.include_usage:
                usage = usage_of([completions[n] for n in range(len(requests))], body.n or 1)
                yield head | {"choices": [], "usage": usage}

    def _head(self) -> Json:
        number = f"cmpl-{uuid.uuid4().hex}"
        return {
            "id": number,
            "object": "text_completion",
            "created": int(time.time()),
            "model": self._service.settings.name,
        }


def prepare(model: Model, body: CompletionRequest) -> list[EngineRequest]:
    """The engine's requests: for each prompt all of its choices."""
    requests = []
    for prompt in body.prompts():
        for n in range(body.n or 1):
            with as_fields(body):
                request = model.prepare(
                    encode(model, prompt, body.suffix),
                    max_tokens=None if body.limit is None else max(1, body.limit),
                    stop=body.stop,
                    logprobs=body.logprobs,
                    prompt_logprobs=bool(body.echo and body.logprobs is not None),
                    raw=True,
                    untrusted=True,
                    **body.form(),
                    **body.options(n),
                )
            requests.append(request)
    return requests


def encode(model: Model, prompt: str | Sequence[int], suffix: str | None) -> list[int]:
    """Token ids of a prompt: ids as they are, text behind the start token, or both sides of a gap to be filled."""
    if not isinstance(prompt, str):
        if suffix is not None:
            raise RequestError("suffix needs a prompt of text", "suffix")
        if any(not 0 <= i < model.shape.vocab for i in prompt):
            raise RequestError(f"prompt has token ids beyond 0..{model.shape.vocab - 1}", "prompt")
        return list(prompt)
    if suffix is None:
        return model.encode_prompt(prompt, raw=True)
    with about("suffix"):
        return tokenizer_of(model).encode_gap(prompt, suffix)


def _choice(
    n: int, request: EngineRequest, completion: Completion, body: CompletionRequest, tokenizer: Tokenizer
) -> Json:
    # Harnesses that echo drop the last token as the generated one: it is told even when it ended the answer.
    generated = completion.logprobs if body.echo else completion.text_logprobs
    text, logprobs = ("", ()) if body.limit == 0 else (completion.text, generated)
    generated_tokens: list[tuple[int, TokenLogprobs | None]] = [(t.token_id, t) for t in logprobs]
    before: list[tuple[int, TokenLogprobs | None]] = []
    if body.echo:
        text = tokenizer.decode(request.token_ids) + text
        first, *rest = request.token_ids
        before = [(first, None), *zip(rest, completion.prompt_logprobs, strict=False)]
    shown = _TokenPlaces(tokenizer).json(generated_tokens, before) if body.logprobs is not None else None
    return {"index": n, "text": text, "logprobs": shown, "finish_reason": completion.finish_reason}


class _TokenPlaces:
    """Tokens of a choice, told as the completions interface tells log probabilities, with their places in the text."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer, self._decoder, self._offset = tokenizer, tokenizer.decoder(), 0

    def json(
        self,
        tokens: Sequence[tuple[int, TokenLogprobs | None]],
        before: Sequence[tuple[int, TokenLogprobs | None]] = (),
    ) -> Json:
        """The tokens of the next part of the answer; those of the prompt stand `before` it."""
        name = self._name
        offsets = [self._advance(token) for token, _ in before]
        if before:
            self._offset += len(self._decoder.finish())  # half a character at the prompt's end is one of its own
        offsets += [self._advance(token) for token, _ in tokens]
        tokens = [*before, *tokens]
        return {
            "tokens": [name(token) for token, _ in tokens],
            "token_logprobs": [t and finite(t.logprob) for _, t in tokens],
            "top_logprobs": [
                t and {name(i): finite(value) for i, value in (*t.top, (t.token_id, t.logprob))} for _, t in tokens
            ],
            "text_offset": offsets,
        }

    def _name(self, token: int) -> str:
        """A token as text; half a character as OpenAI writes it, `bytes:\\xe2\\x80`, so that no two look alike."""
        raw = self._tokenizer.bytes_of(token)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)

    def _advance(self, token: int) -> int:
        """Where a token's text begins, in characters; a part of a character begins where that does."""
        before, self._offset = self._offset, self._offset + len(self._decoder.feed(token))
        return before


def _piece(n: int, text: str, logprobs: Json | None, finish_reason: str | None = None) -> Json:
    return {"choices": [{"index": n, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}]}
