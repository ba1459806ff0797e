"""Forms of tool calls: whatever names and values there are, what is written or forced by a grammar is read back."""

from __future__ import annotations

import json
import random
import re
import shutil
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st

from edge_lfm.api import Model
from edge_lfm.demo import demo_checkpoint
from edge_lfm.engine.grammar import Grammar, GrammarCompiler
from edge_lfm.errors import ContextOverflowError, GrammarError, ToolCallError
from edge_lfm.quantize.convert import convert
from edge_lfm.quantize.recipe import find_recipe
from edge_lfm.text.dialects import (
    DEEPSEEK,
    DEEPSEEK_BARE,
    DIALECTS,
    GLM_TIGHT,
    GLM_XML,
    HARMONY,
    HERMES,
    HUNYUAN,
    MINIMAX_XML,
    PYTHONIC,
    QWEN_XML,
    Call,
    Dialect,
    Parameters,
    dialect_of,
)
from edge_lfm.text.dialects.qwen_xml import QwenXml
from edge_lfm.text.schemas.document import same
from edge_lfm.text.tokenizer import Tokenizer
from edge_lfm.text.tool_binding import bind_tool, plain_parameters
from edge_lfm.text.tool_calls import calls_grammar
from edge_lfm.text.tools import read_tools


def _tokenizer() -> Tokenizer:
    """The demo's, with the marks of Qwen's and GLM's vocabularies; those of DeepSeek stay texts."""
    raw = json.loads((demo_checkpoint() / "tokenizer.json").read_text(encoding="utf-8"))
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    first = 1 + max(raw["model"]["vocab"].values())
    tags = ("<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>")
    for n, text in enumerate(("<tool_call>", "</tool_call>", "<think>", "</think>", *tags)):
        raw["added_tokens"].append({"id": first + n, "content": text, **flags})
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "tokenizer.json").write_text(json.dumps(raw), encoding="utf-8")
        return Tokenizer(Path(folder))


TOKENIZER = _tokenizer()
STOP = TOKENIZER.special_id("<|im_end|>") or 0
COMPILER = GrammarCompiler(TOKENIZER.as_json, TOKENIZER.size, [STOP])
every_dialect = pytest.mark.parametrize("dialect", DIALECTS, ids=lambda d: type(d).__name__)


def constraint_of(dialect: Dialect, tools: list[dict[str, Any]], parallel: bool = True) -> Any:
    bound = [bind_tool(tool) for tool in read_tools(tools)]
    return COMPILER.start(Grammar("lark", calls_grammar(dialect, bound, TOKENIZER, parallel)))


def parameters_of(tools: list[dict[str, Any]]) -> Parameters:
    return {tool.name: bind_tool(tool).parameters for tool in read_tools(tools)}


def mark_ids(mark: str) -> list[int]:
    """A mark as a model writes it: its token, or its text."""
    token = TOKENIZER.special_id(mark)
    return TOKENIZER.encode(mark) if token is None else [token]


def ids_of_call(dialect: Dialect, text: str) -> list[int]:
    """The text of a call as a model writes it: inner marks that are tokens as such."""
    tokens = [mark for mark in dialect.inner_marks if TOKENIZER.special_id(mark) is not None]
    parts = re.split(f"({'|'.join(map(re.escape, tokens))})", text) if tokens else [text]
    return [i for part in parts for i in (mark_ids(part) if part in tokens else TOKENIZER.encode(part))]


def follows(constraint: Any, dialect: Dialect, texts: list[str]) -> bool:
    """Whether a grammar takes the texts of calls and the marks around them, token by token, and may end then."""
    start, end = mark_ids(dialect.call_start), mark_ids(dialect.call_end)
    ids = [i for text in texts for i in (*TOKENIZER.encode("\n"), *start, *ids_of_call(dialect, text), *end)]
    for token in ids[len(TOKENIZER.encode("\n")) + len(start) :]:
        if constraint.ended or not constraint.allowed()[token]:
            return False
        constraint.accept(token)
    return bool(constraint.ended) or bool(constraint.allowed()[STOP])


