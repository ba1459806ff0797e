"""What clients send inside messages, tools and formats: all of it is taken, or refused with its place.

The bodies are those that openai-python 3, LangChain, LiteLLM, Vercel's ai-sdk, Open WebUI, n8n, Continue, Copilot and
opencode make: their own fields in messages, parts, calls and tools.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletion
from openai.types.chat.parsed_chat_completion import ParsedChatCompletionMessage
from openai.types.responses import Response
from starlette.testclient import TestClient
from test_server_fields import CAPITAL, CHAT, RESPONSES, WHOLE, places, text_of, with_value

from edge_lfm.api import LoadOptions
from edge_lfm.server.app import make_app
from edge_lfm.server.messages import Call, Called, Message, Part
from edge_lfm.server.response_input import Item
from edge_lfm.server.schemas import Reasoning, StreamOptions
from edge_lfm.server.settings import Settings
from edge_lfm.server.tools import Function, Tool

CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
TURNS: list[dict[str, Any]] = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "call_1", "content": "22 degrees"},
    {"role": "assistant", "content": "It is warm."},
    *CAPITAL,
]
PLAIN = {"messages": TURNS, "max_tokens": 12, "temperature": 0}


@pytest.fixture(scope="module")
def client(demo: dict[str, Path]) -> Iterator[TestClient]:
    settings = Settings(load=LoadOptions(demo["int4"], threads=1, context=512))
    with TestClient(make_app(settings), base_url="http://127.0.0.1", raise_server_exceptions=False) as made:
        yield made


def changed(**fields: dict[str, Any]) -> dict[str, Any]:
    """The conversation with more fields in the user's turn, the answers, the call, its function, and the result."""
    user, asked, result, answer, last = TURNS
    call = CALL | fields.get("call", {}) | {"function": CALL["function"] | fields.get("function", {})}  # type: ignore[operator]
    return PLAIN | {
        "messages": [
            user | fields.get("user", {}),
            asked | {"tool_calls": [call]} | fields.get("answer", {}),
            result | fields.get("result", {}),
            answer | fields.get("answer", {}),
            last,
        ]
    }


OF_CLIENTS: dict[str, dict[str, Any]] = {
    "openai": changed(
        user={"name": "anna"},
        answer={"refusal": None, "annotations": [], "audio": None, "function_call": None, "name": "bot"},
    ),
    "openai parsed": changed(
        answer={"refusal": None, "annotations": None, "parsed": {"a": 1}}, function={"parsed_arguments": {"city": "x"}}
    ),
    "langchain": changed(call={"index": 0}, result={"name": "weather"}, answer={"name": None}),
    "litellm": changed(
        answer={
            "provider_specific_fields": {"refusal": None},
            "thinking_blocks": [{"type": "thinking", "thinking": "hm", "signature": "s"}],
            "images": [],
            "annotations": [],
        },
        user={"cache_control": {"type": "ephemeral"}},
        call={"provider_specific_fields": {"thought_signature": "s"}},
        result={"name": "weather", "cache_control": {"type": "ephemeral"}},
    ),
    "ai-sdk": changed(call={"extra_content": {"google": {"thought_signature": "s"}}}),
    "open webui": changed(
        user={"id": "m1", "timestamp": 1, "files": []}, answer={"id": "m2", "timestamp": 2, "model": "m", "done": None}
    ),
    "n8n": changed(user={"name": "Anna"}, call={"index": 0}, answer={"function_call": None}),
    "continue": changed(
        answer={"usage": {"completion_tokens": 1}, "reasoning_details": [{"type": "x"}], "prefix": False}
    ),
    "copilot": changed(
        user={"copilot_cache_control": {"type": "ephemeral"}}, answer={"reasoning_opaque": "s"}, result={"status": "ok"}
    ),
    "codecompanion": changed(user={"id": 1947269257, "opts": {"visible": False}}),
    "opencode": changed(
        user={"agent": "cli", "messageId": "m", "model": "m", "traceId": "t", "extra_fields": {}, "usage": {}}
    ),
    "openrouter": changed(answer={"refusal": None, "reasoning": None, "reasoning_details": []}),
    "a stream that was joined": changed(
        answer={"refusal": None, "finish_reason": "stop", "logprobs": None}, call={"index": 0}
    ),
}


