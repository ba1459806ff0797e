"""Ollama's interface through its own Python client, and what of its requests changes an answer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import ollama
import pytest
from serving import serving
from starlette.testclient import TestClient

from edge_lfm.api import LoadOptions
from edge_lfm.server.app import make_app
from edge_lfm.server.settings import Settings

CHAT, GENERATE = "/api/chat", "/api/generate"
NAME = "tiny"
CAPITAL = [{"role": "user", "content": "What is the capital of France?"}]
PARIS = "The capital of France is Paris."
GREEDY = {"temperature": 0, "num_predict": 60, "num_ctx": 8192, "num_thread": 4}
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 8}},
    "required": ["city"],
    "additionalProperties": False,
}


WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@pytest.fixture(scope="module")
def sdk(demo: dict[str, Path]) -> Iterator[ollama.Client]:
    with serving(str(demo["int4"]), "--name", NAME, "--alias", "other") as address:
        client = ollama.Client(host=address)
        yield client
        client._client.close()  # it closes its connections by no means of its own


@pytest.fixture(scope="module")
def client(demo: dict[str, Path]) -> Iterator[TestClient]:
    settings = Settings(load=LoadOptions(demo["int4"], threads=1, context=512), name=NAME)
    with TestClient(make_app(settings), base_url="http://127.0.0.1", raise_server_exceptions=False) as made:
        yield made


def test_the_official_client_chats(sdk: ollama.Client) -> None:
    answer = sdk.chat(NAME, CAPITAL, options=GREEDY, keep_alive="5m")
    assert (answer.message.role, answer.message.content, answer.done_reason) == ("assistant", PARIS, "stop")
    assert answer.eval_count and answer.prompt_eval_count and answer.total_duration and answer.eval_duration
    parts = list(sdk.chat(f"{NAME}:latest", CAPITAL, options=GREEDY, stream=True))
    assert "".join(part.message.content or "" for part in parts) == PARIS and len(parts) > 3
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    assert parts[-1].eval_count == answer.eval_count


def test_the_official_client_generates(sdk: ollama.Client) -> None:
    assert sdk.generate(NAME, CAPITAL[0]["content"], options=GREEDY).response == PARIS
    parts = sdk.generate(NAME, CAPITAL[0]["content"], system="Be brief.", options=GREEDY, stream=True)
    assert "".join(part.response or "" for part in parts)
    raw = sdk.generate(NAME, "The capital of France is", raw=True, options=GREEDY | {"num_predict": 4})
    assert raw.response and raw.done_reason in ("length", "stop")
    assert sdk.generate(NAME, "def f(x):\n", suffix="\nprint(f(1))", options=GREEDY).done
    assert sdk.generate(NAME, "").done_reason == "load"


def test_answers_end_where_the_request_says(sdk: ollama.Client) -> None:
    """Options beyond Ollama's, as on every other route."""
    endless: dict[str, Any] = GREEDY | {"ignore_eos": True, "num_predict": 40}
    for answer in (sdk.chat(NAME, CAPITAL, options=endless), sdk.generate(NAME, "Hello", options=endless)):
        assert (answer.done_reason, answer.eval_count) == ("length", 40)
    assert "Paris" not in (sdk.chat(NAME, CAPITAL, options=GREEDY | {"bad_words": ["Paris"]}).message.content or "")
    assert sdk.chat(NAME, CAPITAL, options=GREEDY | {"min_tokens": 30, "num_predict": 40}).eval_count in range(30, 41)


def test_tools_are_called(client: TestClient, sdk: ollama.Client) -> None:
    """Whole and streamed, as the client's classes read it; then its result through the client.

    The client writes the keys of a tool in an order of its own, in which the demo model does not know tools.
    """
    asked: list[Any] = [{"role": "user", "content": "What is the weather in Paris?"}]
    body = {"model": NAME, "messages": asked, "tools": [WEATHER], "options": GREEDY}
    whole = ollama.ChatResponse.model_validate(client.post(CHAT, json=body | {"stream": False}).json())
    (call,) = whole.message.tool_calls or []
    assert (call.function.name, dict(call.function.arguments)) == ("get_weather", {"city": "Paris"})
    lines = client.post(CHAT, json=body).text.splitlines()
    parts = [ollama.ChatResponse.model_validate_json(line) for line in lines]
    assert [c for part in parts for c in part.message.tool_calls or []] == [call]
    result = {"role": "tool", "content": "22 degrees", "tool_name": "get_weather"}
    assert sdk.chat(NAME, [*asked, whole.message, result], tools=[WEATHER], options=GREEDY).message.content


def test_the_official_client_binds_the_answer(sdk: ollama.Client) -> None:
    for stream in (False, True):
        told: Any = sdk.chat(NAME, CAPITAL, format=CITY, options=GREEDY, stream=stream)
        text = "".join(p.message.content for p in told) if stream else told.message.content
        jsonschema.validate(json.loads(text), CITY)
    assert isinstance(json.loads(sdk.generate(NAME, "A city?", format=CITY, options=GREEDY).response), dict)


def test_the_official_client_sees_the_model(sdk: ollama.Client) -> None:
    listed = sdk.list().models
    assert [model.model for model in listed] == [NAME, "other"]
    assert listed[0].size and listed[0].digest and listed[0].details and listed[0].details.family == "lfm2_moe"
    shown = sdk.show(NAME)
    assert shown.capabilities == ["completion", "tools"] and shown.template and shown.modelinfo
    assert shown.modelinfo["lfm2_moe.context_length"] > 0
    assert [model.model for model in sdk.ps().models] == [NAME]


