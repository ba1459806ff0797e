"""Tool calls: forced to follow their schemas, chosen, streamed, without markers, after reasoning; and BFCL's calls."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from edge_lfm import EdgeLfmError, Model, ToolCall
from edge_lfm.demo import demo_checkpoint
from edge_lfm.engine.constraints import AfterReasoning, InCalls, only
from edge_lfm.engine.grammar import Grammar, GrammarCompiler
from edge_lfm.engine.spelled_reasoning import AfterSpelledReasoning
from edge_lfm.errors import GrammarError, UsageError
from edge_lfm.text.answer import AnswerParser
from edge_lfm.text.dialects import DIALECTS, PYTHONIC, Dialect
from edge_lfm.text.template import ChatTemplate
from edge_lfm.text.tokenizer import Tokenizer
from edge_lfm.text.tool_binding import bind_tool
from edge_lfm.text.tool_calls import Call, calls_grammar, parse_calls
from edge_lfm.text.tools import read_tools

WEATHER = {
    "name": "get_weather",
    "description": "Get the weather in a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
HARD: dict[str, Any] = {
    "name": "plan.trip",
    "parameters": {
        "type": "object",
        "properties": {
            "days": {"type": "integer", "minimum": 1, "maximum": 7},
            "cities": {"type": "array", "items": {"type": "string", "pattern": "^[A-Z][a-z]{1,5}$"}, "maxItems": 2},
            "from": {"enum": ["home", "work"]},
            "return": {"type": "boolean"},
            "options": {
                "type": "object",
                "properties": {"class": {"$ref": "#/$defs/class"}, "meals": {"type": "boolean"}},
                "additionalProperties": False,
            },
        },
        "required": ["cities", "return"],
        "$defs": {"class": {"enum": [1, 2]}},
    },
}
NOTHING = {"name": "stop"}
TOOLS = [WEATHER, HARD, NOTHING]
SCHEMAS = {t["name"]: t.get("parameters", {"additionalProperties": False}) for t in TOOLS}


def valid(call: ToolCall) -> None:
    schema = {**SCHEMAS[call.name], "additionalProperties": False}
    jsonschema.validate(call.arguments, schema)


def test_a_hot_model_still_calls_by_the_schema(model: Model) -> None:
    """At temperature 1.5 the arguments are nonsense, and valid."""
    seen: set[str] = set()
    for seed in range(60):
        options = {"temperature": 1.5, "seed": seed, "max_tokens": 200, "tools": TOOLS, "tool_choice": "required"}
        asked = ("Plan something.", "What is the weather in Oslo?", "Please stop.")[seed % 3]
        answer = model.generate(asked, **options)
        if answer.finish_reason == "length":
            continue
        assert answer.finish_reason == "tool_calls" and answer.text == "" and answer.tool_calls
        for call in answer.tool_calls:
            valid(call)
            seen.add(call.name)
    assert seen == {"get_weather", "plan.trip", "stop"}


def test_choices_of_tools(model: Model) -> None:
    question = "What is the weather in Paris?"
    assert model.generate(question, tools=[WEATHER]).tool_calls == (ToolCall("get_weather", {"city": "Paris"}),)
    named = model.generate(question, tools=TOOLS, tool_choice="stop")
    assert named.tool_calls == (ToolCall("stop", {}),)
    wrapped = {"type": "function", "function": {"name": "get_weather"}}
    openai = model.generate("Hello!", tools=[{"type": "function", "function": t} for t in TOOLS], tool_choice=wrapped)
    assert [c.name for c in openai.tool_calls] == ["get_weather"]
    none = model.generate(question, tools=TOOLS, tool_choice="none")
    assert not none.tool_calls and none.timings.prompt_tokens == len(model.encode_prompt(question))
    for seed in range(10):
        options = {"temperature": 1.5, "seed": seed, "tools": [NOTHING, WEATHER], "tool_choice": "required"}
        assert len(model.generate("Go!", parallel_tool_calls=False, max_tokens=90, **options).tool_calls) <= 1


def test_lookup_and_logprobs_do_not_loosen_the_schema(model: Model) -> None:
    for options in ({"lookup": 8}, {"logprobs": 1}):
        for seed in range(8):
            found = model.generate(
                "Go!", tools=[HARD], tool_choice="required", temperature=1.5, seed=seed, max_tokens=200, **options
            )
            for call in found.tool_calls:
                valid(call)


BAD: list[dict[str, Any]] = [
    {"tools": [{}]}, {"tools": [{"name": ""}]}, {"tools": [{"name": "a b"}]}, {"tools": ["x"]},
    {"tools": [WEATHER, WEATHER]},
    {"tools": [WEATHER], "tool_choice": "other"}, {"tool_choice": "required"}, {"tools": [WEATHER], "tool_choice": 3},
    {"tools": [WEATHER], "schema": {"type": "object"}, "regex": "a"},
    {"tools": [{"name": "f", "parameters": {"properties": 3}}]},
    {"tools": [{"name": "f", "parameters": {"properties": {"a": {"type": "foo"}}}}]},
    {"tools": [{"name": "f", "parameters": {"properties": {"a": 3}}}]},
    {"tools": [{"name": "f", "parameters": {"properties": {"a": False}, "required": ["a"]}}]},
]  # fmt: skip


@pytest.mark.parametrize("options", BAD, ids=range(len(BAD)))
def test_tools_that_are_none(model: Model, options: dict[str, Any]) -> None:
    with pytest.raises((UsageError, GrammarError)):
        model.stream("x", **options)


def pieces(tokenizer: Tokenizer, text: str, tools: list[str]) -> list[tuple[str, str]]:
    parser = AnswerParser(tokenizer, [], tools=tools)
    found = [p for token in tokenizer.encode(text, special=True) for p in parser.feed(token)] + parser.finish()
    kinds = dict.fromkeys(p.kind for p in found)
    return [(kind, "".join(p.text for p in found if p.kind == kind)) for kind in kinds]


def test_calls_without_markers(demo: dict[str, Path]) -> None:
    tokenizer = Tokenizer(demo["int4"])
    assert pieces(tokenizer, '[f(a="x")]', ["f", "g"]) == [("call", '[f(a="x")]')]
    assert pieces(tokenizer, "[1] says so", ["f"]) == [("text", "[1] says so")]
    assert pieces(tokenizer, "[f", ["f"]) == [("text", "[f")]
    assert pieces(tokenizer, '[f(a="x")]', []) == [("text", '[f(a="x")]')]
    assert pieces(tokenizer, "Well: [f()]", ["f"]) == [("text", "Well: [f()]")]
    marked = "[f<|tool_call_start|>[g()]<|tool_call_end|>"
    assert pieces(tokenizer, marked, ["f"]) == [("text", "[f"), ("call", "[g()]")]


class Watched:
    """A constraint that notes what it hears."""

    def __init__(self) -> None:
        self.heard: list[int] = []
        self.ended = False

    def allowed(self) -> np.ndarray:
        return np.arange(10) == 3

    def accept(self, token: int) -> None:
        self.heard.append(token)

    def forced(self, most: int) -> list[int]:
        return []


def test_a_grammar_begins_after_the_reasoning_which_has_a_budget() -> None:
    start, end = 8, 9
    for opened in (True, False):
        inner = Watched()
        guide = AfterReasoning(inner, start, end, 10, opened, budget=2)
        if not opened:
            assert set(guide.allowed().nonzero()[0]) == {3, start}  # the answer, or reasoning before it
            guide.accept(start)
        for token in (5, 6):
            assert guide.allowed() is None
            guide.accept(token)
        assert guide.allowed().nonzero()[0].tolist() == [end]  # the budget is spent
        guide.accept(end)
        assert guide.allowed().nonzero()[0].tolist() == [3] and inner.heard == []
        guide.accept(3)
        assert inner.heard == [3]
    straight = AfterReasoning(Watched(), start, end, 10, False, None)
    straight.accept(3)
    assert straight.allowed().nonzero()[0].tolist() == [3]  # it answered at once: no reasoning later
    owing = AfterReasoning(Watched(), start, end, 10, True, None, ends=(7, 12))
    assert owing.allowed().nonzero()[0].tolist() == [0, 1, 2, 3, 4, 5, 6, 8, 9]  # not the end of the answer


class Once:
    """A grammar of the one token 4."""

    ended = False

    def allowed(self) -> np.ndarray:
        return only(4, 10)

    def accept(self, token: int) -> None:
        self.ended = True

    def forced(self, limit: int) -> list[int]:
        return []


@pytest.mark.parametrize("single", [True, False])
def test_after_a_single_call_no_other_begins(single: bool) -> None:
    calls = InCalls(Once, 7, 10, required=False, single=single)
    for token, allowed in ((2, None), (7, None), (4, [4])):
        now = calls.allowed()
        assert (None if now is None else now.nonzero()[0].tolist()) == allowed
        calls.accept(token)
    after = calls.allowed()
    assert not calls.ended and (after is None if not single else after.nonzero()[0].tolist() == [*range(7), 8, 9])


def test_unknown_tools_are_text(model: Model) -> None:
    """A model that calls what is not there (here: forced through a grammar of text) is shown as it wrote."""
    request = model.prepare(model.encode_prompt("x"), lark='start: <[10]> "[other(a=1)]" <[11]>')
    for known, text, calls in ((["f"], "[other(a=1)]", 0), ([], "", 1)):
        job = model.submit(replace(request, parameters=dict.fromkeys(known, ())))
        (done,) = (event.completion for events in job for event in events if hasattr(event, "completion"))
        assert done.text == text and len(done.tool_calls) == calls


def test_bfcls_calls_come_back_from_the_familys_template(shared_data: Path) -> None:
    """Rendered into a conversation, read back from its tokens: LFM2's own template and tokenizer."""
    tokenizer = Tokenizer(shared_data / "lfm2_tokenizer")
    template = ChatTemplate.load(shared_data / "lfm2_tokenizer", tokenizer)
    start, end = tokenizer.special_id("<|tool_call_start|>"), tokenizer.special_id("<|tool_call_end|>")
    assert template is not None
    for tools, calls in bfcl(shared_data, "parallel_multiple"):
        made = [{"type": "function", "function": {"name": c.name, "arguments": json.dumps(c.arguments)}} for c in calls]
        answer = {"role": "assistant", "content": None, "tool_calls": made}
        ids = template.encode([{"role": "user", "content": "Go."}, answer], tokenizer, tools=tools)
        assert ids.count(start) == ids.count(end) == 1
        assert parse_calls(tokenizer.decode(ids[ids.index(start) + 1 : ids.index(end)])) == calls