@pytest.mark.parametrize("name", OF_CLIENTS)
def test_what_clients_send_beside_a_message_changes_nothing(client: TestClient, name: str) -> None:
    plain = client.post(CHAT, json=PLAIN)
    answer = client.post(CHAT, json=OF_CLIENTS[name])
    assert answer.status_code == 200, answer.text
    assert text_of(answer.json()) == text_of(plain.json())
    assert answer.json()["usage"]["prompt_tokens"] == plain.json()["usage"]["prompt_tokens"]


def test_what_clients_send_beside_parts_and_options_changes_nothing(client: TestClient) -> None:
    plain = client.post(CHAT, json=PLAIN | {"messages": CAPITAL}).json()
    cached = {"cache_control": {"type": "ephemeral"}}
    part = {"type": "text", "text": CAPITAL[0]["content"]}
    for extra in (cached, {"annotations": []}, {"id": "p", "index": 0}, {"prompt_cache_breakpoint": {"mode": "x"}}):
        body = PLAIN | {"messages": [{"role": "user", "content": [part | extra]}]}
        assert text_of(client.post(CHAT, json=body).json()) == text_of(plain)
    options = {
        "stream_options": {"include_usage": True, "include_obfuscation": False, "continuous_usage_stats": True},
        "response_format": {"type": "text", "json_schema": None},
        "user": "u",
        "store": False,
        "metadata": {"a": "b"},
        "prompt_cache_options": {"mode": "implicit"},
        "prediction": None,
        "parallel_tool_calls": True,
    }
    assert text_of(client.post(CHAT, json=PLAIN | {"messages": CAPITAL} | options).json()) == text_of(plain)
    with_tools = PLAIN | {"messages": CAPITAL, "tools": [TOOL]}
    expected = client.post(CHAT, json=with_tools).json()
    for extra in (cached, {"defer_loading": False}, {"output_schema": None}):
        tools = [TOOL | extra | {"function": TOOL["function"] | extra}]  # type: ignore[operator]
        found = client.post(CHAT, json=with_tools | {"tools": tools}).json()
        assert found["usage"]["prompt_tokens"] == expected["usage"]["prompt_tokens"]


def test_answers_come_back_as_openais_package_writes_them(client: TestClient) -> None:
    """Every field that its classes give an answer, a parsed one too, and an output item."""
    told = client.post(CHAT, json=PLAIN | {"messages": CAPITAL}).json()
    message = ChatCompletion.model_validate(told).choices[0].message
    parsed: Any = ParsedChatCompletionMessage[Any].model_validate(message.model_dump() | {"parsed": {"a": 1}})
    for answer in (message.model_dump(), parsed.model_dump(), json.loads(message.to_json())):
        again = client.post(CHAT, json=PLAIN | {"messages": [*CAPITAL, answer, *CAPITAL]})
        assert again.status_code == 200, again.text
    body = {"input": "Hi", "max_output_tokens": 8, "temperature": 0}
    response = Response.construct(**client.post(RESPONSES, json=body).json())
    items = [item.model_dump() for item in response.output]
    items += [
        {"type": "function_call", "id": "f", "call_id": "c", "name": "f", "arguments": "{}", "status": "completed"}
        | {"async": False, "caller": {"type": "direct"}, "namespace": None, "parsed_arguments": None},
        {"type": "function_call_output", "call_id": "c", "output": "x", "id": None, "status": "completed"},
        {"type": "reasoning", "id": "r", "summary": [], "encrypted_content": "x", "status": None, "content": None},
    ]
    again = client.post(RESPONSES, json=body | {"input": [*items, {"role": "user", "content": "Hi", "phase": None}]})
    assert again.status_code == 200, again.text


