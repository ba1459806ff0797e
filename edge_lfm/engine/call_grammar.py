"""The grammar of tool calls for given tools: `[name(arg=value, ...), ...]`, ended by the family's marker.

Names are those of the tools; arguments come by name, in the schema's order, the required ones always; each value
follows its schema. Knows JSON schemas and Lark as llguidance reads it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from edge_lfm.engine.grammar import JSON_STYLE, Grammar, json_grammar
from edge_lfm.errors import GrammarError, UsageError

_NAME = re.compile(r"[^\W\d][\w.-]*")
MOST_TOOLS = 1000


def functions_of(tools: Sequence[Any]) -> list[Mapping[str, Any]]:
    """The functions of tools in OpenAI's form, or given bare: each with a name.

    Raises:
        UsageError: one has no proper name, or two have the same.
    """
    found = []
    for n, tool in enumerate(tools):
        function = tool.get("function", tool) if isinstance(tool, Mapping) else None
        name = function.get("name") if isinstance(function, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(name, str) or not _NAME.fullmatch(name):
            raise UsageError(f"tool {n} has no proper name", hint='a tool is {"name": ..., "parameters": {...}}')
        found.append(function)
    names = [str(f["name"]) for f in found]
    if len(set(names)) < len(names):
        raise UsageError("two tools have the same name", hint="rename one")
    return found


def chosen_tool(choice: Any, functions: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The one function that a tool choice names: its name, or OpenAI's object; None for auto, none and required.

    Raises:
        UsageError: there is no such function, or the choice is none of these.
    """
    if choice in (None, "auto", "none", "required"):
        return None
    name = choice
    if isinstance(choice, Mapping):
        holder = choice.get("function", choice)
        name = holder.get("name") if isinstance(holder, Mapping) else None
    found = next((f for f in functions if f["name"] == name), None)
    if found is None:
        raise UsageError(
            f"tool_choice names {name!r:.60}, which is no tool", hint="auto, none, required, or a tool's name"
        )
    return found


def call_grammar(functions: Sequence[Mapping[str, Any]], end_id: int, parallel: bool) -> Grammar:
    """What may follow the marker that begins calls: one call, or if `parallel` several, and the marker that ends them.

    Raises:
        GrammarError: a tool's parameters are no schema of an object.
    """
    more = '(", " call)*' if parallel else ""
    rules = [f'start: "[" call {more} "]" <[{end_id}]>']
    rules.append("call: " + " | ".join(f"f{n}" for n in range(len(functions))))
    for n, function in enumerate(functions):
        rules += _function_rules(f"f{n}", function)
    return Grammar("lark", "\n".join(rules))


def _function_rules(rule: str, function: Mapping[str, Any]) -> list[str]:
    """Rules for one function: after each argument, the rest with a comma in front; optional ones may be skipped."""
    name, schema = function["name"], function.get("parameters") or {}
    properties = schema.get("properties", {}) if isinstance(schema, Mapping) else None
    required = schema.get("required", []) if isinstance(schema, Mapping) else []
    if not isinstance(properties, Mapping) or not isinstance(required, Sequence):
        raise GrammarError(f"the parameters of the tool {name} are no schema of an object", hint="give its properties")
    missing = [key for key in required if key not in properties]
    if missing:
        raise GrammarError(
            f"the tool {name} requires {missing[0]!r:.40}, which it does not describe", hint="describe it"
        )
    definitions = {key: schema[key] for key in ("$defs", "definitions") if key in schema}
    rules = [f'{rule}: "{name}(" {rule}_0_first ")"']
    for n, (argument, value) in enumerate(properties.items()):
        if not _NAME.fullmatch(argument):
            raise GrammarError(f"the tool {name} has an argument {argument!r:.40}, which is no name", hint="rename it")
        for place, comma in (("first", ""), ("next", ", ")):
            taken = f'"{comma}{argument}=" {rule}_{n}_value {rule}_{n + 1}_next'
            skipped = "" if argument in required else f" | {rule}_{n + 1}_{place}"
            rules.append(f"{rule}_{n}_{place}: {taken}{skipped}")
        rules.append(f"{rule}_{n}_value: {_value(value, definitions, f'{name}({argument})')}")
    rules += [f'{rule}_{len(properties)}_{place}: ""' for place in ("first", "next")]
    return rules


def _value(schema: Any, definitions: Mapping[str, Any], where: str) -> str:
    """A value as the family writes it: Python's True, False and None at the top, JSON otherwise."""
    kind = schema.get("type") if isinstance(schema, Mapping) else None
    if kind == "boolean" and "enum" not in schema and "const" not in schema:
        return '"True" | "False"'
    if kind == "null":
        return '"None"'
    if not isinstance(schema, Mapping | bool):
        raise GrammarError(f"the schema of {where} is none", hint="give a JSON schema")
    whole: Any = {**schema, **definitions, "x-guidance": JSON_STYLE} if isinstance(schema, Mapping) else {}
    json_grammar(whole)  # checks its depth and its numbers
    return f"%json {json.dumps(whole, ensure_ascii=True)}"
