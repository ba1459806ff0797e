"""Every field of a request: honoured, taken because it changes nothing, or refused by its name; of whatever type."""

from __future__ import annotations

import copy
import functools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from edge_lfm.api import LoadOptions
from edge_lfm.server.app import make_app
from edge_lfm.server.settings import Settings

CAPITAL = [{"role": "user", "content": "What is the capital of France?"}]
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 8}},
    "required": ["city"],
    "additionalProperties": False,
}
CHAT, COMPLETIONS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
BASES: dict[str, dict[str, Any]] = {
    CHAT: {"messages": CAPITAL, "max_tokens": 40, "temperature": 0},
    COMPLETIONS: {"prompt": "The capital of France is", "max_tokens": 40, "temperature": 0},
    RESPONSES: {"input": "What is the capital of France?", "max_output_tokens": 40, "temperature": 0},
}


@pytest.fixture(scope="module")
def client(demo: dict[str, Path]) -> Iterator[TestClient]:
    options = Settings(load=LoadOptions(demo["int4"], threads=1, context=512))
    with TestClient(make_app(options), base_url="http://127.0.0.1", raise_server_exceptions=False) as made:
        yield made


def text_of(told: dict[str, Any]) -> str:
    if "output" in told:
        return "".join(part["text"] for item in told["output"] for part in item["content"])
    choice = told["choices"][0]
    return choice["text"] if "text" in choice else choice["message"]["content"]


def is_city(text: str) -> bool:
    told = json.loads(text)
    return set(told) == {"city"} and isinstance(told["city"], str) and len(told["city"]) <= 8


def is_number(text: str) -> bool:
    return re.fullmatch("[0-9]{3}", text) is not None


def is_choice(text: str) -> bool:
    return text in ("yes", "no")


LARK = 'start: "yes" | "no"'
BOUND = [
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "c", "schema": SCHEMA}}}, is_city),
    ({"response_format": {"type": "json_schema", "schema": SCHEMA}}, is_city),
    ({"response_format": {"type": "json_object", "schema": SCHEMA}}, is_city),
    ({"response_format": {"type": "json", "value": SCHEMA}}, is_city),
    ({"response_format": {"type": "regex", "regex": "[0-9]{3}"}}, is_number),
    ({"response_format": {"type": "regex", "value": "[0-9]{3}"}}, is_number),
    ({"guided_json": SCHEMA}, is_city),
    ({"guided_json": json.dumps(SCHEMA)}, is_city),
    ({"guided_regex": "[0-9]{3}"}, is_number),
    ({"guided_choice": ["yes", "no"]}, is_choice),
    ({"guided_grammar": LARK}, is_choice),
    ({"structured_outputs": {"json": SCHEMA}}, is_city),
    ({"structured_outputs": {"regex": "[0-9]{3}"}}, is_number),
    ({"structured_outputs": {"choice": ["yes", "no"]}}, is_choice),
    ({"structured_outputs": {"grammar": LARK}}, is_choice),
    ({"json_schema": SCHEMA}, is_city),
    ({"json_schema": json.dumps(SCHEMA)}, is_city),
    ({"grammar": LARK}, is_choice),
    ({"grammar": {"type": "json", "value": SCHEMA}}, is_city),
    ({"regex": "[0-9]{3}"}, is_number),
]


@pytest.mark.parametrize("path", BASES)
@pytest.mark.parametrize(("fields", "follows"), BOUND, ids=range(len(BOUND)))
def test_forms_under_every_name_bind_the_answer(
    client: TestClient, path: str, fields: dict[str, Any], follows: Any
) -> None:
    answer = client.post(path, json=BASES[path] | fields)
    assert answer.status_code == 200, answer.text
    assert follows(text_of(answer.json())), text_of(answer.json())