def forced_text(constraint: Any, dialect: Dialect, rng: random.Random) -> str | None:
    """A random text that a grammar allows; what may end something is likelier. None if it is long."""
    ids: list[int] = []
    ending = [i for i in range(TOKENIZER.size) if TOKENIZER.bytes_of(i)[-1:] in (b'"', b")", b"]", b"}", b">", b"\n")]
    for _ in range(400):
        allowed = np.flatnonzero(constraint.allowed()) if not constraint.ended else []
        text = TOKENIZER.decode(ids, special=True)
        if text.endswith(dialect.call_end):
            return text.removesuffix(dialect.call_end)
        soon = np.intersect1d(allowed, ending)
        ids.append(int(rng.choice(soon if len(soon) and rng.random() < 0.5 else allowed)))
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


def _anything(value: Any) -> bool:
    return True


def _is_one_of(values: list[Any], value: Any) -> bool:
    return any(same(value, one) for one in values)


@pytest.mark.slow
@every_dialect
@settings(max_examples=200, deadline=None)
@given(calls=calls_of_any_kind)
def test_calls_of_any_names_and_values_come_back(dialect: Dialect, calls: list[Call]) -> None:
    """A parameter takes the values that are given for it, and no others."""
    values: dict[str, dict[str, list[Any]]] = {}
    for call in calls:
        for name, value in call.arguments.items():
            values.setdefault(call.name, {}).setdefault(name, []).append(value)
            assume(not isinstance(dialect, QwenXml) or not isinstance(value, str) or dialect.form.is_writable(value))
    parameters = {
        call: {name: partial(_is_one_of, taken) for name, taken in arguments.items()}
        for call, arguments in values.items()
    }
    assert [call for text in dialect.write(calls) for call in dialect.read(text, parameters)] == calls


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


