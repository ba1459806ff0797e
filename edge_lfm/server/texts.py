"""The small routes: models, tokens, templates, health, metrics, the page."""

from __future__ import annotations

import functools
import html
from importlib.resources import files
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from edge_lfm.api import ChatTemplate, Model
from edge_lfm.errors import TemplateError, about
from edge_lfm.server.failures import RequestError
from edge_lfm.server.schemas import DetokenizeRequest, TemplateRequest, TokenizeRequest, as_fields
from edge_lfm.server.service import Service, json_response, tokenizer_of
from edge_lfm.server.tools import check_tools

MAX_TEXT = 1 << 20
"""Characters to be tokenized: eight times the longest context of these families, and a second or two of work."""
_PAGE_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; img-src data:"
)


class Texts:
    """The routes."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def models(self, _request: Request) -> Response:
        """GET /v1/models"""
        names = self._service.settings.names
        pages = {"has_more": False, "first_id": names[0], "last_id": names[-1]}  # what Anthropic's clients ask for
        return JSONResponse({"object": "list", "data": [self._card(name) for name in names], **pages})

    async def model(self, request: Request) -> Response:
        """GET /v1/models/{name}"""
        name = request.path_params["name"]
        async with self._service.model_for(name, strict=True):
            return JSONResponse(self._card(name))

    async def tokenize(self, request: Request) -> Response:
        """POST /tokenize"""
        body, nbytes = await self._service.read(request, TokenizeRequest)
        async with self._service.model_for(body.model) as model:
            return await self._service.work.run(_tokenized, model, body, nbytes=nbytes)

    async def detokenize(self, request: Request) -> Response:
        """POST /detokenize"""
        body, nbytes = await self._service.read(request, DetokenizeRequest)
        async with self._service.model_for(body.model) as model:
            return await self._service.work.run(_detokenized, model, body, nbytes=nbytes)

    async def tokenizer_info(self, _request: Request) -> Response:
        """GET /tokenizer_info: what evaluation harnesses ask for"""
        async with self._service.model_for(None) as model:
            tokenizer, template = tokenizer_of(model), model.template
            eos = [tokenizer.bytes_of(i).decode() for i in tokenizer.eos_ids]
            info: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": tokenizer.bos}
            info |= {"eos_token": eos[0] if eos else None, "pad_token": eos[0] if eos else None}
            return JSONResponse(info | {"chat_template": template.source if template else None})

    async def apply_template(self, request: Request) -> Response:
        """POST /apply-template"""
        body, nbytes = await self._service.read(request, TemplateRequest)
        async with self._service.model_for(body.model) as model:
            return await self._service.work.run(_templated, model, body, nbytes=nbytes)

    async def embeddings(self, _request: Request) -> Response:
        """POST /v1/embeddings, /api/embed, /api/embeddings: refused, with the reason"""
        raise RequestError(
            "there are no embeddings here: the model was trained to write, and its states are no good measure of "
            "likeness; run a model for embeddings beside it",
            code="not_supported",
            status=501,
        )

    async def health(self, _request: Request) -> Response:
        """GET /health"""
        status = self._service.hosting.status
        return JSONResponse({"status": status}, status_code=200 if status in ("ok", "idle") else 503)

    async def metrics(self, _request: Request) -> Response:
        """GET /metrics"""
        return Response(self._service.metrics.text(), media_type="text/plain; version=0.0.4")

    async def page(self, _request: Request) -> Response:
        """GET /"""
        headers = {"Content-Security-Policy": _PAGE_POLICY, "X-Content-Type-Options": "nosniff"}
        return HTMLResponse(_page().replace("MODEL_NAME", html.escape(self._service.settings.name)), headers=headers)

    def _card(self, name: str) -> dict[str, Any]:
        """The model as OpenAI's and as Anthropic's clients know one."""
        card: dict[str, Any] = {"id": name, "object": "model", "created": 0, "owned_by": "local"}
        card |= {"type": "model", "display_name": name, "created_at": "1970-01-01T00:00:00Z"}
        card |= {"lifecycle": "active"}
        model = self._service.hosting.model
        limits = ("max_model_len", "max_input_tokens", "max_tokens")
        return card | (dict.fromkeys(limits, model.context) if model is not None else {})


@functools.cache
def _page() -> str:
    """The page with its parts in it: one answer, which loads nothing more."""
    folder = files("edge_lfm.server").joinpath("page")
    page = folder.joinpath("page.html").read_text(encoding="utf-8")
    for part in ("style.css", "markdown.js", "store.js", "talk.js"):
        mark = part.replace(".", "_").upper()
        page = page.replace(mark, folder.joinpath(part).read_text(encoding="utf-8"))
    return page


def _tokenized(model: Model, body: TokenizeRequest) -> Response:
    tokenizer = tokenizer_of(model)
    if body.messages is not None and body.text is not None:
        raise RequestError("messages and a text exclude each other; give one", "messages")
    if body.messages is not None:
        messages = [message.plain(n) for n, message in enumerate(body.messages)]
        with as_fields(body), about("prompt"):
            ids = _template_of(model).encode(messages, tokenizer, room=MAX_TEXT)
    elif body.text is None:
        raise RequestError("there is no content", "content")
    elif len(body.text) > MAX_TEXT:
        raise RequestError(f"content has {len(body.text)} characters, at most {MAX_TEXT} are taken", "content")
    else:
        ids = tokenizer.encode(body.text, bos=body.add_special or body.add_special_tokens, special=True)
    return json_response({"tokens": ids, "count": len(ids), "max_model_len": model.context})


def _detokenized(model: Model, body: DetokenizeRequest) -> Response:
    tokenizer = tokenizer_of(model)
    if any(not 0 <= i < model.shape.vocab for i in body.tokens):
        raise RequestError(f"tokens has ids beyond 0..{model.shape.vocab - 1}", "tokens")
    text = tokenizer.decode(body.tokens, special=True)
    return json_response({"content": text, "prompt": text})


def _templated(model: Model, body: TemplateRequest) -> Response:
    check_tools(body.tools)
    messages = [message.plain(n) for n, message in enumerate(body.messages)]
    template, switches = _template_of(model), body.chat_template_kwargs
    tools = [tool.plain() for tool in body.tools or ()]
    with as_fields(body), about("prompt"):
        return json_response({"prompt": template.prompt(messages, tools=tools, switches=switches)})


def _template_of(model: Model) -> ChatTemplate:
    if model.template is None:
        raise TemplateError("the model has no chat template", hint="use /v1/completions")
    return model.template