REFUSED: dict[str, list[Any]] = {
    "grammar": ['root ::= "yes"'],
    "ebnf": ['root ::= "yes"'],
    "guided_grammar": ['root ::= "yes"'],
    "structured_outputs": [
        {"structural_tag": "{}"},
        {"json": SCHEMA, "whitespace_pattern": " "},
        {"grammar": "a ::= b"},
    ],
    "guided_whitespace_pattern": [" "],
    "json_schema": ["{", {"type": 5}, {"required": "ab"}],
    "min_tokens": [41, -1],
    "min_new_tokens": ["x"],
    "stop_token_ids": [[10**6], ["x"], list(range(300))],
    "bad_words": [[[5]], [""], "Paris"],
    "bad_words_ids": [[[5]]],
    "ignore_eos": [1],
    "mirostat": [2],
    "typical_p": [0.1],
    "top_n_sigma": [1.0],
    "tfs_z": [0.5],
    "top_a": [0.1],
    "allowed_token_ids": [[5]],
    "chat_template_kwargs": [{"enable_thinking": False}],
    "continue_final_message": [True],
    "chat_template": ["x"],
    "add_generation_prompt": [False],
    "reasoning_effort": ["high"],
    "verbosity": ["low"],
    "use_beam_search": [True],
    "length_penalty": [2.0],
    "no_repeat_ngram_size": [3],
    "dynatemp_range": [0.5],
    "n_keep": [5],
    "samplers": [["top_k"]],
    "logits_processors": [["x"]],
    "prompt_logprobs": [1],
    "truncate_prompt_tokens": [5],
    "skip_special_tokens": [False],
    "stop_regex": ["x"],
    "lora": [[{"id": 0}]],
    "web_search_options": [{}],
    "functions": [[{"name": "f"}]],
    "function_call": [{"name": "f"}],
    "temprature": [0.3],
    "repeat_last_n": [64],
    "json_mode": [True],
    "schema": [SCHEMA],
}
ONLY: dict[str, dict[str, list[Any]]] = {
    CHAT: {
        "modalities": [["audio"]],
        "audio": [{"voice": "x"}],
        "echo": [True],
        "prompt": ["x"],
        "suffix": ["x"],
        "messages": [[{"role": "assistant", "content": "Par", "prefix": True}]],
        "best_of": [2],
    },
    COMPLETIONS: {
        "tools": [[{"type": "function", "function": {"name": "f"}}]],
        "truncation": ["auto"],
        "top_logprobs": [2],
        "best_of": [2],
        "messages": [CAPITAL],
        "documents": [["x"]],
    },
    RESPONSES: {
        "prompt": [{"id": "pmpt_1"}],
        "stop": [["Paris"]],
        "background": [True],
        "conversation": ["c"],
        "n": [2],
        "max_tool_calls": [1],
        "top_logprobs": [2],
        "reasoning": [{"effort": "high"}],
        "max_tokens": [3],
        "text": [{"verbosity": "low"}, {"format": {"type": "x"}}, {"shape": "x"}],
    },
}


@pytest.mark.parametrize("path", BASES)
def test_what_would_change_the_answer_is_refused_by_its_name(client: TestClient, path: str) -> None:
    for field, values in {**REFUSED, **ONLY[path]}.items():
        for value in values:
            answer = client.post(path, json=BASES[path] | {field: value})
            assert answer.status_code == 400, (field, value, answer.text)
            error = answer.json()["error"]
            assert field in f"{error['param']} {error['message']}", (field, error)


TAKEN = {
    "user": "u",
    "store": False,
    "service_tier": "auto",
    "safety_identifier": "s",
    "prompt_cache_key": "k",
    "metadata": {"a": "b"},
    "cache_prompt": True,
    "id_slot": -1,
    "min_tokens": 0,
    "typical_p": 1,
    "mirostat": 0,
    "mirostat_tau": 5.0,
    "ignore_eos": False,
    "stop_token_ids": [],
    "bad_words": [],
    "use_beam_search": False,
    "skip_special_tokens": True,
    "guided_json": None,
    "grammar": None,
    "response_format": {"type": "text"},
    "logprobs": None,
    "reasoning_effort": "medium",
    "length_penalty": 1.0,
    "top_n_sigma": -1,
    "something_new": None,
}


