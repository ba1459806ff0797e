"""One line of the log for each request: route, status, tokens of the prompt and the answers, seconds, client."""

from __future__ import annotations

import logging
import time
from contextvars import ContextVar
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edge_lfm.api import Completion

log = logging.getLogger("edge_lfm.server.requests")
_WATCHED = ("/health", "/metrics")
"""What is asked every few seconds by programs is told at the level debug."""


@dataclass
class Tally:
    """Tokens of one request so far."""

    prompt: int = 0
    answers: int = 0

    def note(self, completion: Completion) -> None:
        """Count an answer that has ended."""
        self.prompt += completion.timings.prompt_tokens
        self.answers += completion.timings.completion_tokens


_TALLY: ContextVar[Tally | None] = ContextVar("tally", default=None)


def tally_of_request() -> Tally:
    """The tally of the request that is being served; one of its own where none is."""
    return _TALLY.get() or Tally()


class RequestLog:
    """Wraps an app."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        tally, started, status = Tally(), time.perf_counter(), 0

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        before = _TALLY.set(tally)
        try:
            await self._app(scope, receive, noting)
        finally:
            _TALLY.reset(before)
            level = logging.DEBUG if scope["path"] in _WATCHED else logging.INFO
            client = scope["client"][0] if scope.get("client") else "-"
            seconds = time.perf_counter() - started
            what = f"{scope['method']} {scope['path'][:100]} {status or 'gone'}"
            log.log(level, "%s, %d + %d tokens, %.2f s, %s", what, tally.prompt, tally.answers, seconds, client)
