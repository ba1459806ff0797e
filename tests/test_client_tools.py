"""The forms of tools that the demo model is tested on are those that client libraries send: one function with one text
as its argument, recorded from each client of benchmarks/clients, in the order of its keys. Of agents, which have no
such function, the keys are those of a tool of theirs; the words are not."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edge_lfm.server.anthropic_input import AnthropicTool, _tool_of
from edge_lfm.server.tools import Tool as ServerTool

sys.path.insert(0, str(Path(__file__).parent.parent / "tools"))

from demo.tasks.client_tools import _KNOWN
from demo.tasks.tools import Tool

WEATHER = Tool("get_weather", "Get the weather in a city.", {"city": "place"}, (), {}, "")
HEAD = '{"type": "function", "function": {"name": "get_weather", "description": "Get the weather in a city.", '
BARE = '{"name": "get_weather", "description": "Get the weather in a city.", '
TITLED = '"parameters": {"properties": {"city": {"title": "City", "type": "string"}}, "required": ["city"], '
PLAIN = '"parameters": {"properties": {"city": {"type": "string"}}, "required": ["city"], "type": "object"'
DRAFT = "https://json-schema.org/draft/2020-12/schema"
RECORDED = {
    "openai-agents 0.24.0": '{"name": "get_weather", '
    + TITLED
    + '"title": "get_weather_args", "type": "object", "additionalProperties": false}, "strict": true, '
    '"type": "function", "description": "Get the weather in a city."}',
    "pydantic-ai 2.68.0": HEAD
    + '"parameters": {"additionalProperties": false, "properties": {"city": {"type": "string"}}, '
    '"required": ["city"], "type": "object"}, "strict": true}}',
    "langchain 1.7.4": HEAD + PLAIN + "}}}",
    "langchain 1.7.4, bound strictly": HEAD + PLAIN + ', "additionalProperties": false}, "strict": true}}',
    "llm 0.36": HEAD + PLAIN + "}}}",
    "haystack 3.4.1": HEAD + PLAIN + "}}}",
    "ai-sdk 6.0.326": HEAD + '"parameters": {"$schema": "http://json-schema.org/draft-07/schema#", "type": "object", '
    '"properties": {"city": {"type": "string"}}, "required": ["city"], "additionalProperties": false}}}',
    "ag2 1.2.1": HEAD + TITLED + '"type": "object", "additionalProperties": false}}}',
    "autogen 0.7.5": HEAD
    + '"parameters": {"type": "object", "properties": {"city": {"description": "city", "title": "City", '
    '"type": "string"}}, "required": ["city"], "additionalProperties": false}, "strict": true}}',
    "autogen 0.7.5, not bound strictly": HEAD
    + '"parameters": {"type": "object", "properties": {"city": {"description": "city", "title": "City", '
    '"type": "string"}}, "required": ["city"], "additionalProperties": false}, "strict": false}}',
    "llama-index 0.8.1": HEAD.replace('"Get', '"get_weather(city: str) -> str\\nGet')
    + TITLED
    + '"type": "object", "additionalProperties": false}, "strict": false}}',
    "smolagents 1.26.0": HEAD
    + '"parameters": {"type": "object", "properties": {"city": {"type": "string", "description": "the city"}}, '
    '"required": ["city"]}}}',
    "mcp 2.0": BARE
    + '"parameters": {"properties": {"city": {"title": "City", "type": "string"}}, "required": ["city"], '
    '"title": "get_weatherArguments", "type": "object"}}',
    "continue 1.5.47": HEAD + '"parameters": {"type": "object", "required": ["city"], "properties": {"city": '
    '{"type": "string", "description": "The city"}}}}}',
    "cline 3.0.65": HEAD + '"parameters": {"type": "object", "properties": {"city": {"type": "string", "description": '
    '"The city"}}, "required": ["city"], "additionalProperties": false}}}',
    "codex 0.171.0": '{"type": "function", "name": "get_weather", "description": "Get the weather in a city.", '
    '"strict": false, "parameters": {"type": "object", "properties": {"city": {"type": "string", "description": '
    '"The city."}}, "required": ["city"], "additionalProperties": false}}',
    "opencode 1.18.33": HEAD
    + f'"parameters": {{"$schema": "{DRAFT}", "type": "object", "properties": {{"city": {{"type": "string", '
    '"description": "The city"}}, "required": ["city"]}}}',
    "claude 2.1.197": BARE + f'"input_schema": {{"$schema": "{DRAFT}", "type": "object", "properties": {{"city": '
    '{"description": "The city", "type": "string"}}, "required": ["city"], "additionalProperties": false}}',
}


def as_told(sent: dict[str, Any]) -> dict[str, Any]:
    """A tool as a template is told it by the server."""
    if "input_schema" in sent:
        tool = _tool_of(msgspec.convert(sent, AnthropicTool))
    else:
        tool = msgspec.convert(sent, ServerTool)
    described = tool.described
    return ServerTool(function=described).plain()


@pytest.mark.parametrize("client", RECORDED)
def test_each_form_is_one_that_the_demo_model_is_tested_on(client: str) -> None:
    told = json.dumps(as_told(json.loads(RECORDED[client])))
    assert told in [json.dumps(form.write(WEATHER)) for form in _KNOWN]


def test_every_form_is_that_of_a_client() -> None:
    told = {json.dumps(as_told(json.loads(sent))) for sent in RECORDED.values()}
    others = [form for form in _KNOWN if json.dumps(form.write(WEATHER)) not in told]
    assert not others