@pytest.mark.parametrize("path", BASES)
def test_what_changes_nothing_is_taken(client: TestClient, path: str) -> None:
    plain = text_of(client.post(path, json=BASES[path]).json())
    answer = client.post(path, json=BASES[path] | TAKEN)
    assert answer.status_code == 200, answer.text
    assert text_of(answer.json()) == plain


def test_other_servers_names_for_the_limit(client: TestClient) -> None:
    for path in (CHAT, COMPLETIONS):
        base = {k: v for k, v in BASES[path].items() if k != "max_tokens"}
        for name in ("max_tokens", "n_predict", "max_new_tokens"):
            told = client.post(path, json=base | {name: 2}).json()
            assert told["usage"]["completion_tokens"] == 2
        assert client.post(path, json=base | {"n_predict": -1}).json()["usage"]["completion_tokens"] > 2


def test_several_forms_exclude_each_other(client: TestClient) -> None:
    for path, base in BASES.items():
        for others in ({"regex": "a"}, {"response_format": {"type": "json_object"}}, {"guided_choice": ["a"]}):
            answer = client.post(path, json=base | {"json_schema": SCHEMA} | others)
            assert answer.status_code == 400 and "bind" in answer.json()["error"]["message"]


WHOLE: dict[str, dict[str, Any]] = {
    CHAT: {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Hi"}], "name": "n"},
            {
                "role": "assistant",
                "content": "",
                "reasoning_content": "hm",
                "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}],
            },
            {"role": "tool", "tool_call_id": "1", "content": "2"},
        ],
        "tools": [
            {
                "type": "function",
                "function": {
                    "name": "f",
                    "description": "d",
                    "strict": True,
                    "parameters": {
                        "type": "object",
                        "properties": {"a": {"type": "integer", "enum": [1, 2]}, "b": {"anyOf": [{"type": "string"}]}},
                        "required": ["a"],
                        "$defs": {"x": {"type": "string"}},
                    },
                },
            }
        ],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "stop": ["x"],
        "logit_bias": {"5": 1.5},
        "stream_options": {"include_usage": True},
        "max_tokens": 2,
        "documents": [{"id": "a", "title": "t", "text": "x"}],
        "metadata": {"a": "b"},
        "n": 1,
        "logprobs": True,
        "top_logprobs": 1,
        "reasoning_budget": 1,
        "chat_template_kwargs": {},
    },
    "/v1/chat/completions?form": {
        "messages": CAPITAL,
        "max_tokens": 2,
        "logprobs": True,
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": SCHEMA}},
    },
    "/v1/chat/completions?choice": {
        "messages": CAPITAL,
        "max_tokens": 2,
        "logprobs": True,
        "response_format": {"type": "choice", "choices": ["yes", "no"]},
    },
    "/v1/chat/completions?csv": {
        "messages": CAPITAL,
        "max_tokens": 2,
        "response_format": {"type": "csv", "columns": {"a": "text", "b": ["x", "y"]}},
    },
    "/v1/chat/completions?xml": {
        "messages": CAPITAL,
        "max_tokens": 2,
        "response_format": {"type": "xml", "tree": {"a": {"b": "text", "c*": ["x"]}}},
    },
    COMPLETIONS: {
        "prompt": [[5, 6], [7]],
        "max_tokens": 2,
        "stop": ["x"],
        "logprobs": 1,
        "n": 2,
        "guided_json": SCHEMA,
    },
    RESPONSES: {
        "input": [
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
            {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "1", "output": [{"type": "input_text", "text": "x"}]},
            {"type": "reasoning", "summary": []},
        ],
        "instructions": "i",
        "max_output_tokens": 2,
        "metadata": {"a": "b"},
        "text": {"format": {"type": "text"}},
        "tools": [{"type": "function", "name": "f", "parameters": {"type": "object", "properties": {"a": {}}}}],
        "tool_choice": {"type": "function", "name": "f"},
        "reasoning": {"effort": "medium"},
        "chat_template_kwargs": {},
    },
    "/tokenize": {"messages": CAPITAL, "add_special": True},
    "/detokenize": {"tokens": [5, 6]},
    "/apply-template": {
        "messages": CAPITAL,
        "tools": [{"function": {"name": "f", "parameters": {"properties": {"a": {}}}}}],
        "chat_template_kwargs": {},
    },
}
WRONG = [None, True, -1, 10**30, 1.5, "x", "", "\ud83d", [], [[]], [5], ["x"], {}, {"x": {}}, {"type": []}, [{}]]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The places of all values inside a body."""
    if path:
        yield path
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from places(value[key], (*path, key))


def with_value(body: Any, path: tuple[Any, ...], value: Any) -> Any:
    changed = copy.deepcopy(body)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return changed


@pytest.mark.slow
@pytest.mark.parametrize("path", WHOLE)
def test_no_wrong_type_anywhere_is_an_internal_error(client: TestClient, path: str) -> None:
    body, route = WHOLE[path], path.partition("?")[0]
    headers = {"content-type": "application/json"}
    assert client.post(route, json=body).status_code == 200, client.post(route, json=body).text
    for place in places(body):
        for value in WRONG:
            changed = with_value(body, place, value)
            answer = client.post(route, content=json.dumps(changed).encode(), headers=headers)
            assert answer.status_code in (200, 400, 404), (place, value, answer.text)
            if answer.status_code != 200:
                assert answer.json()["error"]["message"]


@pytest.mark.parametrize("path", BASES)
def test_where_an_answer_may_end(client: TestClient, path: str) -> None:
    """Under every server's name, on every route, whole and streamed."""
    plain = text_of(client.post(path, json=BASES[path]).json())
    for fields in (
        {"min_tokens": 40},
        {"min_new_tokens": 40},
        {"ignore_eos": True},
        {"ignore_eos_token": True, "min_tokens": 0},
    ):
        answer = client.post(path, json=BASES[path] | fields).json()
        usage = answer["usage"]
        assert usage.get("completion_tokens", usage.get("output_tokens")) == 40, (fields, answer)
        assert text_of(answer).startswith(plain)
    ids = client.post("/tokenize", json={"content": plain}).json()["tokens"]
    cut = text_of(client.post(path, json=BASES[path] | {"stop_token_ids": [ids[2]]}).json())
    assert cut == client.post("/detokenize", json={"tokens": ids[:2]}).json()["content"]
    bad = plain.split()[-1].strip(".")
    without = text_of(client.post(path, json=BASES[path] | {"bad_words": [bad], "min_tokens": 30}).json())
    assert bad not in without and without != plain
    refused = client.post(path, json=BASES[path] | {"min_tokens": 3, "min_new_tokens": 4})
    assert refused.status_code == 400 and refused.json()["error"]["param"] == "min_tokens"