NEWER = """{{- bos_token -}}
{%- set ns = namespace(last=-1) -%}
{%- for m in messages if m.role == "assistant" -%}{%- set ns.last = messages.index(m) -%}{%- endfor -%}
{%- for m in messages -%}
{%- set text = m.content if m.content is string else m.content | tojson -%}
{%- if m.role == "assistant" and not keep_past_thinking and loop.index0 != ns.last and "</think>" in text -%}
{%- set text = text.split("</think>")[-1] | trim -%}
{%- endif -%}
<|im_start|>{{ m.role }}
{{ text }}
{%- if RENDERS_CALLS and m.tool_calls -%}
<|tool_call_start|>[
{%- for call in m.tool_calls -%}
{{ call.function.name }}(
{%- for key, value in call.function.arguments.items() -%}
{{ key }}={% if value is string %}'{{ value }}'{% elif value is mapping %}{{ value | tojson }}{% else %}{{ value }}
{%- endif -%}
{{ "" if loop.last else ", " }}
{%- endfor -%}){{ "" if loop.last else ", " }}
{%- endfor -%}]<|tool_call_end|>
{%- endif -%}
<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}<|im_start|>assistant
{% endif -%}"""


@pytest.mark.parametrize("generation", ["B", "C"])
def test_calls_come_back_from_newer_generations(shared_data: Path, generation: str) -> None:
    """Templates as the later models' are described: B drops past reasoning and knows no calls, C writes them itself.

    C quotes strings without escaping them: those with quotes or backslashes cannot come back.
    """
    tokenizer = Tokenizer(shared_data / "lfm2_tokenizer")
    source = NEWER.replace("RENDERS_CALLS and ", "" if generation == "C" else "false and ")
    source = source if generation == "C" else source.replace("tool_calls", "nothing")
    template = ChatTemplate(source, tokenizer.bos)
    assert template.renders_calls == (generation == "C")
    start, end = tokenizer.special_id("<|tool_call_start|>"), tokenizer.special_id("<|tool_call_end|>")
    compared = 0
    for tools, calls in bfcl(shared_data, "multiple"):
        if generation == "C" and re.search(r"['\\\\]", json.dumps([c.arguments for c in calls], ensure_ascii=False)):
            continue
        made = [{"type": "function", "function": {"name": c.name, "arguments": json.dumps(c.arguments)}} for c in calls]
        answer = {"role": "assistant", "content": "", "tool_calls": made}
        ids = template.encode([{"role": "user", "content": "Go."}, answer], tokenizer, tools=tools)
        assert parse_calls(tokenizer.decode(ids[ids.index(start) + 1 : ids.index(end)])) == calls
        compared += 1
    assert compared >= 180


