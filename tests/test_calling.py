"""Calls in every form, by a model whose template has the marks of that form: bound, read, and given back."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from edge_lfm import Model, UsageError
from edge_lfm.text.dialects import (
    DEEPSEEK,
    DEEPSEEK_BARE,
    GLM_TIGHT,
    GLM_XML,
    HERMES,
    HUNYUAN,
    MINIMAX_XML,
    QWEN_XML,
)

pytestmark = pytest.mark.slow

TEMPLATES = json.loads((Path(__file__).parent / "data/templates.json").read_text(encoding="utf-8"))["templates"]
TOOLS: list[dict[str, Any]] = [
    {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "maxLength": 12},
                "days": {"type": "integer", "minimum": 1, "maximum": 7},
                "unit": {"enum": ["C", "F"]},
                "exact": {"type": "boolean"},
            },
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
    {"name": "stop", "parameters": {"type": "object", "additionalProperties": False}},
]
SCHEMAS = {tool["name"]: tool["parameters"] for tool in TOOLS}
FORMS = {
    "hermes": HERMES,
    "tags": QWEN_XML,
    "invokes": MINIMAX_XML,
    "distill": DEEPSEEK,
    "list": HUNYUAN,
    "keys": GLM_XML,
    "tight keys": GLM_TIGHT,
    "bare": DEEPSEEK_BARE,
}
FORMS_BEGIN = {
    "Hermes": '<tool_call>\n{"name": "get_weather", "arguments": {"city": ',
    "QwenXml": "<tool_call>\n<function=get_weather>\n<parameter=city>\n",
    "MiniMaxXml": '<minimax:tool_call>\n<invoke name="get_weather">\n<parameter name="city">',
    "Hunyuan": '<tool_calls>[{"name": "get_weather", "arguments": {"city": ',
    "DeepSeek": '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n{"city": ',
    "DeepSeekBare": '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{"city": ',
    "GlmXml": "<tool_call>get_weather",
}


NAMES = {
    "invokes": ("<minimax:tool_call>", "</minimax:tool_call>"),
    "distill": ("<think>", "</think>"),
    "distill of texts": ("<|nothing|>", "<|at all|>"),
}
"""New names of the tokens of calls: in the distills' vocabularies `<think>` is a token; here it is a text, too."""


@pytest.fixture(scope="module", params=[*FORMS, "distill of texts"])
def model(demo: dict[str, Path], tmp_path_factory: pytest.TempPathFactory, request: Any) -> Iterator[Model]:
    """The demo model with another template and other names of control tokens; DeepSeek's marks of calls stay texts."""
    folder = tmp_path_factory.mktemp(request.param) / "model"
    shutil.copytree(demo["int4"], folder)
    name = request.param.removesuffix(" of texts")
    (folder / "chat_template.jinja").write_text(TEMPLATES[name], encoding="utf-8")
    path = folder / "tokenizer.json"
    text = path.read_text(encoding="utf-8")
    new_names = NAMES.get(request.param, ("<tool_call>", "</tool_call>"))
    for old, new in zip(("<|tool_call_start|>", "<|tool_call_end|>"), new_names, strict=True):
        assert text.count(json.dumps(old)) >= 1
        text = text.replace(json.dumps(old), json.dumps(new))
    path.write_text(text, encoding="utf-8")
    with Model.load(folder, threads=1, context=1024) as loaded:
        assert loaded.template is not None and loaded.template.dialect is FORMS[name]
        yield loaded


def budget(model: Model) -> dict[str, Any]:
    """A limit for reasoning, which the demo model would go on with for ever; some templates begin it."""
    begins = model.template is not None and model.template.dialect in (DEEPSEEK, MINIMAX_XML, GLM_TIGHT, HUNYUAN)
    return {"reasoning_budget": 5} if begins else {}


def test_a_hot_model_calls_by_the_schema(model: Model) -> None:
    seen: set[str] = set()
    for seed in range(24):
        options: dict[str, Any] = {
            "temperature": 1.5,
            "seed": seed,
            "max_tokens": 250,
            "tools": TOOLS,
            **budget(model),
        }
        single = bool(seed % 2)
        answer = model.generate("Go!", tool_choice="required", parallel_tool_calls=not single, **options)
        if answer.finish_reason == "length":
            continue
        assert answer.finish_reason == "tool_calls" and answer.text == "" and answer.tool_calls, answer
        assert not single or len(answer.tool_calls) == 1
        for call in answer.tool_calls:
            jsonschema.validate(call.arguments, SCHEMAS[call.name])
            seen.add(call.name)
    assert seen == set(SCHEMAS)


def test_a_named_tool_is_called_and_its_result_is_answered(model: Model) -> None:
    session = model.session(tools=TOOLS)
    asked = session.send(
        "The weather?", tool_choice="get_weather", parallel_tool_calls=False, max_tokens=500, **budget(model)
    )
    assert [call.name for call in asked.tool_calls] == ["get_weather"]
    session.send({"role": "tool", "content": "sunny"}, max_tokens=3, temperature=0)
    assert model.tokenizer is not None
    prompt = model.tokenizer.decode(model.encode_prompt(session.messages, tools=TOOLS), special=True)
    told = prompt.rpartition("The weather?")[2]
    assert FORMS_BEGIN[type(model.template.dialect).__name__] in told and "sunny" in told  # type: ignore[union-attr]


def test_a_model_that_is_free_to_call_may_write_text(model: Model) -> None:
    answer = model.generate("What is the capital of France?", tools=TOOLS, max_tokens=20, temperature=0)
    assert answer.text or answer.reasoning or answer.tool_calls
    for call in answer.tool_calls:
        jsonschema.validate(call.arguments, SCHEMAS[call.name])


def test_a_grammar_holds_after_the_reasoning(model: Model) -> None:
    for seed in range(8):
        drawn: dict[str, Any] = {"temperature": 1.5, "seed": seed, "max_tokens": 60, **budget(model)}
        answer = model.generate("Yes or no?", choices=["yes", "no"], **drawn)
        assert answer.text in ("yes", "no"), answer


def test_a_limit_of_reasoning_needs_a_token_or_a_prompt_that_begins_it(model: Model) -> None:
    if model.template is not None and model.template.dialect in (HERMES, GLM_XML, DEEPSEEK_BARE):
        with pytest.raises(UsageError, match="<think>"):
            model.generate("Why?", reasoning_budget=5)