def test_where_each_of_several_answers_may_end(client: TestClient) -> None:
    """Of several choices each has its own count; streams tell the same texts."""
    fields = {"n": 3, "seed": 5, "temperature": 1.0, "min_tokens": 12, "max_tokens": 20, "bad_words": ["Paris"]}
    body = BASES[CHAT] | fields
    whole = [choice["message"]["content"] for choice in client.post(CHAT, json=body).json()["choices"]]
    alone = [text_of(client.post(CHAT, json=body | {"n": 1, "seed": 5 + n}).json()) for n in range(3)]
    streamed = ["", "", ""]
    for line in client.post(CHAT, json=body | {"stream": True}).text.splitlines():
        if line.startswith("data: {"):
            for choice in json.loads(line[6:])["choices"]:
                streamed[choice["index"]] += choice["delta"].get("content") or ""
    assert whole == alone == streamed


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.sampled_from(["auto", "none", "function", "json_schema", "text", "assistant", "tool", "$ref", "#", "^(a+)+$"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.text(max_size=5)
            | st.sampled_from(
                ["type", "name", "content", "function", "schema", "role", "text", "parameters", "arguments"]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)


@pytest.mark.slow
@pytest.mark.parametrize("path", WHOLE)
@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_no_mutated_body_is_an_internal_error(client: TestClient, path: str, data: st.DataObject) -> None:
    """One to three places of a body hold any JSON, are left out, or have a field more."""
    body = WHOLE[path]
    for _ in range(data.draw(st.integers(1, 3))):
        here = list(places(body))
        if not here:
            break
        place = data.draw(st.sampled_from(here))
        match data.draw(st.sampled_from(["other", "none", "more"])):
            case "other":
                body = with_value(body, place, data.draw(JSON_VALUES))
            case "none":
                body = without(body, place)
            case "more":
                inner = functools.reduce(lambda value, key: value[key], place, body)
                if isinstance(inner, dict):
                    body = with_value(body, (*place, data.draw(st.text(max_size=5))), data.draw(JSON_VALUES))
    content = json.dumps(body).encode("utf-8", "surrogatepass")
    answer = client.post(path.partition("?")[0], content=content, headers={"content-type": "application/json"})
    assert answer.status_code in (200, 400, 404, 413, 422), answer.text
    if answer.status_code != 200:
        error = answer.json()["error"]
        assert error["message"] and set(error) == {"message", "type", "param", "code"}
        assert error["code"] != "internal_error"


def without(body: Any, path: tuple[Any, ...]) -> Any:
    changed = copy.deepcopy(body)
    inner = functools.reduce(lambda value, key: value[key], path[:-1], changed)
    del inner[path[-1]]
    return changed


def test_two_texts_to_tokenize_exclude_each_other(client: TestClient) -> None:
    for body in ({"content": "a", "prompt": "b"}, {"content": "a", "messages": CAPITAL}):
        answer = client.post("/tokenize", json=body)
        assert answer.status_code == 400 and "give one" in answer.text
    assert client.post("/tokenize", json={"content": "a", "prompt": "a"}).status_code == 200


LONG = "word " * 3000
OUT_OF_RANGE: list[tuple[str, dict[str, Any], str]] = [
    (CHAT, {"temperature": 101}, "temperature"),
    (CHAT, {"top_p": 2}, "top_p"),
    (CHAT, {"repeat_penalty": 1000}, "repeat_penalty"),
    (COMPLETIONS, {"repetition_penalty": 1000}, "repetition_penalty"),
    (CHAT, {"logit_bias": {"5": 1000}}, "logit_bias"),
    (CHAT, {"stop": [""]}, "stop"),
    (CHAT, {"bad_words": [""]}, "bad_words"),
    (CHAT, {"stop_token_ids": [1 << 30]}, "stop_token_ids"),
    (CHAT, {"min_tokens": 50}, "min_tokens"),
    (COMPLETIONS, {"min_new_tokens": 50}, "min_new_tokens"),
    (CHAT, {"lookup": 1000}, "lookup"),
    (CHAT, {"guided_regex": "("}, "guided_regex"),
    (COMPLETIONS, {"response_format": {"type": "regex", "regex": "("}}, "response_format"),
    (RESPONSES, {"text": {"format": {"type": "regex", "regex": "("}}}, "text"),
    (CHAT, {"tools": [{"function": {"name": "f", "parameters": {"properties": {"a": {"type": "x"}}}}}]}, "tools"),
    (CHAT, {"tools": [{"function": {"name": "f"}}], "tool_choice": {"function": {"name": "g"}}}, "tool_choice"),
    (CHAT, {"chat_template_kwargs": {"thinking": True}}, "chat_template_kwargs"),
    (CHAT, {"documents": [{"id": "a", "text": "x"}, {"id": "a", "text": "y"}]}, "documents"),
    (CHAT, {"citations": True}, "citations"),
    (CHAT, {"messages": [{"role": "user", "content": LONG}]}, "messages"),
    (COMPLETIONS, {"prompt": LONG}, "prompt"),
    (COMPLETIONS, {"prompt": []}, "prompt"),
    (RESPONSES, {"input": LONG}, "input"),
]


@pytest.mark.parametrize(("path", "changes", "param"), OUT_OF_RANGE)
def test_what_is_out_of_range_is_named_in_param(
    client: TestClient, path: str, changes: dict[str, Any], param: str
) -> None:
    """Known to the engine only: the error names the client's own field, by which its library tells the user."""
    answer = client.post(path, json=BASES[path] | changes)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param, answer.text