def test_the_official_client_is_told_what_is_wrong(sdk: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError, match="temperature") as refused:
        sdk.chat(NAME, CAPITAL, options={"temperature": -1})
    assert refused.value.status_code == 400
    with pytest.raises(ollama.ResponseError, match="images"):
        sdk.chat(NAME, [{"role": "user", "content": "What is this?", "images": [b"\x89PNG"]}])
    for call in (lambda: sdk.pull("x"), lambda: sdk.delete("x"), lambda: sdk.embed(NAME, "x")):
        with pytest.raises(ollama.ResponseError):
            call()


def refusal(client: TestClient, path: str, fields: dict[str, Any]) -> str:
    base = {"prompt": "Hi"} if path == GENERATE else {"messages": CAPITAL}
    answer = client.post(path, json={**base, "stream": False, **fields})
    assert answer.status_code == 400, answer.text
    assert set(answer.json()) == {"error"}
    message: str = answer.json()["error"]
    return message


BOTH: list[tuple[str, dict[str, Any]]] = [
    ("options.mirostat", {"options": {"mirostat": 1}}),
    ("options.tfs_z", {"options": {"tfs_z": 0.5}}),
    ("options.temprature", {"options": {"temprature": 1}}),
    ("options.repeat_last_n", {"options": {"repeat_last_n": 64, "repeat_penalty": 1.1}}),
    ("options.num_predict", {"options": {"num_predict": -3}}),
    ("format", {"format": "yaml"}),
    ("format", {"format": {"type": 5}}),
    ("think", {"think": "high"}),
    ("logprobs", {"logprobs": True}),
    ("images", {"images": ["aGk="]}),
]
OWN: list[tuple[str, str, dict[str, Any]]] = [
    (CHAT, "messages[0].images", {"messages": [{"role": "user", "content": "x", "images": ["aGk="]}]}),
    (CHAT, "messages[0]", {"messages": [{"role": "narrator", "content": "x"}]}),
    (CHAT, "tools[0]", {"tools": [{"type": "web_search"}]}),
    (GENERATE, "template", {"template": "{{ .Prompt }}"}),
    (GENERATE, "context", {"context": [1, 2]}),
    (GENERATE, "system", {"raw": True, "system": "x"}),
]


@pytest.mark.parametrize(
    ("path", "named", "fields"), [*OWN, *((path, *case) for path in (CHAT, GENERATE) for case in BOTH)]
)
def test_what_is_not_here_is_refused_by_its_name(
    client: TestClient, path: str, named: str, fields: dict[str, Any]
) -> None:
    assert named in refusal(client, path, fields)


def test_what_changes_nothing_is_taken(client: TestClient) -> None:
    extra = {"keep_alive": 0, "truncate": True, "shift": True, "think": True, "logprobs": False}
    options = GREEDY | {"mirostat": 0, "repeat_last_n": 64, "num_gpu": 99, "tfs_z": 1.0, "stop": []}
    told = client.post(CHAT, json={"messages": CAPITAL, "stream": False, "options": options, "tools": [], **extra})
    assert told.json()["message"]["content"] == PARIS


def test_a_stream_that_fails_ends_in_an_error(client: TestClient) -> None:
    answer = client.post(CHAT, json={"messages": CAPITAL * 200})
    assert answer.status_code == 400 and "context" in answer.json()["error"]
    assert client.post("/api/pull", json={"model": "x"}).json() == {"error": "Not Found"}


def test_embeddings_are_refused_with_the_reason(client: TestClient) -> None:
    for path in ("/api/embed", "/api/embeddings"):
        answer = client.post(path, json={"model": NAME, "input": "x", "prompt": "x"})
        assert answer.status_code == 501 and "no embeddings here" in answer.json()["error"]
    answer = client.post("/v1/embeddings", json={"input": "x"})
    assert answer.status_code == 501 and answer.json()["error"]["code"] == "not_supported"


def test_names(demo: dict[str, Path]) -> None:
    """Any name is the one model's, unless the server is strict."""
    load = LoadOptions(demo["int4"], threads=1, context=512)
    ask = {"messages": CAPITAL, "max_tokens": 4}
    paths = ("/v1/chat/completions", "/v1/messages", CHAT)
    with TestClient(make_app(Settings(load=load)), base_url="http://127.0.0.1") as client:
        for path in paths:
            assert (
                client.post(path, json=ask if path != CHAT else {"messages": CAPITAL, "model": "m"}).status_code == 200
            )
            named = {"model": "claude-or-gpt", **(ask if path != CHAT else {"messages": CAPITAL})}
            assert client.post(path, json=named).status_code == 200
    strict = Settings(load=load, aliases=("mine",), strict_model=True)
    with TestClient(make_app(strict), base_url="http://127.0.0.1") as client:
        for name, status in (("mine", 200), ("mine:latest", 200), (strict.name, 200), ("gpt-4o", 404)):
            for path in paths:
                body = {"model": name, **(ask if path != CHAT else {"messages": CAPITAL, "options": GREEDY})}
                assert client.post(path, json=body).status_code == status
        assert [model["id"] for model in client.get("/v1/models").json()["data"]] == [strict.name, "mine"]
