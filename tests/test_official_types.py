"""What the server answers, as the models of OpenAI's and Anthropic's packages have it: every required field is there,
each of its type. The packages themselves read answers without checking them; their users' code does not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from anthropic.types import ErrorResponse, Message, MessageTokensCount, ModelInfo, RawMessageStreamEvent
from anthropic.types.beta import BetaMessage, BetaRawMessageStreamEvent
from openai.types import Completion, CompletionChoice, ErrorObject, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter
from starlette.testclient import TestClient

from edge_lfm.api import LoadOptions
from edge_lfm.server.app import make_app
from edge_lfm.server.settings import Settings


class PieceChoice(CompletionChoice):
    """In OpenAI's streams of completions the reason is null until the end; the package has no type of its own."""

    finish_reason: Literal["stop", "length"] | None  # type: ignore[assignment]


class Piece(Completion):
    """A piece of a streamed completion."""

    choices: list[PieceChoice]  # type: ignore[assignment]


CHAT, TEXT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"
ASKED = [{"role": "user", "content": "What is the weather in Paris?"}]
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"name": "get_weather", "description": "The weather in a city.", "parameters": CITY}
FUNCTION, FLAT = {"type": "function", "function": TOOL}, {"type": "function", **TOOL}
NAMESPACE = {"type": "namespace", "name": "home", "description": "At home.", "tools": [FLAT]}
INPUT_SCHEMA = {"name": "get_weather", "input_schema": CITY}
FORM = {"type": "json_schema", "name": "f", "schema": CITY}
BRIEF: dict[str, Any] = {"temperature": 0, "max_tokens": 20}
BODIES: list[tuple[str, type[BaseModel], Any, dict[str, Any]]] = [
    (CHAT, ChatCompletion, ChatCompletionChunk, {"messages": ASKED}),
    (CHAT, ChatCompletion, ChatCompletionChunk, {"messages": ASKED, "n": 2, "logprobs": True, "top_logprobs": 2}),
    (CHAT, ChatCompletion, ChatCompletionChunk, {"messages": ASKED, "tools": [FUNCTION], "tool_choice": "required"}),
    (CHAT, ChatCompletion, ChatCompletionChunk, {"messages": ASKED, "stream_options": {"include_usage": True}}),
    (TEXT, Completion, Piece, {"prompt": "one two"}),
    (TEXT, Completion, Piece, {"prompt": ["one two", "three"], "logprobs": 2, "n": 2}),
    (RESPONSES, Response, ResponseStreamEvent, {"input": "What is the capital of France?"}),
    (RESPONSES, Response, ResponseStreamEvent, {"input": "Hello", "max_output_tokens": 2, "instructions": "Be kind."}),
    (RESPONSES, Response, ResponseStreamEvent, {"input": "x", "tools": [FLAT], "tool_choice": "required"}),
    (RESPONSES, Response, ResponseStreamEvent, {"input": "x", "tools": [NAMESPACE], "tool_choice": "required"}),
    (RESPONSES, Response, ResponseStreamEvent, {"input": "x", "text": {"format": FORM}, "metadata": {"a": "b"}}),
    (MESSAGES, Message, RawMessageStreamEvent, {"messages": ASKED}),
    (MESSAGES, Message, RawMessageStreamEvent, {"messages": ASKED, "stop_sequences": [" "]}),
    (MESSAGES, BetaMessage, BetaRawMessageStreamEvent, {"messages": ASKED, "tools": [INPUT_SCHEMA]}),
    (
        MESSAGES,
        BetaMessage,
        BetaRawMessageStreamEvent,
        {"messages": ASKED, "tools": [INPUT_SCHEMA], "tool_choice": {"type": "any"}},
    ),
]


def app_of(folder: Path) -> TestClient:
    settings = Settings(load=LoadOptions(folder, threads=1, context=512))
    return TestClient(make_app(settings), base_url="http://127.0.0.1", raise_server_exceptions=False)


@pytest.fixture(scope="module")
def client(demo: dict[str, Path]) -> Iterator[TestClient]:
    with app_of(demo["int4"]) as made:
        yield made


def told(client: TestClient, path: str, body: dict[str, Any]) -> str:
    limits = {"temperature": 0} if path == RESPONSES else BRIEF
    answer = client.post(path, json={**limits, **body})
    assert answer.status_code == 200, answer.text
    return answer.text


def events(text: str) -> list[str]:
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    return [line for line in lines if line != "[DONE]"]


def check(path: str, whole: type[BaseModel], event: Any, body: dict[str, Any], client: TestClient) -> list[str]:
    """Validates an answer, and each event of its stream; the types of these."""
    whole.model_validate_json(told(client, path, body), strict=True)
    kind, kinds = TypeAdapter(event), []
    for line in events(told(client, path, body | {"stream": True})):
        kind.validate_json(line, strict=True)
        kinds.append(json.loads(line).get("type", ""))
    assert kinds
    return kinds


@pytest.mark.parametrize(("path", "whole", "event", "body"), BODIES, ids=range(len(BODIES)))
def test_answers_are_what_the_packages_say(
    client: TestClient, path: str, whole: type[BaseModel], event: Any, body: dict[str, Any]
) -> None:
    check(path, whole, event, body, client)


def test_thoughts_are_what_the_packages_say(demo: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(demo["int4"], tmp_path / "thinker")
    tokenizer, template = folder / "tokenizer.json", folder / "chat_template.jinja"
    known = tokenizer.read_text(encoding="utf-8")
    for other, mark in (("<|fim_pre|>", "<think>"), ("<|fim_mid|>", "</think>")):
        known = known.replace(other, mark)
    tokenizer.write_text(known, encoding="utf-8")
    opened = "{%- if add_generation_prompt %}{{ '<think>' }}{% endif %}"
    template.write_text(template.read_text(encoding="utf-8") + opened, encoding="utf-8")
    with app_of(folder) as thinking:
        brief = {"input": "Hello", "max_output_tokens": 20, "min_tokens": 12}
        kinds = check(RESPONSES, Response, ResponseStreamEvent, brief, thinking)
        assert "response.reasoning_text.delta" in kinds
        check(MESSAGES, Message, RawMessageStreamEvent, {"messages": ASKED, "min_tokens": 12}, thinking)
        check(CHAT, ChatCompletion, ChatCompletionChunk, {"messages": ASKED, "min_tokens": 12}, thinking)


def test_what_is_kept_models_counts_and_errors_are_what_the_packages_say(client: TestClient) -> None:
    kept = json.loads(told(client, RESPONSES, {"input": "Hello"}))["id"]
    Response.model_validate_json(client.get(f"{RESPONSES}/{kept}").text, strict=True)
    counted = client.post(f"{MESSAGES}/count_tokens", json={"messages": ASKED})
    MessageTokensCount.model_validate_json(counted.text, strict=True)
    (card,) = client.get("/v1/models").json()["data"]
    for one in (card, client.get(f"/v1/models/{card['id']}").json()):
        Model.model_validate_json(json.dumps(one), strict=True)
        ModelInfo.model_validate_json(json.dumps(one), strict=True)
    for path in (CHAT, TEXT, RESPONSES, "/v1/embeddings"):
        answer = client.post(path, json={"messages": 3, "prompt": {}, "input": 3})
        assert answer.status_code in (400, 501)
        ErrorObject.model_validate_json(json.dumps(answer.json()["error"]), strict=True)
    for path in (MESSAGES, f"{MESSAGES}/count_tokens"):
        ErrorResponse.model_validate_json(client.post(path, json={"messages": 3}).text, strict=True)