NAMES = {
    "properties",
    "arguments",
    "metadata",
    "columns",
    "tree",
    "schema",
    "parameters",
    "logit_bias",
    "guided_json",
    "chat_template_kwargs",
}
"""What is below one of these is of names that its sender chooses."""


@pytest.mark.parametrize("path", WHOLE)
def test_an_unknown_field_is_refused_with_its_place_in_every_object(client: TestClient, path: str) -> None:
    body, route = WHOLE[path], path.partition("?")[0]
    for place in ((), *places(body)):
        inner = body
        for key in place:
            inner = inner[key]
        if not isinstance(inner, dict) or NAMES & set(place):
            continue
        said = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in (*place, "unheard_of"))[1:]
        answer = client.post(route, json=with_value(body, (*place, "unheard_of"), 5))
        assert answer.status_code == 400, (place, answer.text)
        assert answer.json()["error"] == {
            "message": f"{said!r} is not supported here",
            "type": "invalid_request_error",
            "param": said,
            "code": "unsupported_field",
        }
        for nothing in (None, False, [], {}) if place else (None,):
            assert client.post(route, json=with_value(body, (*place, "unheard_of"), nothing)).status_code == 200


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"messages": [*CAPITAL, {"role": 5, "content": "x"}]}, "messages[1].role"),
        ({"messages": [*CAPITAL, {"content": "x"}]}, "messages[1].role"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]}, "messages[0].content[0].text"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0]"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"function": {}}]}]},
            "messages[0].tool_calls[0].function.name",
        ),
        ({"messages": [{"role": "assistant", "content": "x", "audio": {"id": "a"}}]}, "messages[0].audio"),
        ({"messages": [{"role": "assistant", "content": "x", "prefix": True}]}, "messages[0].prefix"),
        ({"messages": [{"role": "user", "content": "x", "images": ["aGk="]}]}, "messages[0].images"),
        ({"tools": [TOOL, {"type": "web_search"}]}, "tools[1].type"),
        ({"tools": [{"type": "function", "function": {"name": "f", "strict": "yes"}}]}, "tools[0].function.strict"),
        ({"tools": [TOOL | {"defer_loading": True}]}, "tools[0].defer_loading"),
        ({"tools": [TOOL], "tool_choice": {"type": "function"}}, "tool_choice"),
        ({"response_format": {"json_schema": {"schema": {}, "stricte": True}}}, "response_format.json_schema.stricte"),
        ({"stop": ["a", 5]}, "stop[1]"),
        ({"documents": [{"text": "a"}, {"text": "b", "source": "c"}]}, "documents[1].source"),
        ({"stream_options": {"include_usage": 5}}, "stream_options.include_usage"),
    ],
    ids=range(16),
)
def test_what_is_wrong_has_a_place(client: TestClient, fields: dict[str, Any], place: str) -> None:
    answer = client.post(CHAT, json={"messages": CAPITAL} | fields)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["param"] == place, error


def test_the_document_lists_what_is_taken() -> None:
    text = (Path(__file__).parent.parent / "docs" / "server.md").read_text(encoding="utf-8")
    for kind in (Message, Part, Call, Called, Item, Tool, Function, StreamOptions, Reasoning):
        assert [name for name in kind.harmless if f"`{name}`" not in text] == []


def test_the_official_client_is_told_the_place(client: TestClient) -> None:
    official = openai.OpenAI(base_url="http://127.0.0.1/v1", api_key="none", http_client=client)
    with pytest.raises(openai.BadRequestError) as refused:
        official.chat.completions.create(model="", messages=[{"role": "user", "content": "x", "mood": "good"}])  # type: ignore[list-item, misc]
    assert refused.value.param == "messages[0].mood"