def test_reuse_survives_a_template_that_drops_past_reasoning(demo: dict[str, Path], tmp_path: Path) -> None:
    """What changes is read again from the start of its turn; the answer is that of a full prefill."""
    for file in demo["int4"].iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "chat_template.jinja").unlink()
    source = NEWER.replace("RENDERS_CALLS", "false").replace("tool_calls", "nothing")
    (tmp_path / "chat_template.jinja").write_text(source, encoding="utf-8")
    with Model.load(tmp_path, threads=1) as thinking, Model.load(tmp_path, threads=1, cache=1) as fresh:
        messages = [{"role": "system", "content": "Be brief. " * 20}, {"role": "user", "content": "My name is Anna."}]
        for question in ("What is my name?", "What is 2 + 2?"):
            messages.append({"role": "assistant", "content": "hm, let me see</think>Thanks."})
            messages.append({"role": "user", "content": question})
            found = thinking.generate(messages, max_tokens=12)
            assert found.token_ids == fresh.generate(messages, max_tokens=12).token_ids
        assert found.timings.cached_tokens > 60


TYPES = {"dict": "object", "float": "number", "tuple": "array", "list": "array", "any": None, "double": "number"}


def as_json_schema(value: Any) -> Any:
    """BFCL's Python-like types as JSON Schema's."""
    if isinstance(value, Mapping):
        found = {k: as_json_schema(v) for k, v in value.items() if k not in ("default", "optional", "format")}
        kind = found.get("type")
        if isinstance(kind, str):
            kind = TYPES.get(kind.lower(), kind.lower())
            found = {k: v for k, v in found.items() if k != "type"} | ({"type": kind} if kind else {})
        return found
    return [as_json_schema(v) for v in value] if isinstance(value, list) else value


