"""Schemas made ready for grammars: rewritten exactly, or refused by the keyword's name; judged by jsonschema."""

from __future__ import annotations

import io
import itertools
import json
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from edge_lfm.demo import demo_checkpoint
from edge_lfm.engine.grammar import GrammarCompiler, json_grammar
from edge_lfm.errors import GrammarError
from edge_lfm.text.schemas.document import read_schema
from edge_lfm.text.schemas.negation import other_than
from edge_lfm.text.schemas.rewriting import bind
from edge_lfm.text.schemas.values import Checker
from edge_lfm.text.tokenizer import Tokenizer
from edge_lfm.text.tool_binding import bind_tool
from edge_lfm.text.tools import Tool

TOKENIZER = Tokenizer(demo_checkpoint())
STOP = TOKENIZER.special_id("<|im_end|>") or 0
COMPILER = GrammarCompiler(TOKENIZER.as_json, TOKENIZER.size, [STOP])
VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    1,
    2,
    5,
    -3,
    1.5,
    "",
    "a",
    "b",
    "ab",
    "x",
    "foo",
    [],
    [1],
    ["a"],
    [1, "a"],
    {},
    {"a": 1},
    {"a": "x"},
    {"b": 1},
    {"a": 1, "b": 1},
    {"a": 1, "b": "x"},
    {"a": "x", "b": 2},
    {"c": 1},
    {"a": 1, "c": 1},
    {"a": 1, "b": 2, "c": 3},
    {"kind": "dog", "n": 1},
    {"kind": "cat", "n": 1},
    {"kind": "cat", "lives": 9},
    {"a": {"b": 1}},
    {"a": None},
]


def takes(schema: Any, value: Any) -> bool:
    """Whether the grammar of a schema takes a value, written in any order of its properties."""
    grammar = json_grammar(schema)
    return any(_takes_text(grammar, json.dumps(v, ensure_ascii=False)) for v in _orders(value))


def _takes_text(grammar: Any, text: str) -> bool:
    constraint = COMPILER.start(grammar)
    for token in TOKENIZER.encode(text):
        if not constraint.allowed()[token]:
            return False
        constraint.accept(token)
    return bool(constraint.allowed()[STOP])


def _orders(value: Any) -> Iterator[Any]:
    if isinstance(value, dict) and value:
        return (dict(items) for items in itertools.islice(itertools.permutations(value.items()), 24))
    return iter([value])


TYPED = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}}
PETS = [
    {"type": "object", "properties": {"kind": {"const": "dog"}, "n": {"type": "integer"}}, "required": ["kind"]},
    {"type": "object", "properties": {"kind": {"const": "cat"}, "lives": {"type": "integer"}}, "required": ["kind"]},
]
EXACT: list[dict[str, Any]] = [
    {"oneOf": PETS},
    {"oneOf": [{"type": "string"}, {"type": "integer"}]},
    {"oneOf": [{"const": 1}, {"type": "string"}]},
    {**TYPED, "oneOf": [{"required": ["a"]}, {"required": ["b"]}]},
    {"oneOf": [{"maximum": 2}, {"type": "string"}]},
    {"type": "integer", "oneOf": [{"minimum": 2}, {"maximum": 2}]},
    {"type": "string", "oneOf": [{"const": "a"}, {}]},
    {"type": "string", "not": {"enum": ["a", "ab", ""]}},
    {"not": {"type": "object"}},
    {"not": {"const": 5}},
    {"type": "object", "not": {"required": ["a"]}},
    {**TYPED, "not": {"properties": {"a": {"const": 1}}, "required": ["a"]}},
    {"enum": [1, "a", None, {"a": 1}], "not": {"type": "string"}},
    {"enum": ["a", "foo"], "minLength": 2},
    {
        "if": {"properties": {"kind": {"const": "cat"}}, "required": ["kind"]},
        "then": {"required": ["lives"]},
        "type": "object",
    },
    {"type": "object", "if": {"required": ["a"]}, "then": {"required": ["b"]}, "else": {"required": ["c"]}},
    {"type": "object", "dependentRequired": {"a": ["b"]}},
    {"type": "object", "dependencies": {"a": ["b"]}},
    {**TYPED, "dependentSchemas": {"a": {"required": ["b"], "properties": {"b": {"minimum": 2}}}}},
    {"type": "object", "propertyNames": {"type": "string"}},
    {"type": "object", "propertyNames": {"enum": ["a", "b"]}},
    {"type": "object", "propertyNames": {"pattern": "^[ab]$"}},
    {"type": "object", "propertyNames": {"maxLength": 1}},
    {**TYPED, "additionalProperties": False, "minProperties": 2},
    {**TYPED, "minProperties": 1},
    {**TYPED, "additionalProperties": False, "maxProperties": 1},
    {**TYPED, "unevaluatedProperties": False},
    {"type": "object", "properties": {"a": {"type": "integer"}}},
    {"type": "object", "patternProperties": {"^a": {"type": "integer"}}},
    {"anyOf": [{"type": "integer"}, {"type": "string", "maxLength": 1}]},
    {"allOf": [{"minimum": 1}, {"type": "integer"}]},
    {"$ref": "#/$defs/a", "$defs": {"a": {"type": ["integer", "null"]}}},
    {"type": ["integer", "object"], "required": ["a"]},
    {"oneOf": [{"type": "array", "items": {"type": "string"}}, {"type": "array", "items": {"type": "integer"}}]},
    {"oneOf": [{"oneOf": [{"const": "a"}, {"const": "b"}]}, {"type": "string", "maxLength": 1}]},
]


