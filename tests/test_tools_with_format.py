"""Tools and a form in one request: calls that fit their schemas, or text that fits the form; never anything else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from starlette.testclient import TestClient

from edge_lfm.api import Completion, LoadOptions, Model
from edge_lfm.engine.constraints import CallsOr, InCalls
from edge_lfm.errors import UsageError
from edge_lfm.server.app import make_app
from edge_lfm.server.settings import Settings

WEATHER, CAPITAL = "What is the weather in Paris?", "What is the capital of France?"
FORM = {
    "type": "object",
    "properties": {"answer": {"type": "string", "maxLength": 8}},
    "required": ["answer"],
    "additionalProperties": False,
}
CITY = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 12}}, "required": ["city"]}
TOOL = {"name": "get_weather", "description": "The weather in a city.", "parameters": CITY}


class Counted:
    """A constraint that allows one token after the other, and hears which came."""

    def __init__(self, tokens: list[int], vocab: int = 8) -> None:
        self.left, self.vocab = list(tokens), vocab

    @property
    def ended(self) -> bool:
        return not self.left

    def allowed(self) -> np.ndarray:
        return np.arange(self.vocab) == self.left[0]

    def accept(self, token: int) -> None:
        assert token == self.left.pop(0)

    def forced(self, limit: int) -> list[int]:
        taken, self.left = self.left[:limit], self.left[limit:]
        return taken


def either() -> CallsOr:
    """Calls: 5, then 1 2; or the form 3 4."""
    return CallsOr(InCalls(lambda: Counted([1, 2]), 5, 8, required=True), Counted([3, 4]), 5)


def test_the_first_token_decides() -> None:
    made = either()
    assert np.flatnonzero(made.allowed()).tolist() == [3, 5] and not made.ended and made.forced(9) == []
    for token, left in ((5, [1]), (1, [2])):
        made.accept(token)
        assert np.flatnonzero(made.allowed()).tolist() == left
    made.accept(2)
    assert made.ended
    made = either()
    made.accept(3)
    assert np.flatnonzero(made.allowed()).tolist() == [4] and made.forced(9) == [4] and made.ended


def check(answer: Completion) -> str:
    """What an answer is, if it is one or the other."""
    if answer.tool_calls:
        assert answer.text == "" and answer.finish_reason == "tool_calls"
        for call in answer.tool_calls:
            assert call.name == "get_weather"
            jsonschema.validate(call.arguments, CITY)
        return "calls"
    assert answer.finish_reason == "stop"
    jsonschema.validate(json.loads(answer.text), FORM)
    return "text"


def test_answers_are_one_or_the_other(model: Model) -> None:
    asked: dict[str, Any] = {"tools": [TOOL], "schema": FORM, "max_tokens": 200}
    assert check(model.generate(WEATHER, **asked, temperature=0)) == "calls"
    assert model.tokenizer is not None
    start = model.tokenizer.special_id("<|tool_call_start|>")
    never, found = {start: -100.0}, set()
    for seed in range(6):
        found.add(check(model.generate(CAPITAL, **asked, temperature=2.5, seed=seed)))
        found.add(check(model.generate(CAPITAL, **asked, temperature=2.5, seed=seed, logit_bias=never)))
    assert found == {"calls", "text"}
    assert check(model.generate(CAPITAL, **asked, temperature=0, tool_choice="required")) == "calls"
    assert check(model.generate(WEATHER, **asked, temperature=0, tool_choice="none")) == "text"


def test_a_form_that_begins_like_a_call_stays_text(model: Model) -> None:
    """Beside a form only the mark begins calls."""
    likeness = '[get_weather(city="Paris")]'
    assert model.tokenizer is not None
    never = {model.tokenizer.special_id("<|tool_call_start|>"): -100.0}
    answer = model.generate(WEATHER, tools=[TOOL], choices=[likeness], temperature=0, logit_bias=never)
    assert (answer.text, answer.tool_calls, answer.finish_reason) == (likeness, (), "stop")


def test_a_model_without_marks_of_calls_refuses_both(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    assert model.tokenizer is not None
    monkeypatch.setattr(type(model.tokenizer), "special_id", lambda _self, _text: None)
    with pytest.raises(UsageError, match="tools beside a grammar"):
        model.generate(WEATHER, tools=[TOOL], schema=FORM)


@pytest.fixture(scope="module")
def client(demo: dict[str, Path]) -> Iterator[TestClient]:
    settings = Settings(load=LoadOptions(demo["int4"], threads=1, context=512))
    with TestClient(make_app(settings), base_url="http://127.0.0.1") as made:
        yield made


def test_every_interface_takes_both(client: TestClient) -> None:
    (start,) = client.post("/tokenize", json={"content": "<|tool_call_start|>"}).json()["tokens"]
    turns, function = [{"role": "user", "content": WEATHER}], {"type": "function", "function": TOOL}
    form = {"type": "json_schema", "json_schema": {"name": "f", "schema": FORM}}
    responses = {"input": WEATHER, "tools": [{"type": "function", **TOOL}]}
    responses |= {"text": {"format": {"type": "json_schema", "name": "f", "schema": FORM}}}
    anthropic = {"messages": turns, "tools": [{"name": TOOL["name"], "input_schema": CITY}]}
    bodies: dict[str, dict[str, Any]] = {
        "/v1/chat/completions": {"messages": turns, "tools": [function], "response_format": form},
        "/v1/responses": responses,
        "/v1/messages": anthropic | {"output_config": {"format": {"type": "json_schema", "schema": FORM}}},
    }
    for path, body in bodies.items():
        for bias in ({}, {"logit_bias": {str(start): -100}}):
            answer = client.post(path, json={**body, "temperature": 0, **bias})
            assert answer.status_code == 200, answer.text
            told = answer.json()
            if "choices" in told:
                message = told["choices"][0]["message"]
                kinds, text = {"text" if message["content"] else "tool_calls"}, message["content"]
                assert ("tool_calls" in message) == (kinds == {"tool_calls"})
            else:
                blocks = told.get("output") or told["content"]
                kinds = {block["type"] for block in blocks}
                text = blocks[0].get("text") or (blocks[0].get("content") or [{}])[0].get("text")
            assert len(kinds) == 1 and bool(text) == bool(bias)
            if bias:
                jsonschema.validate(json.loads(text), FORM)
