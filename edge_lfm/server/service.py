"""What the interfaces share: a request's path from the body to the engine, and back as counts.

`Service` belongs to one app; every interface is a class that is given it.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from edge_lfm.api import CALL_TRIES, AsyncGeneration, Completion, Model, OnEnd, Retry, Tokenizer
from edge_lfm.api import Request as EngineRequest
from edge_lfm.errors import EdgeLfmError
from edge_lfm.server.choices import Choices
from edge_lfm.server.failures import RequestError
from edge_lfm.server.hosting import Hosting
from edge_lfm.server.metrics import Metrics
from edge_lfm.server.request_log import tally_of_request
from edge_lfm.server.schemas import S, decode
from edge_lfm.server.settings import Settings
from edge_lfm.server.unknown_tools import header_says_omit
from edge_lfm.server.work import LARGE_BYTES, Work

MAX_TOLD = 500
"""Tokens of an answer that are told one by one on the loop: it takes 20 ms with the 20 most likely of each."""


class Service:
    """The settings, the model's host and the counters."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.hosting = settings, Hosting(settings)
        self.metrics, self.work = Metrics(settings.name, self.hosting), Work()

    @contextlib.asynccontextmanager
    async def model_for(self, name: str | None, strict: bool = False) -> AsyncIterator[Model]:
        """The model for a request that names one, or none.

        Args:
            strict: take no other name than the model's, whatever the settings say.

        Raises:
            RequestError: it is another one, and the server is strict.
        """
        known = ("", *self.settings.names)
        if (strict or self.settings.strict_model) and (name or "").removesuffix(":latest") not in known:
            raise RequestError(
                f"the model {name!r:.100} is not here; this server has {self.settings.name!r}",
                "model",
                "model_not_found",
                404,
            )
        async with self.hosting.lend() as model:
            yield model

    def start(self, model: Model, request: EngineRequest) -> AsyncGeneration:
        """Queue a request.

        Raises:
            BusyError: too many are waiting.
        """
        return model.start_async(request, queue_limit=self.settings.queue, on_end=self._counted())

    def start_all(self, model: Model, requests: Sequence[EngineRequest]) -> Choices:
        """Queue the answers that one request asks for; as `start`."""
        return Choices(model, requests, self.start(model, requests[0]), self._counted())

    def _counted(self) -> OnEnd:
        """What counts the answers of the request that is being served."""
        tally = tally_of_request()

        def count(_text: str, ended: Completion | EdgeLfmError | None) -> None:
            self.metrics.note(ended)
            if isinstance(ended, Completion):
                tally.note(ended)
                self.hosting.note_sound()

        return count

    async def without_fault(
        self,
        model: Model,
        answer: Completion,
        messages: Sequence[Mapping[str, Any]],
        prepare: Callable[[Sequence[Mapping[str, Any]]], EngineRequest],
        nbytes: int,
    ) -> Completion:
        """An answer whose calls break no schema that the grammar could not bind in full: asked for again while they do.

        Args:
            answer: the first; messages: those that it answers.
            prepare: makes the request that asks for another.
            nbytes: of the body, as of `Work.run`.

        Raises:
            CheckError: the last one does too.
        """
        retry = Retry(messages, lambda _: answer.problem or None, CALL_TRIES)
        while not retry.passes(answer.text):
            request = await self.work.run(prepare, retry.messages, nbytes=nbytes)
            async with self.start(model, request) as generation:
                answer = await generation.result()
        return answer

    async def read(self, request: Request, kind: type[S]) -> tuple[S, int]:
        """The checked body of a request, and its bytes."""
        body, omit = await request.body(), header_says_omit(request.headers)
        if len(body) < LARGE_BYTES:
            return decode(body, kind, omit), len(body)
        return await self.work.run(decode, body, kind, omit, nbytes=len(body)), len(body)

    async def tell(self, answer: Callable[[], dict[str, Any]], tokens: int) -> Response:
        """The response that `answer` makes; beside the loop if it tells of many tokens one by one."""
        if tokens < MAX_TOLD:
            return json_response(answer())
        return await self.work.run(lambda: json_response(answer()))


def json_response(content: dict[str, Any]) -> Response:
    """A response that is written where this is called: megabytes of it would hold the loop."""
    return Response(msgspec.json.encode(content), media_type="application/json")


def tokenizer_of(model: Model) -> Tokenizer:
    """The tokenizer.

    Raises:
        RequestError: the model has none.
    """
    if model.tokenizer is None:
        raise RequestError("the model has no tokenizer", status=501)
    return model.tokenizer


def usage_of(completions: Sequence[Completion], choices: int) -> dict[str, Any]:
    """OpenAI's usage; of so many `choices` in a row the prompt is counted once."""
    prompt = sum(c.timings.prompt_tokens for c in completions[::choices])
    answer = sum(c.timings.completion_tokens for c in completions)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": answer,
        "total_tokens": prompt + answer,
        "prompt_tokens_details": {"cached_tokens": sum(c.timings.cached_tokens for c in completions[::choices])},
        "completion_tokens_details": {"reasoning_tokens": sum(c.reasoning_tokens for c in completions)},
    }


def timings_of(completion: Completion) -> dict[str, Any]:
    """llama.cpp's timings, the time in the queue, and the rows of a step."""
    t = completion.timings
    return {
        "cache_n": t.cached_tokens,
        "prompt_n": t.prompt_tokens - t.cached_tokens,
        "prompt_ms": 1e3 * t.prefill_s,
        "prompt_per_second": t.prefill_tps,
        "predicted_n": t.completion_tokens,
        "predicted_ms": 1e3 * t.decode_s,
        "predicted_per_second": t.decode_tps,
        "draft_n": t.drafted,
        "draft_n_accepted": t.accepted,
        "queued_ms": 1e3 * t.queued_s,
        "rows_per_step": t.rows_per_step,
        "union_share": t.experts.union_share,
    }