@pytest.mark.parametrize("schema", EXACT, ids=lambda s: json.dumps(s)[:60])
def test_what_is_rewritten_accepts_what_the_schema_accepts(schema: dict[str, Any]) -> None:
    draft = jsonschema.Draft7Validator if "dependencies" in schema else jsonschema.Draft202012Validator
    for value in VALUES:
        assert takes(schema, value) == draft(schema).is_valid(value), value


@pytest.mark.parametrize(
    ("schema", "keyword"),
    [
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"type": "array", "contains": {"const": 1}}, "contains"),
        ({"type": "string", "not": {"pattern": "a"}}, "not over pattern"),
        ({"pattern": "^(?!a)"}, "looks around"),
        ({"oneOf": [{"type": "number"}, {"type": "integer"}]}, "type integer"),
        ({"$dynamicRef": "#x"}, "dynamicRef"),
        ({"$ref": "#/$defs/x", "unevaluatedProperties": False, "$defs": {"x": True}}, "unevaluatedProperties"),
        ({"type": "object", "minProperties": 2}, "minProperties"),
        ({"$ref": "http://example.com/x"}, "refers to"),
        ({"type": "strin"}, "no type"),
        ({"properties": []}, "properties"),
        ({"minimum": "1"}, "minimum"),
        ({"enum": []}, "enum"),
        ({"const": 1 << 60}, "beyond"),
        ({"minimum": float("nan")}, "NaN or infinity"),
        ({"x": {1}}, "not JSON"),
        ({"const": "\x01"}, "control"),
        ({"const": "\ud800"}, "surrogate"),
        ({"required": [1]}, "required"),
        ({"anyOf": [3]}, "stands where"),
    ],
)
def test_what_cannot_be_bound_is_refused_by_name(schema: Any, keyword: str) -> None:
    with pytest.raises(GrammarError, match=keyword):
        json_grammar(schema)


def test_a_branch_that_cannot_be_bound_leaves_the_others() -> None:
    decimal = {"anyOf": [{"type": "number"}, {"type": "string", "pattern": "^(?!x)[0-9]+$"}]}
    assert takes(decimal, 1.5) and not takes(decimal, "1")
    with pytest.raises(GrammarError, match="uniqueItems"):  # null alone would not do
        json_grammar({"anyOf": [{"type": "array", "uniqueItems": True}, {"type": "null"}]})


@pytest.mark.parametrize("name", ["int64", "binary", "uri-reference", "regex", "decimal", "x"])
def test_an_unknown_format_says_nothing(name: str) -> None:
    assert takes({"type": "string", "format": name}, "ab") and takes({"type": "string", "format": name}, "")
    assert not takes({"type": "string", "format": "date"}, "ab")


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"type": "object", "properties": {"a": {"type": "integer"}}}, '{"\\u0061": "x"}'),
        ({"type": "object", "patternProperties": {"^a": {"type": "integer"}}}, '{"b": 1, "\\u0061b": "x"}'),
        ({"properties": {"o": {"type": "object", "properties": {"a": {"type": "null"}}}}}, '{"o": {"\\u0061": 1}}'),
    ],
)
def test_a_key_that_is_spelled_with_an_escape_is_no_other_key(schema: dict[str, Any], text: str) -> None:
    grammar = json_grammar(schema)
    assert not _takes_text(grammar, text) and _takes_text(grammar, '{"b": "x"}')


