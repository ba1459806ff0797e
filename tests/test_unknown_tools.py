"""Tools of kinds that are not here, left out where a request says so; and messages with null for a content."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from edge_lfm.api import LoadOptions
from edge_lfm.server.app import make_app
from edge_lfm.server.settings import Settings

SAID = [{"role": "user", "content": "What is the weather in Paris?"}]
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FUNCTION = {"name": "get_weather", "description": "Get the weather in a city.", "parameters": CITY}
OF_CODEX: list[dict[str, Any]] = [
    {"type": "namespace", "name": "agents", "description": "x", "tools": [{"type": "function"} | FUNCTION]},
    {"type": "web_search", "external_web_access": False},
    {"type": "custom", "name": "apply_patch", "format": {"type": "grammar", "syntax": "lark", "definition": "x"}},
]
OF_ANTHROPIC: list[dict[str, Any]] = [{"type": "web_search_20250305", "name": "web_search", "max_uses": 5}]
ROUTES: dict[str, tuple[dict[str, Any], list[dict[str, Any]], dict[str, Any]]] = {
    "/v1/chat/completions": ({"messages": SAID}, OF_CODEX, {"type": "function", "function": FUNCTION}),
    "/v1/responses": ({"input": SAID}, OF_CODEX[1:], {"type": "function", **FUNCTION}),
    "/v1/messages": (
        {"messages": SAID, "max_tokens": 40},
        OF_ANTHROPIC,
        {"name": "get_weather", "description": FUNCTION["description"], "input_schema": CITY},
    ),
    "/api/chat": ({"messages": SAID, "stream": False}, OF_CODEX, {"type": "function", "function": FUNCTION}),
}
"""Bodies, tools of kinds that are not here, and one of a kind that is."""


@pytest.fixture(scope="module")
def client(demo: dict[str, Path]) -> Iterator[TestClient]:
    settings = Settings(load=LoadOptions(demo["int4"], threads=1, context=512))
    with TestClient(make_app(settings), base_url="http://127.0.0.1", raise_server_exceptions=False) as made:
        yield made


def read_of(answer: Any) -> int:
    """The tokens of the prompt."""
    assert answer.status_code == 200, answer.text
    told = answer.json()
    usage = told.get("usage", told)
    return int(usage.get("prompt_tokens") or usage.get("input_tokens") or usage["prompt_eval_count"])


@pytest.mark.parametrize("route", ROUTES)
def test_they_are_refused_by_name_or_left_out(client: TestClient, route: str) -> None:
    body, unknown, known = ROUTES[route]
    plain = read_of(client.post(route, json=body | {"tools": [known]}))
    mixed = body | {"tools": [*unknown, known]}
    refused = client.post(route, json=mixed)
    assert refused.status_code == 400 and unknown[0]["type"] in refused.text
    assert client.post(route, json=mixed | {"unknown_tools": "refuse"}).status_code == 400
    assert read_of(client.post(route, json=mixed | {"unknown_tools": "omit"})) == plain
    assert read_of(client.post(route, json=mixed, headers={"X-Unknown-Tools": "omit"})) == plain
    none = body | {"tools": unknown, "unknown_tools": "omit"}
    assert read_of(client.post(route, json=none)) == read_of(client.post(route, json=body))


@pytest.mark.parametrize("route", ROUTES)
def test_what_else_is_wrong_stays_wrong(client: TestClient, route: str) -> None:
    body, _, known = ROUTES[route]
    for wrong in (
        {"unknown_tools": "maybe"},
        {"unknown_tools": "omit", "tools": [5]},
        {"unknown_tools": "omit", "tools": [known | {"type": 5}]},
        {"unknown_tools": "omit", "tools": {"type": "web_search"}},
    ):
        assert client.post(route, json=body | wrong).status_code == 400
    answer = client.post(route, json=body, headers={"X-Unknown-Tools": "maybe"})
    assert answer.status_code == 400 and "omit or refuse" in answer.text


def test_a_tool_that_was_left_out_cannot_be_chosen(client: TestClient) -> None:
    allowed = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "apply_patch"}]}
    body = {"input": SAID, "tools": OF_CODEX[1:], "unknown_tools": "omit", "tool_choice": allowed}
    answer = client.post("/v1/responses", json=body)
    assert answer.status_code == 400 and "not among the tools" in answer.text


def test_null_content_is_an_empty_text(client: TestClient) -> None:
    for role in ("system", "user", "assistant"):
        told = [
            client.post(route, json={name: [{"role": role, "content": content}, *SAID]})
            for route, name in (("/v1/chat/completions", "messages"), ("/v1/responses", "input"))
            for content in (None, "")
        ]
        assert len({read_of(answer) for answer in told}) == 1
