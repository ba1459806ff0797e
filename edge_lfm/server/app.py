"""The routes of the server, with the guard around them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, WebSocketRoute

from edge_lfm.server import failures
from edge_lfm.server.anthropic import Messages
from edge_lfm.server.chat import Chat
from edge_lfm.server.completions import Completions
from edge_lfm.server.guard import Guard
from edge_lfm.server.ollama import Ollama
from edge_lfm.server.request_log import RequestLog
from edge_lfm.server.responses import Responses
from edge_lfm.server.service import Service
from edge_lfm.server.settings import Settings
from edge_lfm.server.socket import Socket
from edge_lfm.server.texts import Texts

Handler = Callable[[Request], Awaitable[Response]]


def make_app(settings: Settings) -> Starlette:
    """The application for one server; its `state.service` is what the routes share."""
    service = Service(settings)
    middleware = [Middleware(RequestLog), Middleware(Guard, settings=settings)]
    if settings.cors_origins:
        origins = list(settings.cors_origins)
        middleware.insert(
            1, Middleware(CORSMiddleware, allow_origins=origins, allow_methods=["*"], allow_headers=["*"])
        )
    app = Starlette(
        routes=routes_of(service),
        middleware=middleware,
        lifespan=_lifespan,
        exception_handlers={404: failures.handle, 405: failures.handle, Exception: failures.handle},
    )
    app.state.service = service
    return app


def routes_of(service: Service) -> list[BaseRoute]:
    """All routes, of one service."""
    texts, responses, messages, ollama = Texts(service), Responses(service), Messages(service), Ollama(service)
    return [
        _route("/v1/chat/completions", "POST", Chat(service)),
        _route("/v1/completions", "POST", Completions(service)),
        _route("/v1/responses", "POST", responses.create),
        Route("/v1/responses/{number}", _safe(responses.one), methods=["GET", "DELETE"]),
        _route("/v1/messages", "POST", messages.create),
        _route("/v1/messages/count_tokens", "POST", messages.count),
        _route("/api/version", "GET", ollama.version),
        _route("/api/tags", "GET", ollama.tags),
        _route("/api/ps", "GET", ollama.running),
        _route("/api/show", "POST", ollama.show),
        _route("/api/chat", "POST", ollama.chat),
        _route("/api/generate", "POST", ollama.generate),
        _route("/v1/models", "GET", texts.models),
        _route("/v1/models/{name:path}", "GET", texts.model),
        *(_route(path, "POST", texts.embeddings) for path in ("/v1/embeddings", "/api/embed", "/api/embeddings")),
        _route("/tokenize", "POST", texts.tokenize),
        _route("/detokenize", "POST", texts.detokenize),
        _route("/tokenizer_info", "GET", texts.tokenizer_info),
        _route("/apply-template", "POST", texts.apply_template),
        _route("/health", "GET", texts.health),
        _route("/metrics", "GET", texts.metrics),
        _route("/", "GET", texts.page),
        WebSocketRoute("/v1/stream", Socket(service).serve),
    ]


def _route(path: str, method: str, handler: Handler) -> Route:
    return Route(path, _safe(handler), methods=[method])


def _safe(handler: Handler) -> Handler:
    """The same, with every error as JSON."""

    async def handle(request: Request) -> Response:
        try:
            return await handler(request)
        except Exception as error:
            return failures.response(error, request.url.path)

    return handle


@contextlib.asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[None]:
    hosting = app.state.service.hosting
    watch = asyncio.create_task(hosting.watch())
    try:
        yield
    finally:
        watch.cancel()
        await hosting.unload()