def test_a_pattern_of_other_texts() -> None:
    texts = ["", "a", "ab", "b]", "^", "-"]
    pattern = re.compile(f"^(?:{other_than(texts)})$")
    for text in ("", "a", "ab", "abc", "b", "b]", "b]x", "^", "^^", "-", "\\", "\n", "z"):
        assert (pattern.match(text) is None) == (text in texts), text


def cases(folder: Path) -> Iterator[tuple[str, Any, list[Any]]]:
    """The JSON Schema test suite's groups, draft 2020-12, that need no other documents."""
    draft = "https://json-schema.org/draft/2020-12/schema"
    with tarfile.open(folder / "jsonschema/JSON-Schema-Test-Suite.tar.gz") as archive:
        for member in archive:
            if re.search(r"tests/draft2020-12/[^/]+\.json$", member.name):
                raw = archive.extractfile(member)
                assert raw is not None
                groups = [g for g in json.load(io.TextIOWrapper(raw, "utf-8")) if isinstance(g, dict)]
                for group in groups:
                    if not re.search(r"http|\\\\p", json.dumps(group["schema"]).replace(draft, "")):
                        yield f"{Path(member.name).stem}: {group['description']}", group["schema"], group["tests"]


@pytest.mark.slow
def test_no_instance_of_the_suite_is_taken_against_its_schema(shared_data: Path) -> None:
    """Told by the suite itself; also the checker says only what is so, and most of it."""
    bound, found, told = 0, 0, 0
    for name, schema, tests in cases(shared_data):
        document = read_schema_or_none(schema)
        for test in tests:
            if document is not None:
                verdict = Checker(document, "tried").accepts(document.root, test["data"])
                assert verdict in (None, test["valid"]) or "format" in name, (name, test["description"])
                told += verdict is not None
            try:
                taken = takes(schema, test["data"])
            except GrammarError:
                continue
            bound += 1
            found += taken
            assert test["valid"] or not taken, (name, test["description"])
    assert bound > 500 and found > 200 and told > 800, (bound, found, told)


def read_schema_or_none(schema: Any) -> Any:
    try:
        return read_schema(schema)
    except GrammarError:
        return None


@pytest.mark.slow
def test_endless_schemas_end() -> None:
    n = 40
    steps = {f"a{i}": {"anyOf": [{"$ref": f"#/$defs/a{i + 1}"}] * 2} for i in range(n)} | {f"a{n}": {"const": "zzz"}}
    bomb = {"$defs": steps, "$ref": "#/$defs/a0"}
    bind(bomb)
    document = read_schema(bomb)
    assert Checker(document).accepts(document.root, 5) in (None, False)
    long = read_schema({"items": {"enum": [f"value {n}" for n in range(45_000)]}})
    assert Checker(long).accepts(long.root, ["value 44999"] * 3) is True
    assert Checker(long).accepts(long.root, ["value 44999"] * 10_000) is None
    loop = read_schema({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}})
    assert Checker(loop).accepts(loop.root, 5) is None
    wide = {
        "oneOf": [{"type": "object", "properties": {f"k{i}": {"const": i}}, "required": [f"k{i}"]} for i in range(60)]
    }
    bind(wide)


def test_a_tool_that_cannot_be_bound_exactly_is_checked_or_refused() -> None:
    unique = {
        "type": "object",
        "properties": {"a": {"type": "array", "items": {"type": "integer"}, "uniqueItems": True}},
    }
    tool = bind_tool(Tool("f", unique))
    check = tool.check(tried=False)
    assert check({"a": [1, 2]}) is None and "uniqueItems" in (check({"a": [1, 1]}) or "")
    with pytest.raises(GrammarError, match=r"tool f .*uniqueItems"):
        bind_tool(Tool("f", unique, strict=True))
    looks = bind_tool(Tool("g", {"type": "object", "properties": {"a": {"type": "string", "pattern": "^(?!x)"}}}))
    assert looks.check(tried=True)({"a": "x"}) is not None and looks.check(tried=True)({"a": "y"}) is None
    with pytest.raises(GrammarError, match="tool g"):  # a stranger's pattern is not tried
        looks.check(tried=False)
