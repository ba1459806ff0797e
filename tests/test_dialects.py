"""Forms of tool calls: whatever names and values there are, what is written or forced by a grammar is read back."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from edge_lfm.demo import demo_checkpoint
from edge_lfm.engine.grammar import Grammar, GrammarCompiler
from edge_lfm.errors import ToolCallError
from edge_lfm.text.dialects import PYTHONIC, Call, dialect_of
from edge_lfm.text.tokenizer import Tokenizer
from edge_lfm.text.tool_binding import bind_tool
from edge_lfm.text.tools import read_tools

TOKENIZER = Tokenizer(demo_checkpoint())
END = TOKENIZER.special_id("<|tool_call_end|>") or 0
STOP = TOKENIZER.special_id("<|im_end|>") or 0
COMPILER = GrammarCompiler(TOKENIZER.as_json, TOKENIZER.size, [STOP])


def constraint_of(tools: list[dict[str, Any]], parallel: bool = True) -> Any:
    bound = [bind_tool(tool) for tool in read_tools(tools)]
    return COMPILER.start(Grammar("lark", PYTHONIC.grammar(bound, END, parallel)))


def follows(constraint: Any, text: str) -> bool:
    """Whether a grammar takes a text, token by token, and is at its end then."""
    for token in [*TOKENIZER.encode(text), END]:
        if constraint.ended or not constraint.allowed()[token]:
            return False
        constraint.accept(token)
    return bool(constraint.ended)


def forced_text(constraint: Any, rng: random.Random) -> str | None:
    """A random text that a grammar allows; brackets and quotes that end something are likelier. None if it is long."""
    ids: list[int] = []
    ending = [i for i in range(TOKENIZER.size) if TOKENIZER.bytes_of(i)[-1:] in (b'"', b")", b"]", b"}")]
    for _ in range(150):
        allowed = np.flatnonzero(constraint.allowed())
        if END in allowed:
            return TOKENIZER.decode(ids)
        soon = np.intersect1d(allowed, ending)
        ids.append(int(rng.choice(soon if len(soon) and rng.random() < 0.4 else allowed)))
        constraint.accept(ids[-1])
    return None


openai_names = st.from_regex(r"[a-zA-Z0-9_-]{1,12}", fullmatch=True)
mcp_names = st.from_regex(r"[A-Za-z0-9_./-]{1,12}", fullmatch=True)
odd = st.sampled_from(
    ["per-page", "$filter", "uids[]", "first name", "a", "a=b", 'a="x", b', '"b,"', "b,", "import", "3d", "x.y", "",
     " ", "-A", "@type", "\u00b5", "\uff4eame", "x\u00b2", "None", "a b c", "\n", "(", "<|im_end|>", "1", "'", "\\",
     "{}"]
)  # fmt: skip
argument_names = st.one_of(openai_names, odd, st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=6))
leaves = st.none() | st.booleans() | st.integers(-(10**15), 10**15) | st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
json_values = st.recursive(
    leaves | texts, lambda i: st.lists(i, max_size=3) | st.dictionaries(texts, i, max_size=3), max_leaves=8
)
calls_of_any_kind = st.lists(
    st.builds(Call, openai_names | mcp_names, st.dictionaries(argument_names, json_values, max_size=4)), max_size=3
)


@settings(max_examples=400, deadline=None)
@given(calls=calls_of_any_kind)
def test_calls_of_any_names_and_values_come_back(calls: list[Call]) -> None:
    parameters: dict[str, list[str]] = {}
    for call in calls:
        parameters.setdefault(call.name, []).extend(n for n in call.arguments if n not in parameters[call.name])
    assert PYTHONIC.read(PYTHONIC.write(calls), parameters) == calls


small = st.sampled_from(
    [
        {"type": "integer", "minimum": -5, "maximum": 12}, {"type": "string", "maxLength": 4}, {"type": "boolean"},
        {"enum": ["a", "it's", 'q"', 3, True, None]}, {"type": ["string", "null"], "maxLength": 2}, {"type": "null"},
        {"type": "array", "items": {"type": "boolean"}, "maxItems": 2}, {"type": "number"}, {"const": {"a": [1]}},
        {"type": "object", "properties": {"x y": {"type": "boolean"}}, "additionalProperties": False},
        {"anyOf": [{"type": "integer", "maximum": 3, "minimum": 0}, {"type": "boolean"}]}, {"$ref": "#/$defs/leaf"},
    ]
)  # fmt: skip


def _tool(name: str, properties: dict[str, Any], required: list[bool], rest: dict[str, Any]) -> dict[str, Any]:
    needed = [n for n, must in zip(properties, required, strict=False) if must]
    schema = {"type": "object", "properties": properties, "required": needed, **rest}
    return {"name": name, "parameters": {**schema, "$defs": {"leaf": {"type": "string", "enum": ["x", "y"]}}}}


rests = st.sampled_from(
    [{}, {"additionalProperties": False}, {"additionalProperties": {"type": "boolean"}}, {"minProperties": 1}]
)
tools = st.builds(
    _tool, openai_names | mcp_names, st.dictionaries(argument_names, small, max_size=4),
    st.lists(st.booleans(), min_size=4, max_size=4), rests,
)  # fmt: skip


@settings(max_examples=150, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(described=st.lists(tools, min_size=1, max_size=2, unique_by=lambda t: t["name"]), seed=st.integers(0, 99))
def test_what_the_grammar_forces_is_read_and_fits(described: list[dict[str, Any]], seed: int) -> None:
    text = forced_text(constraint_of(described), random.Random(seed))
    if text is None:
        return
    parameters = {t["name"]: list(t["parameters"]["properties"]) for t in described}
    schemas = {t["name"]: t["parameters"] for t in described}
    try:
        calls = PYTHONIC.read(text, parameters)
    except ToolCallError as error:
        assert "too large" in error.message  # a number of more than 4,000 digits, which nobody could read
        return
    assert calls
    for call in calls:
        jsonschema.Draft202012Validator(schemas[call.name]).validate(call.arguments)


VALUES: list[tuple[dict[str, Any], Any]] = [
    ({"type": "string"}, 'a "b" \\ / \n \t é 🙂'), ({"type": "boolean"}, True), ({"type": "null"}, None),
    ({"type": "array"}, [None, True, "x", {"y": 1.5}]), ({}, {"a": [False, None]}), ({"enum": [1, "1"]}, "1"),
    ({"anyOf": [{"type": "boolean"}, {"type": "string"}]}, False), ({"type": "number"}, 1e300),
    ({"type": ["null", "string"]}, None),
]  # fmt: skip


@settings(max_examples=100, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(
    name=openai_names | mcp_names,
    keys=st.lists(argument_names, unique=True, min_size=1, max_size=5),
    pairs=st.lists(st.sampled_from(VALUES), min_size=5, max_size=5),
)
def test_what_is_written_follows_the_grammar(
    name: str, keys: list[str], pairs: list[tuple[dict[str, Any], Any]]
) -> None:
    properties = {key: schema for key, (schema, _) in zip(keys, pairs, strict=False)}
    call = Call(name, {key: value for key, (_, value) in zip(keys, pairs, strict=False)})
    tool = {"name": name, "parameters": {"type": "object", "properties": properties, "required": keys}}
    assert follows(constraint_of([tool]), PYTHONIC.write([call, call]))


READ = [
    (r'[f(a="hi \ud83d\ude00")]', "hi \U0001f600"), (r'[f(a="half \ud83d")]', "half \ufffd"), (r'[f(a="a\/b")]', "a/b"),
    ('[f(a="a\nb")]', "a\nb"), (r"[f(a='it\'s \x41 \d')]", r"it's A \d"), ('[f(a="C:\\Users")]', "C:\\Users"),
    ("[f(a=1e999)]", 10**999), ("[f(a=-2.5e400)]", -25 * 10**399), ("[f(a=1e-999)]", 0.0), ("[f(a=0012)]", 12),
    ("[f(a=.5)]", 0.5), ("[f(a=1_000)]", 1000), ("f( a = ( 1 , [ ] , ) , )", [1, []]),
    ("[f(a={'k': 1, 2: 3})]", {"k": 1, "2": 3}), ('[{"name": "f", "arguments": {"a": "\\ud83d"}}]', "\ufffd"),
    ('{"name": "f", "arguments": "{\\"a\\": 1e999}"}', 10**999),
]  # fmt: skip


@pytest.mark.parametrize(("text", "value"), READ)
def test_values_are_read(text: str, value: Any) -> None:
    (call,) = PYTHONIC.read(text, {"f": ["a"]})
    assert call == Call("f", {"a": value}) and type(call.arguments["a"]) is type(value)
    json.dumps(call.arguments, allow_nan=False, ensure_ascii=False).encode()


@pytest.mark.parametrize(
    "text",
    [
        '[{"name": "f", "arguments": {"a": NaN}}]', '[{"name": "f", "arguments": {"a": 1e9999}}]', "[f(a=1e9999)]",
        "[f(a=nan)]", "[f(a=-Infinity)]", '[f(a="x)]', "[f(a=1]", "[f(a=1))]", "[f(a=1) g()]", "[f(=1)]", "[f(a==1)]",
        "[f(a=b'x')]", "[f(a=+)]", "[f(a=1, a=2)]", "[f(1, 2)]", "[f(a={[]: 1})]", "[f(b=1, 2)]", "[f(a=" + "{1:" * 200,
    ],
)  # fmt: skip
def test_what_is_no_call_is_an_error(text: str) -> None:
    with pytest.raises(ToolCallError):
        PYTHONIC.read(text, {"f": ["a"]})


def test_a_dialect_is_chosen_by_marks() -> None:
    for source in ("<|tool_list_start|>", "List of tools: [", "nothing of it"):
        assert dialect_of(source) is PYTHONIC


def _wide(arguments: int) -> Iterator[tuple[str, Any]]:
    for n in range(arguments):
        yield f"a{n}", {"$ref": f"#/$defs/T{n % 70}"}


def test_definitions_are_shared_and_not_copied() -> None:
    """79 kB of definitions, most of them descriptions, behind 24 arguments, and behind 24 more that are the same."""
    types = {
        f"T{n}": {"description": "x" * 300, "type": "object", "properties": {
            f"p{m}": {"type": "string", "description": "y" * 80} for m in range(6)}} for n in range(70)
    }  # fmt: skip
    sizes = []
    for arguments in (24, 140):
        schema = {"type": "object", "$defs": types, "properties": dict(_wide(arguments))}
        assert len(json.dumps(schema)) > 70_000
        tool = {"name": "create", "parameters": schema}
        sizes.append(len(PYTHONIC.grammar([bind_tool(tool) for tool in read_tools([tool])], END, True)))
        assert follows(constraint_of([tool]), '[create(a0={"p0": "x"}, a3={})]')
    assert sizes[0] < 20_000 and sizes[1] < 60_000  # 70 values at the most, whatever the arguments
