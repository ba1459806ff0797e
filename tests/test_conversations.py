"""Conversations as clients send them: turns without content, thoughts that stay, what is told of each token."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from edge_lfm import Completion, Model, ToolCall
from edge_lfm.api.session import _answer_of
from edge_lfm.engine.generate import Timings
from edge_lfm.errors import CheckError, GrammarError
from edge_lfm.server.responses import _read_input

USER = {"role": "user", "content": "Hi"}
CALL = {"function": {"name": "f", "arguments": "{}"}, "id": "1", "type": "function"}


def post(address: str, path: str, **body: Any) -> Any:
    answer = httpx.post(f"{address}/v1/{path}", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()


TURNS: dict[str, list[dict[str, Any]]] = {
    "null": [USER, {"role": "assistant", "content": None}, USER],
    "missing": [USER, {"role": "assistant"}, USER],
    "no calls": [USER, {"role": "assistant", "content": None, "tool_calls": []}, USER],
    "reasoning only": [USER, {"role": "assistant", "content": None, "reasoning_content": "hm"}, USER],
    "a refusal": [USER, {"role": "assistant", "content": None, "refusal": "No."}, USER],
    "a refusal part": [USER, {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}, USER],
    "a result of nothing": [USER, {"role": "assistant", "tool_calls": [CALL]}, {"role": "tool", "content": None}],
}


@pytest.mark.parametrize("name", TURNS)
def test_turns_without_content_are_taken(address: str, name: str) -> None:
    answer = post(address, "chat/completions", messages=TURNS[name], max_tokens=4)
    if "refusal" in name:
        said = [USER, {"role": "assistant", "content": "No."}, USER]
        assert (
            answer["usage"]["prompt_tokens"]
            == post(address, "chat/completions", messages=said, max_tokens=1)["usage"]["prompt_tokens"]
        )


def test_thoughts_stay_between_a_call_and_its_result() -> None:
    call = ToolCall("get_weather", {"city": "Oslo"})
    answer = Completion("", (), "tool_calls", Timings(), reasoning="I need it.", tool_calls=(call,))
    assert _answer_of(answer)["thinking"] == "I need it."
    thoughts: dict[str, Any] = {"type": "reasoning", "id": "rs_1", "summary": []}
    made = {"type": "function_call", "call_id": "1", "name": "get_weather", "arguments": "{}"}
    result = {"type": "function_call_output", "call_id": "1", "output": [{"type": "input_text", "text": "3 degrees"}]}
    for where in ("content", "summary"):
        told = {**thoughts, where: [{"type": f"{where}_text".replace("content", "reasoning"), "text": "I need it."}]}
        messages = _read_input([USER, told, made, made, result])
        assert [m["role"] for m in messages] == ["user", "assistant", "tool"] and len(messages[1]["tool_calls"]) == 2
        assert messages[1]["thinking"] == "I need it." and messages[2]["content"] == "3 degrees"


def test_responses_take_what_clients_send_back(address: str) -> None:
    first = post(address, "responses", input="My name is Anna.", max_output_tokens=12)
    reference = {"type": "item_reference", "id": first["output"][0]["id"]}
    said = {"type": "message", "role": "assistant", "content": first["output"][0]["content"]}
    counts = [
        post(address, "responses", input=[USER, item, USER], max_output_tokens=4)["usage"]["input_tokens"]
        for item in (reference, said)
    ]
    assert counts[0] == counts[1]
    unknown = httpx.post(f"{address}/v1/responses", json={"input": [{"type": "item_reference", "id": "msg_0"}]})
    assert unknown.status_code == 400 and unknown.json()["error"]["param"] == "input[0].id"


def test_some_of_the_tools_may_be_allowed(address: str) -> None:
    tools = [{"type": "function", "function": {"name": name, "parameters": {}}} for name in ("f", "g")]
    named = [{"type": "function", "function": {"name": "g"}}]
    choice = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": named}}
    answer = post(address, "chat/completions", messages=[USER], tools=tools, tool_choice=choice)
    assert {c["function"]["name"] for c in answer["choices"][0]["message"]["tool_calls"]} == {"g"}
    named[0]["function"] = {"name": "h"}
    body = {"messages": [USER], "tools": tools, "tool_choice": choice}
    assert httpx.post(f"{address}/v1/chat/completions", json=body).json()["error"]["param"] == "tool_choice"


WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOLD: dict[str, dict[str, Any]] = {
    "plain": {"messages": [{"role": "user", "content": "What is the capital of France?"}]},
    "a stop string": {"messages": [{"role": "user", "content": "What is the capital of France?"}], "stop": ["is Par"]},
    "a call": {
        "messages": [{"role": "user", "content": "What is the weather in Paris?"}],
        "tools": [{"type": "function", "function": {"name": "get_weather", "parameters": WEATHER}}],
    },
    "half a character": {"messages": [USER], "logit_bias": {}, "max_tokens": 3},
}


@pytest.mark.parametrize("name", TOLD)
def test_log_probabilities_are_those_of_the_text_streamed_or_not(address: str, name: str, model: Model) -> None:
    body = {"temperature": 0, "logprobs": True, "max_tokens": 60} | TOLD[name]
    if name == "half a character":
        body["logit_bias"] = {str(model.tokenizer.encode("🙂")[0]): 100}
    choice = post(address, "chat/completions", **body)["choices"][0]
    whole = choice["logprobs"]["content"]
    lines = httpx.post(f"{address}/v1/chat/completions", json=body | {"stream": True}, timeout=60).text.splitlines()
    chunks = [c for line in lines if line.startswith("data: {") for c in json.loads(line[6:])["choices"]]
    assert [t for c in chunks if c["logprobs"] for t in c["logprobs"]["content"]] == whole
    text, shown = choice["message"]["content"] or "", b"".join(bytes(t["bytes"]) for t in whole)
    assert shown.decode("utf-8", "replace").startswith(text)
    assert not text or len(shown) - len(bytes(whole[-1]["bytes"])) < len(text.encode())


@pytest.mark.parametrize("prompt", ["I \U0001f600 like it", "naïve café au lait", "日本語", "plain"])
def test_text_offsets_are_places_in_the_text(address: str, prompt: str) -> None:
    body = {"prompt": prompt, "max_tokens": 5, "temperature": 0, "logprobs": 0, "echo": True}
    choice = post(address, "completions", **body)["choices"][0]
    told = choice["logprobs"]
    for token, offset in zip(told["tokens"], told["text_offset"], strict=True):
        whole = not token.startswith(("bytes:", "<|"))
        assert not whole or choice["text"][offset : offset + len(token)] == token
    assert told["text_offset"] == sorted(told["text_offset"]) and told["text_offset"][-1] < len(choice["text"])


UNIQUE = {"type": "object", "properties": {"a": {"type": "array", "items": {"enum": [1]}, "minItems": 2, "maxItems": 2,
          "uniqueItems": True}}, "required": ["a"]}  # fmt: skip


def test_a_call_that_breaks_what_could_not_be_bound_is_asked_again(model: Model) -> None:
    """No pair of the only item is one of different items: after three answers that is told."""
    bad = {"name": "f", "parameters": UNIQUE}
    with pytest.raises(CheckError, match="uniqueItems"):
        model.generate("Go!", tools=[bad], tool_choice="required", max_tokens=40)
    streamed = model.stream("Go!", tools=[bad], tool_choice="required", max_tokens=40).result()
    assert not streamed.tool_calls and "uniqueItems" in streamed.problem and "[1, 1]" in streamed.text
    good = model.generate("Go!", tools=[bad, {"name": "g"}], tool_choice="g", max_tokens=40, parallel_tool_calls=False)
    assert good.tool_calls == (ToolCall("g", {}),)
    with pytest.raises(GrammarError, match="tool f"):
        model.stream("Go!", tools=[{**bad, "strict": True}, {"name": "g"}])


def test_every_route_asks_again_for_a_call_that_breaks_its_schema(address: str) -> None:
    """Three answers, each with what was wrong with those before it; a stream has told its first, and ends."""
    function = {"name": "f", "parameters": UNIQUE}
    chat = {"messages": [USER], "tools": [{"type": "function", "function": function}], "tool_choice": "required"}
    responses = {"input": "Hi", "tools": [{"type": "function", **function}], "tool_choice": "required"}
    for path, body in (("chat/completions", chat), ("responses", responses)):
        before = count_of(address)
        answer = httpx.post(f"{address}/v1/{path}", json=body, timeout=60)
        assert answer.status_code == CheckError.http_status, answer.text
        assert answer.json()["error"]["message"].startswith("after 3 tries: f: ")
        assert count_of(address) == before + 3
        streamed = httpx.post(f"{address}/v1/{path}", json=body | {"stream": True}, timeout=60)
        assert "[1, 1]" in streamed.text and count_of(address) == before + 4


def count_of(address: str) -> int:
    """Answers that a server has ended."""
    text = httpx.get(f"{address}/metrics").text
    lines = [line for line in text.splitlines() if line.startswith("edge_lfm_requests_total")]
    return int(sum(float(line.rpartition(" ")[2]) for line in lines))


@pytest.mark.parametrize("options", [{}, {"choices": ["a", "b"]}, {"repeat_penalty": 1.2}])
def test_a_temperature_of_almost_nothing_is_none(model: Model, options: dict[str, Any]) -> None:
    right = model.generate("Hi", max_tokens=6, temperature=0, **options).text
    for temperature in (5e-324, 1e-300, 1e-9):
        assert model.generate("Hi", max_tokens=6, temperature=temperature, seed=1, **options).text == right