@pytest.mark.slow
@every_dialect
@settings(max_examples=60, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(described=st.lists(tools, min_size=1, max_size=2, unique_by=lambda t: t["name"]), seed=st.integers(0, 99))
def test_what_the_grammar_forces_is_read_and_fits(dialect: Dialect, described: list[dict[str, Any]], seed: int) -> None:
    text = forced_text(constraint_of(dialect, described), dialect, random.Random(seed))
    if text is None:
        return
    schemas = {t["name"]: t["parameters"] for t in described}
    unreadable = re.search(r"[eE]\+?0*[1-9]\d{3}", text)  # a number of more than 4,000 digits, which nobody could read
    try:
        calls = dialect.read(text, parameters_of(described))
    except ToolCallError as error:
        assert unreadable and "too large" in error.message
        return
    if unreadable:
        return  # between tags it is a text
    assert calls
    for call in calls:
        jsonschema.Draft202012Validator(schemas[call.name]).validate(call.arguments)


AMBIGUOUS = ({"enum": [1, "1"]}, "1")
"""Between tags, which have no quotes, it is the number."""
VALUES: list[tuple[dict[str, Any], Any]] = [
    ({"type": "string"}, 'a "b" \\ / \n \t é 🙂'), ({"type": "boolean"}, True), ({"type": "null"}, None),
    ({"type": "array"}, [None, True, "x", {"y": 1.5}]), ({}, {"a": [False, None]}), AMBIGUOUS,
    ({"anyOf": [{"type": "boolean"}, {"type": "string"}]}, False), ({"type": "number"}, 1e300),
    ({"type": ["null", "string"]}, None),
]  # fmt: skip


@pytest.mark.slow
@every_dialect
@settings(max_examples=50, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(
    name=openai_names | mcp_names,
    keys=st.lists(argument_names, unique=True, min_size=1, max_size=5),
    pairs=st.lists(st.sampled_from(VALUES), min_size=5, max_size=5),
)
def test_what_is_written_follows_the_grammar(
    dialect: Dialect, name: str, keys: list[str], pairs: list[tuple[dict[str, Any], Any]]
) -> None:
    assume(not isinstance(dialect, QwenXml) or AMBIGUOUS not in pairs)
    properties = {key: schema for key, (schema, _) in zip(keys, pairs, strict=False)}
    call = Call(name, {key: value for key, (_, value) in zip(keys, pairs, strict=False)})
    tool = {"name": name, "parameters": {"type": "object", "properties": properties, "required": keys}}
    written = dialect.write([call] if dialect is HARMONY else [call, call])  # there a call ends the answer
    assert follows(constraint_of(dialect, [tool]), dialect, written)
    assert not follows(constraint_of(dialect, [tool], parallel=False), dialect, dialect.write([call, call]))
    (read, again) = [call for text in dialect.write([call, call]) for call in dialect.read(text, parameters_of([tool]))]
    assert read == again == call


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
    (call,) = PYTHONIC.read(text, {"f": {"a": _anything}})
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
        PYTHONIC.read(text, {"f": {"a": _anything}})


TEXTS_WITH_BOUNDS: list[dict[str, Any]] = [
    {"type": "string", "pattern": "^[A-Z][a-z]{1,5}$"}, {"type": "string", "pattern": "[0-9]/[0-9]", "maxLength": 9},
    {"type": "string", "pattern": "^(a|b)+$", "minLength": 3, "maxLength": 5}, {"pattern": "[^#]$", "maxLength": 4},
    {"type": ["string", "integer"], "maxLength": 3}, {"type": "array", "items": {"type": "boolean"}, "maxItems": 2},
    {"anyOf": [{"type": "string", "maxLength": 3}, {"type": "null"}]}, {"enum": ["</parameter>", "a\nb", 3, None, "3"]},
]  # fmt: skip


TAGGED = {"lines": QWEN_XML, "together": MINIMAX_XML, "keys": GLM_XML, "tight": GLM_TIGHT}
with_tags = pytest.mark.parametrize("dialect", TAGGED.values(), ids=TAGGED)


@with_tags
@pytest.mark.parametrize("schema", TEXTS_WITH_BOUNDS, ids=json.dumps)
def test_texts_between_tags_keep_their_bounds(schema: dict[str, Any], dialect: QwenXml) -> None:
    tool = {"name": "f", "parameters": {"type": "object", "properties": {"a": schema}, "required": ["a"]}}
    found = 0
    for seed in range(12):
        constraint = constraint_of(dialect, [tool], parallel=False)
        text = forced_text(constraint, dialect, random.Random(seed))
        if text is not None:
            (call,) = dialect.read(text, parameters_of([tool]))
            jsonschema.Draft202012Validator(tool["parameters"]).validate(call.arguments)  # type: ignore[arg-type]
            found += 1
    assert found


@pytest.mark.parametrize("pattern", [r"\bx", "a^b", "^a|b$", "x$y"])
def test_a_pattern_that_cannot_be_bound_between_tags_is_refused(pattern: str) -> None:
    tool = {"name": "f", "parameters": {"properties": {"a": {"type": "string", "pattern": pattern}}}}
    with pytest.raises(GrammarError, match="pattern"):
        constraint_of(QWEN_XML, [tool])


TYPED = [
    ("5", {"type": "string"}, "5"), ("5", {"type": "integer"}, 5), ("True", {"type": "boolean"}, True),
    ("true", {"type": ["boolean", "null"]}, True), ("None", {"type": ["string", "null"]}, None),
    ("5.0", {"type": "number"}, 5.0),
    ("[1]", {"type": "array"}, [1]), ("[1]", {"type": "string"}, "[1]"), ("x", {"type": "integer"}, "x"),
    ('"x"', {"type": "string"}, '"x"'), ("", {"type": "string"}, ""), ("NaN", {"type": "number"}, "NaN"),
    (" a\n\n b ", {"type": "string"}, " a\n\n b "), ('{"a": 1}', {}, {"a": 1}), ("5", {"enum": ["5", 6]}, "5"),
]  # fmt: skip


TOLD = {
    QWEN_XML: "\n<function=f>\n<parameter=a>\n{}\n</parameter>\n</function>\n",
    MINIMAX_XML: '\n<invoke name="f">\n<parameter name="a">{}</parameter>\n</invoke>\n',
    GLM_XML: "f\n<arg_key>a</arg_key>\n<arg_value>{}</arg_value>\n",
    GLM_TIGHT: "f<arg_key>a</arg_key><arg_value>{}</arg_value>",
}


@with_tags
@pytest.mark.parametrize(("text", "schema", "value"), TYPED)
def test_a_text_between_tags_is_what_its_schema_says(
    text: str, schema: dict[str, Any], value: Any, dialect: QwenXml
) -> None:
    tool = {"name": "f", "parameters": {"properties": {"a": schema}}}
    told = TOLD[dialect].format(text)
    (call,) = dialect.read(told, parameters_of([tool]))
    assert call.arguments == {"a": value} and type(call.arguments["a"]) is type(value)
    plain = {t.name: plain_parameters(t) for t in read_tools([tool])}
    assert "enum" in schema or dialect.read(told, plain) == [call]  # by types alone


READ_WITH_TAGS = [
    ("<function=f><parameter=a>x</parameter></function>", {"a": "x"}), ("<function=f>\n</function>", {}),
    ("<function=f><parameter=a>\nx\n</parameter>\n<parameter=b>\n>\n</parameter>\n</function>", {"a": "x", "b": ">"}),
    ("<function=f>\n<parameter=a>\n<parameter=b>\n</parameter>\n</function>", {"a": "<parameter=b>"}),
]  # fmt: skip


@pytest.mark.parametrize(("text", "arguments"), READ_WITH_TAGS)
def test_tags_are_read(text: str, arguments: dict[str, Any]) -> None:
    assert QWEN_XML.read(text, {}) == [Call("f", arguments)]


def test_several_calls_stand_between_one_pair_of_marks() -> None:
    """As MiniMax-M2's template writes them; a model may leave out line breaks, and end a value where it begins."""
    calls = [Call("f", {"a": "x", "b c": [1, "</parameter"]}), Call("g", {})]
    (text,) = MINIMAX_XML.write(calls)
    assert text == (
        '\n<invoke name="f">\n<parameter name="a">x</parameter>\n'
        '<parameter name="b c">[1, "</parameter"]</parameter>\n</invoke>\n<invoke name="g">\n</invoke>\n'
    )
    assert MINIMAX_XML.read(text, {}) == calls
    tight = '<invoke name="f"><parameter name="a"></parameter></invoke>'
    assert MINIMAX_XML.read(tight, {}) == [Call("f", {"a": ""})]
    lines = '<invoke name="f"><parameter name="a">\nx\n</parameter></invoke>'
    assert MINIMAX_XML.read(lines, {}) == [Call("f", {"a": "\nx\n"})]


def test_keys_and_values_are_read_with_and_without_line_breaks() -> None:
    """In both forms; JSON never spells what ends it, and a name of a parameter that holds a mark is not bound."""
    told = "f<arg_key>a</arg_key>\n\n<arg_value>x\n</arg_value> <arg_key> b c </arg_key><arg_value>[1]</arg_value>\n"
    for form in (GLM_XML, GLM_TIGHT):
        assert form.read(told, {}) == [Call("f", {"a": "x\n", "b c": [1]})]
        (text,) = form.write([Call("f", {"a": ["</arg_value>"]})])
        assert "\\u003c/arg_value>" in text and form.read(text, {}) == [Call("f", {"a": ["</arg_value>"]})]
    assert GLM_XML.write([Call("f", {"a": "x"})]) == ["f\n<arg_key>a</arg_key>\n<arg_value>x</arg_value>\n"]
    assert GLM_TIGHT.write([Call("f", {"a": "x"})]) == ["f<arg_key>a</arg_key><arg_value>x</arg_value>"]
    tool = {"name": "f", "parameters": {"properties": {"</arg_key>": {"type": "integer"}}, "required": ["</arg_key>"]}}
    with pytest.raises(GrammarError, match="arg_key"):
        constraint_of(GLM_XML, [tool])


def test_keys_and_values_are_bound_where_their_tags_are_texts() -> None:
    """A vocabulary without tokens for them: the demo's own."""
    tool = {"name": "f", "parameters": {"properties": {"a": {"type": "string"}}, "required": ["a"]}}
    plain = Tokenizer(demo_checkpoint())
    compiler = GrammarCompiler(plain.as_json, plain.size, [plain.special_id("<|im_end|>") or 0])
    bound = [bind_tool(found) for found in read_tools([tool])]
    for form in (GLM_XML, GLM_TIGHT):
        constraint = compiler.start(Grammar("lark", calls_grammar(form, bound, plain, False)))
        for token in plain.encode(form.write([Call("f", {"a": "x <arg_value> y"})])[0] + form.call_end):
            assert constraint.allowed()[token]
            constraint.accept(token)


NO_CALLS = {
    "GlmXml": ["", "\n", "<arg_key>a</arg_key><arg_value>1</arg_value>", "f<arg_key>a</arg_key>", "<tool_call>f",
               "f<arg_key>a</arg_key><arg_value>1", "f<arg_key>a</arg_key>x<arg_value>1</arg_value>", "x" * 200_000],
    "DeepSeekBare": ["x", "<｜tool▁call▁begin｜>f<｜tool▁sep｜>{<｜tool▁call▁end｜>", "x" * 200_000,
                     "<｜tool▁call▁begin｜>f<｜tool▁sep｜>[]<｜tool▁call▁end｜>",
                     "<｜tool▁call▁begin｜> <｜tool▁sep｜>{}<｜tool▁call▁end｜>"],
    "MiniMaxXml": ["", "x", '<invoke name="f">', '<invoke name="">\n</invoke>', '<invoke name="f"></invoke>x',
                   '<invoke name="f"><parameter name="a">x</invoke>', "x" * 200_000, "<invoke name=f></invoke>"],
    "QwenXml": ["", "x", "<function=f>", "<function=>\n</function>", "<function=f>\n<parameter=a>\nx", "x" * 200_000,
                "<function=f></function>x", "<function=f>\n<parameter=a>\nx</parameter>\n</function>",
                "<function=f>\nx</function>"],
    "Hermes": ["", "{", '{"name": "f", "arguments": {', '{"arguments": {}}', '{"name": "f"} {"a": 3}', "x" * 200_000],
    "Hunyuan": ["", "[", '[{"name": "f", "arguments": {', '[{"arguments": {}}]', '[{"name": "f"}] x', "x" * 200_000],
    "Harmony": ["", "x", "{}", "commentary to=functions.f", "commentary<|message|>{}", "x" * 200_000,
                "commentary to=functions.<|message|>{}", "commentary to=functions.f<|message|>[]",
                "commentary to=functions.f<|message|>{", "to=f" + " x" * 2000 + "<|message|>{}"],
    "DeepSeek": ["x", "<｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{\n```<｜tool▁call▁end｜>", "x" * 200_000,
                 "<｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n[]\n```<｜tool▁call▁end｜>"],
}  # fmt: skip


@pytest.mark.parametrize(
    "dialect",
    [HERMES, HUNYUAN, QWEN_XML, MINIMAX_XML, GLM_XML, GLM_TIGHT, DEEPSEEK, DEEPSEEK_BARE, HARMONY],
    ids=lambda d: type(d).__name__,
)
def test_what_is_no_call_in_a_form_is_an_error(dialect: Dialect) -> None:
    for text in NO_CALLS[type(dialect).__name__]:
        with pytest.raises(ToolCallError):
            dialect.read(text, {})


@every_dialect
def test_thousands_of_names_are_read_in_one_pass(dialect: Dialect) -> None:
    names = dict.fromkeys((f"a {n}" for n in range(9000)), lambda _: True)
    count = 9000 if dialect is PYTHONIC else 800  # the other forms take more characters
    one = [Call("f", dict.fromkeys(list(names)[:count], 1))]
    many = [Call(f"f{n % 999}", {}) for n in range(count)]
    parameters = {"f": names, **{f"f{n}": names for n in range(999)}}
    for called in (one, many):
        assert [call for text in dialect.write(called) for call in dialect.read(text, parameters)] == called


BITS = [
    "commentary to=functions.f", " <|constrain|>json", "<|message|>",
    '<invoke name="', "</invoke>", '<parameter name="', '">',
    "<function=", "</function>", "<parameter=", "</parameter>", "\n", ">", "f", "a", '{"name": "f", "arguments": {',
    "}", "{", "[", "]", '"', "<｜tool▁call▁begin｜>function<｜tool▁sep｜>", "\n```json\n", "\n```<｜tool▁call▁end｜>",
    "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>",
    "1e999", "NaN", "\ud83d", "(", ")", "=", ",", "\\u", "[" * 5000, '{"a":' * 5000,
]  # fmt: skip


@every_dialect
@settings(max_examples=300, deadline=None)
@given(text=st.lists(st.sampled_from(BITS), max_size=14).map("".join))
def test_whatever_a_model_writes_is_calls_or_an_error(dialect: Dialect, text: str) -> None:
    try:
        calls = dialect.read(text, {"f": {"a": _anything}})
    except ToolCallError:
        return
    for call in calls:
        assert call.name and json.dumps(call.arguments, allow_nan=False)


def test_a_dialect_is_chosen_by_marks() -> None:
    for source in ("<|tool_list_start|>", "List of tools: [", "nothing of it"):
        assert dialect_of(source) is PYTHONIC
    assert dialect_of('{{ "<tool_call>\\n{\\"name\\": " }}{{ ", \\"arguments\\": " }}') is HERMES
    assert dialect_of("<tool_call>{{ call.name }}<arg_key>{{ k }}</arg_key>\n<arg_value>") is GLM_XML
    assert dialect_of("<tool_call>{{ call.name }}<arg_key>{{ k }}</arg_key><arg_value>") is GLM_TIGHT
    assert dialect_of("{{ '<｜tool▁calls▁begin｜>' + name + '<｜tool▁sep｜>' }}") is DEEPSEEK_BARE
    assert dialect_of("<tool_call>{{ '<function=' + call.name }}{{ '<parameter=' + name }}") is QWEN_XML
    assert dialect_of("{{ '<｜tool▁calls▁begin｜>' + '```json' }}") is DEEPSEEK
    assert dialect_of("{{ '<|start|>assistant<|channel|>final<|message|>' }}") is HARMONY
    assert dialect_of("{{ '<tool_calls>[{' }}") is HUNYUAN
    assert dialect_of("{{ '<|extra_4|>' }}{{ m.content + '<|extra_0|>' }}") is HUNYUAN  # tells of no calls
    assert dialect_of("<|extra_4|><|extra_0|><tool_calls>\n<tool_call>f\n```json") is PYTHONIC  # of its successors
    assert dialect_of("<minimax:tool_call>{{ '<invoke name=\"' + name }}<parameter name=\"") is MINIMAX_XML


def _wide(arguments: int) -> Iterator[tuple[str, Any]]:
    for n in range(arguments):
        yield f"a{n}", {"$ref": f"#/$defs/T{n % 70}"}


def large_tool(arguments: int) -> dict[str, Any]:
    """79 kB of definitions, most of them descriptions, behind some arguments."""
    types = {
        f"T{n}": {"description": "x" * 300, "type": "object", "properties": {
            f"p{m}": {"type": "string", "description": "y" * 80} for m in range(6)}} for n in range(70)
    }  # fmt: skip
    schema = {"type": "object", "$defs": types, "properties": dict(_wide(arguments))}
    assert len(json.dumps(schema)) > 70_000
    return {"name": "create", "parameters": schema}


def test_a_tool_of_79_kb_is_taken_where_the_context_has_room(tmp_path: Path) -> None:
    """Its text alone is more than the demo model's context, which is told before anything is compiled; the same model
    with more positions takes it, as a server that trusts nobody."""
    source = tmp_path / "checkpoint"
    shutil.copytree(demo_checkpoint(), source)
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    (source / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 1 << 17}), encoding="utf-8")
    convert(source, tmp_path / "model", find_recipe("int4"))
    with Model.load(tmp_path / "model", threads=1, context=1 << 17) as model:
        request = model.prepare("x", tools=[large_tool(24)], max_tokens=4, untrusted=True)
        assert request.calls is not None and not request.checks and len(request.token_ids) > 4096
    with (
        Model.load(tmp_path / "model", threads=1, context=2048) as model,
        pytest.raises(ContextOverflowError, match=r"at least \d+ tokens, and the maximum context length is 2048 "),
    ):
        model.prepare("x", tools=[large_tool(24)], max_tokens=4)


def test_definitions_are_shared_and_not_copied() -> None:
    """Behind 24 arguments, and behind more that are the same."""
    sizes = []
    for arguments in (24, 140):
        tool = large_tool(arguments)
        sizes.append(len(calls_grammar(PYTHONIC, [bind_tool(tool) for tool in read_tools([tool])], TOKENIZER)))
        assert follows(constraint_of(PYTHONIC, [tool]), PYTHONIC, ['[create(a0={"p0": "x"}, a3={})]'])
    assert sizes[0] < 20_000 and sizes[1] < 60_000  # 70 values at the most, whatever the arguments
