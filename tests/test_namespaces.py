"""Groups of functions in /v1/responses: to the model, functions like others; a call names its group."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai.types.responses import ResponseFunctionToolCall
from starlette.testclient import TestClient

from edge_lfm.api import LoadOptions
from edge_lfm.server.app import make_app
from edge_lfm.server.settings import Settings

URL = "/v1/responses"
CITY = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 9}}, "required": ["city"]}
WEATHER = {"type": "function", "name": "get_weather", "description": "Get the weather in a city.", "parameters": CITY}
CLOCK = WEATHER | {"name": "get_time", "description": "Get the time in a city."}
GROUP = {"type": "namespace", "name": "sky", "description": "What is above.", "tools": [WEATHER]}
ASKED = {
    "input": [{"role": "user", "content": "What is the weather in Paris?"}],
    "temperature": 0,
    "max_output_tokens": 60,
    "tool_choice": "required",
}


@pytest.fixture(scope="module")
def client(demo: dict[str, Path]) -> Iterator[TestClient]:
    settings = Settings(load=LoadOptions(demo["int4"], threads=1, context=512))
    with TestClient(make_app(settings), base_url="http://127.0.0.1", raise_server_exceptions=False) as made:
        yield made


def told(client: TestClient, **fields: Any) -> Any:
    answer = client.post(URL, json=ASKED | fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_group_is_read_as_its_functions_with_its_description(client: TestClient) -> None:
    described = WEATHER | {"description": f"What is above.\n{WEATHER['description']}"}
    grouped, plain = told(client, tools=[GROUP, CLOCK]), told(client, tools=[described, CLOCK])
    read, again = grouped["usage"]["input_tokens"], plain["usage"]["input_tokens_details"]["cached_tokens"]
    assert read == plain["usage"]["input_tokens"] and again == read - 1, "the same tokens, all but the last kept"
    (call,), (expected,) = grouped["output"], plain["output"]
    assert call["arguments"] == expected["arguments"] and call["name"] == expected["name"]
    assert "namespace" not in expected


def test_a_call_names_its_group_and_comes_back(client: TestClient) -> None:
    first = told(client, tools=[GROUP])
    call = ResponseFunctionToolCall.model_validate(first["output"][0])
    assert (call.name, call.namespace) == ("get_weather", "sky")
    assert first["tools"][0]["type"] == "namespace" and first["tools"][0]["tools"][0]["name"] == "get_weather"
    result = {"type": "function_call_output", "call_id": call.call_id, "output": '{"temp": 22, "sky": "clear"}'}
    history = [*ASKED["input"], first["output"][0], result]  # type: ignore[misc]
    told(client, tools=[GROUP], input=history, tool_choice="auto")


def test_a_stream_names_it_too(client: TestClient) -> None:
    lines = client.post(URL, json=ASKED | {"tools": [GROUP], "stream": True}).text.splitlines()
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    items = [event["item"] for event in events if event["type"].startswith("response.output_item")]
    assert len(items) == 2 and all(item["namespace"] == "sky" for item in items)


@pytest.mark.parametrize(
    ("tools", "said"),
    [
        ([GROUP, WEATHER], "tools[1] has a function 'get_weather'"),
        ([GROUP | {"tools": [{"type": "custom", "name": "x"}]}], "custom"),
        ([GROUP | {"tools": []}], "a namespace has a name and tools"),
        ([GROUP | {"name": None}], "a namespace has a name and tools"),
        ([WEATHER | {"tools": [CLOCK]}], "a function has no tools"),
        ([GROUP | {"tools": [GROUP]}], "namespace"),
    ],
    ids=range(6),
)
def test_what_cannot_be_told_apart_or_is_no_function_is_refused(client: TestClient, tools: Any, said: str) -> None:
    answer = client.post(URL, json=ASKED | {"tools": tools})
    assert answer.status_code == 400 and said in answer.json()["error"]["message"], answer.text