def bfcl(folder: Path, name: str) -> Iterator[tuple[list[Any], list[Call]]]:
    """Tools and expected calls, arguments in the order of their schema."""
    lines = (folder / f"eval/bfcl/BFCL_v4_{name}.json").read_text(encoding="utf-8").splitlines()
    answers = (folder / f"eval/bfcl/possible_answer/BFCL_v4_{name}.json").read_text(encoding="utf-8").splitlines()
    for line, answer in zip(lines, answers, strict=True):
        tools = [f | {"parameters": as_json_schema(f["parameters"])} for f in json.loads(line)["function"]]
        order = {f["name"]: list(f["parameters"]["properties"]) for f in tools}
        calls = []
        for truth in json.loads(answer)["ground_truth"]:
            for function, accepted in truth.items():
                given = {k: v[0] for k in order[function] if (v := accepted.get(k)) and v[0] != ""}
                calls.append(Call(function, given))
        yield tools, calls


BFCL = ["simple_python", "multiple", "parallel", "parallel_multiple", "live_simple"]
OTHER_FORMS = [pytest.param(d, marks=pytest.mark.slow) for d in DIALECTS if d is not PYTHONIC]


@pytest.mark.slow
@pytest.mark.parametrize("dialect", [PYTHONIC, *OTHER_FORMS], ids=lambda d: type(d).__name__)
@pytest.mark.parametrize("name", BFCL)
def test_the_grammar_takes_bfcls_expected_calls(shared_data: Path, dialect: Dialect, name: str) -> None:
    """Real tools, real calls, the real tokenizer; those whose expected values break their own schema may be refused."""
    tokenizer = Tokenizer(shared_data / "lfm2_tokenizer")
    compiler = GrammarCompiler(tokenizer.as_json, tokenizer.size, [7])

    def ids_of(mark: str) -> list[int]:
        token = tokenizer.special_id(mark)
        return tokenizer.encode(mark) if token is None else [token]

    taken, total = 0, 0
    for tools, calls in bfcl(shared_data, name):
        total += 1
        start, end, texts = ids_of(dialect.call_start), ids_of(dialect.call_end), dialect.write(calls)
        whole = [i for text in texts for i in (*tokenizer.encode("\n"), *start, *tokenizer.encode(text), *end)]
        try:
            bound = [bind_tool(tool) for tool in read_tools(tools)]
            constraint = compiler.start(Grammar("lark", calls_grammar(dialect, bound, tokenizer)))
            for token in whole[len(tokenizer.encode("\n")) + len(start) :]:
                constraint.accept(token)
        except EdgeLfmError:
            continue
        taken += constraint.ended or bool(constraint.allowed()[7])
        parameters = {tool.name: tool.parameters for tool in bound}
        assert [call for text in texts for call in dialect.read(text, parameters)] == calls
    assert taken >= 0.9 * total, (taken, total)


