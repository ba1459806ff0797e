"""POST /v1/messages through Anthropic's own Python client, and every part of its requests that changes an answer."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anthropic
import jsonschema
import pytest
from anthropic.types import Message
from serving import serving
from starlette.testclient import TestClient

from edge_lfm.api import LoadOptions, Model
from edge_lfm.server.anthropic_input import MessagesRequest
from edge_lfm.server.app import make_app
from edge_lfm.server.schemas import decode
from edge_lfm.server.settings import Settings

NAME = Settings.name
MESSAGES, COUNT = "/v1/messages", "/v1/messages/count_tokens"
CAPITAL = [{"role": "user", "content": "What is the capital of France?"}]
PARIS = "The capital of France is Paris."
WEATHER = [{"role": "user", "content": "What is the weather in Paris?"}]
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"name": "get_weather", "description": "The weather in a city.", "input_schema": CITY}
OTHER = {"name": "get_time", "input_schema": CITY}
GREEDY = {"model": NAME, "max_tokens": 60, "temperature": 0.0}
OFFICIAL: dict[str, Any] = {"model": NAME, "max_tokens": 60, "extra_body": {"temperature": 0.0}}
"""The same for the client, which no longer names the temperature itself."""


@pytest.fixture(scope="module")
def sdk(demo: dict[str, Path]) -> Iterator[anthropic.Anthropic]:
    with (
        serving(str(demo["int4"]), "--name", NAME) as address,
        anthropic.Anthropic(base_url=address, api_key="none", max_retries=0) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def client(demo: dict[str, Path]) -> Iterator[TestClient]:
    settings = Settings(load=LoadOptions(demo["int4"], threads=1, context=512))
    with TestClient(make_app(settings), base_url="http://127.0.0.1", raise_server_exceptions=False) as made:
        yield made


def ask(client: TestClient, **fields: Any) -> dict[str, Any]:
    answer = client.post(MESSAGES, json={**GREEDY, "messages": CAPITAL, **fields})
    assert answer.status_code == 200, answer.text
    Message.model_validate(answer.json())
    told: dict[str, Any] = answer.json()
    return told


def text_of(told: dict[str, Any]) -> str:
    return "".join(block["text"] for block in told["content"] if block["type"] == "text")


def refusal(client: TestClient, path: str = MESSAGES, **fields: Any) -> str:
    answer = client.post(path, json={**GREEDY, "messages": CAPITAL, **fields})
    assert answer.status_code == 400, answer.text
    told = answer.json()
    assert set(told) == {"type", "error"} and told["type"] == "error"
    assert told["error"]["type"] == "invalid_request_error"
    message: str = told["error"]["message"]
    return message


def test_the_official_client_gets_an_answer(sdk: anthropic.Anthropic) -> None:
    answer = sdk.messages.create(**OFFICIAL, messages=CAPITAL)
    assert [(block.type, block.text) for block in answer.content] == [("text", PARIS)]
    assert (answer.role, answer.model, answer.stop_reason, answer.stop_sequence) == (
        "assistant",
        NAME,
        "end_turn",
        None,
    )
    usage = answer.usage
    counted = sdk.messages.count_tokens(model=NAME, messages=CAPITAL).input_tokens
    assert usage.input_tokens + (usage.cache_read_input_tokens or 0) == counted > 10
    assert 5 < usage.output_tokens < 20


def test_the_official_client_reads_a_stream(sdk: anthropic.Anthropic) -> None:
    with sdk.messages.stream(**OFFICIAL, messages=CAPITAL) as stream:
        texts = list(stream.text_stream)
        whole = stream.get_final_message()
    assert "".join(texts) == whole.content[0].text == PARIS and len(texts) > 3
    assert whole.stop_reason == "end_turn" and whole.usage.output_tokens > 5
    kinds = [event.type for event in sdk.messages.create(**OFFICIAL, messages=CAPITAL, stream=True)]
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert set(kinds[2:-3]) == {"content_block_delta"}


def test_the_official_client_calls_tools(sdk: anthropic.Anthropic) -> None:
    """Whole and streamed; the result goes back, and the answer is made from it."""
    asked: dict[str, Any] = {**OFFICIAL, "messages": WEATHER, "tools": [TOOL]}
    answer = sdk.messages.create(**asked, tool_choice={"type": "any"})
    (call,) = answer.content
    assert (answer.stop_reason, call.type, call.name) == ("tool_use", "tool_use", "get_weather")
    jsonschema.validate(call.input, CITY)
    with sdk.messages.stream(**asked, tool_choice={"type": "tool", "name": "get_weather"}) as stream:
        streamed = stream.get_final_message()
    assert [(b.type, b.name, b.input) for b in streamed.content] == [("tool_use", "get_weather", call.input)]
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "22 degrees and sunny"}
    turns = [*WEATHER, {"role": "assistant", "content": answer.content}, {"role": "user", "content": [result]}]
    last = sdk.messages.create(**OFFICIAL, messages=turns, tools=[TOOL])
    assert last.stop_reason == "end_turn" and "22" in last.content[0].text


def test_the_official_client_is_told_what_is_wrong(sdk: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.BadRequestError, match="temperature"):
        sdk.messages.create(**OFFICIAL | {"extra_body": {"temperature": -1}}, messages=CAPITAL)
    with pytest.raises(anthropic.BadRequestError, match=r"messages\[0\].content\[0\].*'image'"):
        source = {"type": "base64", "media_type": "image/png", "data": "aGk="}
        image = {"type": "image", "source": source}
        sdk.messages.create(**OFFICIAL, messages=[{"role": "user", "content": [image]}])
    assert [model.id for model in sdk.models.list()] == [NAME]


def test_the_key_comes_as_anthropics_clients_send_it(demo: dict[str, Path]) -> None:
    settings = Settings(load=LoadOptions(demo["int4"], threads=1, context=512), api_key="secret")
    with TestClient(make_app(settings), base_url="http://127.0.0.1") as client:
        for headers, status in (({}, 401), ({"x-api-key": "other"}, 401), ({"x-api-key": "secret"}, 200)):
            answer = client.post(COUNT, json={"messages": CAPITAL}, headers=headers)
            assert answer.status_code == status
            assert status == 200 or answer.json()["error"]["type"] == "authentication_error"
        both = {"x-api-key": "secret", "authorization": "Bearer other"}
        assert client.post(COUNT, json={"messages": CAPITAL}, headers=both).status_code == 401


def test_system_texts_and_blocks_are_the_same_as_chats(client: TestClient, demo: dict[str, Path]) -> None:
    """A conversation in blocks has the prompt that the same chat has."""
    turns = [
        {
            "role": "user",
            "content": [{"type": "text", "text": "How warm is it"}, {"type": "text", "text": "in Paris?"}],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "I look it up.", "signature": "s"},
                {"type": "redacted_thinking", "data": "x"},
                {"type": "text", "text": "One moment.", "citations": None},
                {"type": "tool_use", "id": "t1", "name": "get_weather", "input": {"city": "Paris"}, "caller": {}},
                {"type": "tool_use", "id": "t2", "name": "get_weather", "input": {"city": "Nice"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": "22 degrees"},
                {"type": "tool_result", "tool_use_id": "t2", "content": [{"type": "text", "text": "no such city"}]}
                | {"is_error": True},
                {"type": "text", "text": "Well?", "cache_control": {"type": "ephemeral"}},
            ],
        },
    ]
    system = [{"type": "text", "text": "Be brief."}, {"type": "text", "text": "Be kind."}]
    body = {"messages": turns, "system": system, "tools": [TOOL | {"type": "custom"}]}
    counted = client.post(COUNT, json=body).json()["input_tokens"]
    calls = [{"function": {"name": "get_weather", "arguments": {"city": city}}} for city in ("Paris", "Nice")]
    chat = [
        {"role": "system", "content": "Be brief.\nBe kind."},
        {"role": "user", "content": "How warm is it\nin Paris?"},
        {"role": "assistant", "content": "One moment.", "thinking": "I look it up.", "tool_calls": calls},
        {"role": "tool", "content": "22 degrees"},
        {"role": "tool", "content": "Error: no such city"},
        {"role": "user", "content": "Well?"},
    ]
    function = {"name": "get_weather", "description": TOOL["description"], "parameters": CITY}
    with Model.load(demo["int4"], threads=1) as model:
        ids = model.encode_prompt(chat, tools=[{"type": "function", "function": function}])
        assert counted == len(ids)
        answer = model.generate(chat, tools=[{"type": "function", "function": function}], temperature=0, max_tokens=20)
    told = ask(client, **body, max_tokens=20)
    assert text_of(told) == answer.text and told["usage"]["output_tokens"] == answer.timings.completion_tokens


def test_the_request_of_a_coding_agent_is_taken(client: TestClient) -> None:
    """As Claude Code sends it, shortened: a system message in the midst, results in another order than their calls."""
    cached = {"cache_control": {"type": "ephemeral"}}
    read = {"$schema": "https://json-schema.org/draft/2020-12/schema", **CITY, "additionalProperties": False}
    uses = [{"type": "tool_use", "id": f"t{n}", "name": "get_weather", "input": {"city": "x"}} for n in (1, 2)]
    results = [
        {"tool_use_id": "t2", "type": "tool_result", "content": "1\tvm"},
        {"type": "tool_result", "content": "Exit code 2", "is_error": True, "tool_use_id": "t1"} | cached,
    ]
    body: dict[str, Any] = {
        "messages": [
            {
                "role": "user",
                "content": [{"type": "text", "text": "Context."}, {"type": "text", "text": "Go"} | cached],
            },
            {"role": "system", "content": "Available skills: none."},
            {"role": "assistant", "content": [{"type": "thinking", "thinking": "Hm.", "signature": ""}, *uses]},
            {"role": "user", "content": results},
        ],
        "system": [{"type": "text", "text": "An agent."}, {"type": "text", "text": "Be brief."} | cached],
        "tools": [TOOL | {"input_schema": read}],
        "metadata": {"user_id": '{"session_id":"1"}'},
        "thinking": {"type": "adaptive"},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "output_config": {"effort": "high"},
    }
    headers = {"anthropic-beta": "context-management-2025-06-27", "anthropic-version": "2023-06-01"}
    answer = client.post(f"{MESSAGES}?beta=true", json={**GREEDY, **body}, headers=headers)
    assert answer.status_code == 200, answer.text
    ordered = body["messages"][:-1] + [{"role": "user", "content": results[::-1]}]
    told = ask(client, **body | {"messages": ordered})
    assert told["content"] == answer.json()["content"]
    assert told["usage"]["input_tokens"] == 1, "the same prompt again: all but its last token is kept"
    assert client.head("/").status_code == 200, "asked first"


@pytest.mark.parametrize(
    ("edit", "kept"),
    [
        ({}, ["c"]),
        ({"keep": {"type": "thinking_turns", "value": 2}}, ["b", "c"]),
        ({"keep": {"type": "thinking_turns", "value": 9}}, ["a", "b", "c"]),
        ({"keep": {"type": "all"}}, ["a", "b", "c"]),
        ({"keep": "all"}, ["a", "b", "c"]),
    ],
)
def test_thoughts_of_earlier_turns_are_left_out_where_the_request_says_so(
    edit: dict[str, Any], kept: list[str]
) -> None:
    thoughts = [{"type": "thinking", "thinking": name, "signature": ""} for name in "abc"]
    turns = [{"role": "assistant", "content": [thought, {"type": "text", "text": "!"}]} for thought in thoughts]
    edits = [{"type": "clear_thinking_20251015"} | edit]
    body = {"messages": [*turns, *CAPITAL], "context_management": {"edits": edits}}
    chat = decode(json.dumps(body).encode(), MessagesRequest).chat()
    assert [m.reasoning_content for m in chat.messages if m.reasoning_content] == kept


def test_a_stream_that_is_silent_pings_in_anthropics_form(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    async def late(events: AsyncIterator[Any], default: Any) -> Any:
        await asyncio.sleep(0.02)
        return await anext(events, default)

    monkeypatch.setattr("edge_lfm.server.sse.PING_S", 0.01)
    monkeypatch.setattr("edge_lfm.server.sse.anext", late, raising=False)  # the model may answer sooner than that
    told = client.post(MESSAGES, json={**GREEDY, "messages": CAPITAL, "stream": True}).text
    assert 'event: ping\ndata: {"type":"ping"}\n\n' in told and ": ping\n" not in told.replace("event: ping", "")


def test_stop_sequences_end_the_answer_and_are_named(client: TestClient) -> None:
    told = ask(client, stop_sequences=["xyz", " is"])
    assert (text_of(told), told["stop_reason"], told["stop_sequence"]) == (
        "The capital of France", "stop_sequence", " is"
    )  # fmt: skip
    assert ask(client, max_tokens=3)["stop_reason"] == "max_tokens"


def test_choices_of_tools(client: TestClient) -> None:
    tools = [OTHER, TOOL]
    for name in ("get_time", "get_weather"):
        (call,) = ask(client, tools=tools, tool_choice={"type": "tool", "name": name})["content"]
        assert call["name"] == name
    none = ask(client, tools=tools, tool_choice={"type": "none"})
    assert text_of(none) == PARIS and none["usage"] == ask(client)["usage"] | none["usage"]
    alone = {"type": "any", "disable_parallel_tool_use": True}
    both = [{"role": "user", "content": "Weather in Paris, weather in Rome, weather in Oslo?"}]
    assert len(ask(client, messages=both, tools=tools, tool_choice=alone, max_tokens=200)["content"]) == 1


def test_formats_bind_the_answer(client: TestClient) -> None:
    short = {"properties": {"city": {"type": "string", "maxLength": 8}}, "additionalProperties": False}
    form: dict[str, Any] = {"type": "json_schema", "schema": CITY | short}
    for fields in ({"output_config": {"format": form}}, {"output_format": form}):
        jsonschema.validate(json.loads(text_of(ask(client, **fields))), form["schema"])
    assert "bind the answer in several ways" in refusal(client, output_config={"format": form}, output_format=form)


def test_thoughts_are_blocks(demo: dict[str, Path], tmp_path: Path) -> None:
    """A prompt that opens the reasoning: told as a block of its own, or left out; bounded, or none."""
    folder = shutil.copytree(demo["int4"], tmp_path / "thinker")
    tokenizer, template = folder / "tokenizer.json", folder / "chat_template.jinja"
    known = tokenizer.read_text(encoding="utf-8")
    for other, mark in (("<|fim_pre|>", "<think>"), ("<|fim_mid|>", "</think>")):
        known = known.replace(other, mark)
    tokenizer.write_text(known, encoding="utf-8")
    source = template.read_text(encoding="utf-8")
    template.write_text(source + "{%- if add_generation_prompt %}{{ '<think>' }}{% endif %}", encoding="utf-8")
    settings = Settings(load=LoadOptions(folder, threads=1, context=512))
    with TestClient(make_app(settings), base_url="http://127.0.0.1") as thinking:
        budget, least = {"type": "enabled", "budget_tokens": 3}, {"min_tokens": 12}
        told = ask(thinking, thinking=budget, **least)
        thought, answer = told["content"]
        assert thought["type"] == "thinking" and thought["thinking"] and answer["type"] == "text"
        assert ask(thinking, thinking=budget | {"display": "omitted"}, **least)["content"] == [answer]
        assert all(
            block["type"] == "text" for block in ask(thinking, thinking={"type": "disabled"}, **least)["content"]
        )
        body = {**GREEDY, **least, "messages": CAPITAL, "thinking": budget, "stream": True}
        lines = thinking.post(MESSAGES, json=body).text.splitlines()
        events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
        begun = [e["content_block"]["type"] for e in events if e["type"] == "content_block_start"]
        assert begun == ["thinking", "text"]
        thoughts = "".join(e["delta"].get("thinking", "") for e in events if e["type"] == "content_block_delta")
        assert thoughts == thought["thinking"]


THOUGHT = {"type": "thinking", "thinking": "x"}
REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("max_tokens", {"max_tokens": 0}),
    ("temprature", {"temprature": 1}),
    ("container", {"container": "c"}),
    ("mcp_servers", {"mcp_servers": [{"url": "x"}]}),
    ("context_management.edits[0]: edits of type 'x'", {"context_management": {"edits": [{"type": "x"}]}}),
    (
        "context_management.edits[0].keep",
        {"context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": {"type": "thinking_turns"}}]}},
    ),
    (
        "context_management.edits[0].trigger",
        {"context_management": {"edits": [{"type": "clear_thinking_20251015", "trigger": {"value": 3}}]}},
    ),
    ("output_config.effort", {"output_config": {"effort": "low"}}),
    ("output_config.effort", {"output_config": {"effort": "max"}}),
    ("speed", {"speed": "fast"}),
    ("thinking", {"thinking": {"type": "enabled"}}),
    ("thinking.type", {"thinking": {"type": "between_tools"}}),
    ("tools[0]", {"tools": [{"type": "web_search_20250305", "name": "web_search", "max_uses": 5}]}),
    ("tools[0].input_examples", {"tools": [TOOL | {"input_examples": [{"city": "x"}]}]}),
    ("tools[0]: a tool has no input_schema", {"tools": [{"name": "f"}]}),
    ("tool_choice", {"tools": [TOOL], "tool_choice": {"type": "tool", "name": "none_such"}}),
    ("tool_choice", {"tools": [TOOL], "tool_choice": {"type": "tool"}}),
    ("messages", {"messages": []}),
    ("messages", {"messages": [*CAPITAL, {"role": "assistant", "content": "The"}]}),
    ("messages[0].role", {"messages": [{"role": "tool", "content": "x"}]}),
    (
        "messages[0].content[0].type",
        {"messages": [{"role": "user", "content": [{"type": "thinking", "thinking": "x"}]}]},
    ),
    ("'document'", {"messages": [{"role": "user", "content": [{"type": "document", "source": {}}]}]}),
    ("system[0].type", {"system": [THOUGHT]}),
]


@pytest.mark.parametrize(("named", "fields"), REFUSED, ids=range(len(REFUSED)))
def test_what_is_not_here_is_refused_by_its_name(client: TestClient, named: str, fields: dict[str, Any]) -> None:
    assert named in refusal(client, **fields)


def test_what_changes_nothing_is_taken(client: TestClient) -> None:
    extra = {
        "metadata": {"user_id": "u"},
        "service_tier": "auto",
        "cache_control": {"type": "ephemeral"},
        "thinking": {"type": "adaptive"},
        "output_config": {"effort": "medium"},
        "speed": "standard",
        "tools": [],
        "mcp_servers": [],
        "container": None,
        "inference_geo": "eu",
    }
    plain = ask(client)
    assert ask(client, **extra)["content"] == plain["content"]
    assert ask(client, output_config={"effort": "high"}) | {"id": ""} == plain | {"id": ""}, "what none means there"


def test_errors_that_no_route_makes_have_the_same_form(client: TestClient) -> None:
    for answer, kind in (
        (client.get(MESSAGES), "invalid_request_error"),
        (client.post(MESSAGES, content=b"{", headers={"content-type": "application/json"}), "invalid_request_error"),
        (client.post(MESSAGES, content=b"{}", headers={"content-type": "text/plain"}), "invalid_request_error"),
        (client.post(MESSAGES, json={}, headers={"host": "evil.example"}), "permission_error"),
        (client.post(MESSAGES + "/none", json={}), "not_found_error"),
    ):
        assert answer.json()["type"] == "error" and answer.json()["error"]["type"] == kind, answer.text