@pytest.mark.parametrize(
    ("tokens", "budget"), [(["so ", "</think>"], None), (["</thin", "k", ">"], None), (["a <", "</think>", "\n"], 2)]
)
def test_reasoning_that_ends_with_a_text(tokens: list[str], budget: int | None) -> None:
    """Its end may come in any tokens, and with white space, but with nothing of the answer; a limit writes it."""
    tokenizer, inner, told = Tokenizer(demo_checkpoint()), Once(), b""
    guide = AfterSpelledReasoning(inner, ("<think>", "</think>"), tokenizer, tokenizer.size, budget)
    for spent, token in enumerate(i for text in tokens for i in tokenizer.encode(text)):
        if b"</think>" in told:
            break
        whole = [told + tokenizer.bytes_of(i) for i in range(tokenizer.size)]
        expected = [i for i, text in enumerate(whole) if not text.partition(b"</think>")[2].strip()]
        over = budget is not None and spent >= budget
        assert guide.allowed().nonzero()[0].tolist() == ([token] if over else expected)  # type: ignore[union-attr]
        guide.accept(token)
        told += tokenizer.bytes_of(token)
    assert b"</think>" in told
    assert guide.allowed().nonzero()[0].tolist() == [4] and not guide.ended  # type: ignore[union-attr]
    guide.accept(4)
    assert guide.ended
