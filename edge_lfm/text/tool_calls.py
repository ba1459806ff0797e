"""Tool calls as the family writes them: `[name(arg="x", n=3), other()]`, or JSON; read and written.

Python's own parser reads them, never evaluates them: only literals pass. Both quote styles, true/null/None, dotted
names, reserved words as argument names and numbers with leading zeros are understood. Knows no tokens.
"""

from __future__ import annotations

import ast
import json
import keyword
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edge_lfm.errors import ToolCallError

_CONSTANTS = {"true": True, "false": False, "null": None, "none": None, "True": True, "False": False, "None": None}
_MOST_TEXT = 100_000
_PREFIX = "edge_lfm_reserved_"
_STRING = re.compile(r"""("(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')""", re.DOTALL)
_RESERVED = re.compile(rf"\b({'|'.join(keyword.kwlist)})\s*=(?!=)")
_LEADING_ZEROS = re.compile(r"(?<![\w.])0+(?=\d)")


@dataclass(frozen=True)
class Call:
    """One call: a tool's name and its arguments by name."""

    name: str
    arguments: dict[str, Any]


def parse_calls(text: str, parameters: Mapping[str, Sequence[str]] | None = None) -> list[Call]:
    """The calls of the text between the call markers.

    Args:
        parameters: the names of each tool's parameters in order, for calls without argument names.

    Raises:
        ToolCallError: it is not a list of calls with literal arguments.
    """
    text = text.strip()
    if len(text) > _MOST_TEXT:
        raise ToolCallError(f"a tool call of {len(text)} characters")
    try:
        return _from_json(json.loads(text))
    except (ValueError, RecursionError):
        pass
    try:
        tree = ast.parse(_repaired(text), mode="eval").body
        calls = tree.elts if isinstance(tree, ast.List | ast.Tuple) else [tree]
        return [_call(node, parameters or {}) for node in calls]
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ToolCallError(f"the tool call cannot be read: {error}") from None


def write_calls(calls: Sequence[Call]) -> str:
    """The text of calls, as models of the family write it."""
    return "[" + ", ".join(_write_call(call) for call in calls) + "]"


def _write_call(call: Call) -> str:
    return f"{call.name}({', '.join(f'{name}={_literal(value)}' for name, value in call.arguments.items())})"


def _literal(value: Any) -> str:
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_literal(str(k))}: {_literal(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_literal, value)) + "]"
    return repr(value)


def _from_json(value: Any) -> list[Call]:
    calls = []
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, dict):
            item = item.get("function", item)
        if not isinstance(item, dict) or not isinstance(item.get("name"), str):
            raise ValueError("no call")
        arguments = item.get("arguments", item.get("parameters", {}))
        if isinstance(arguments, str):
            arguments = json.loads(arguments)
        if not isinstance(arguments, dict):
            raise ValueError("arguments must be an object")
        calls.append(Call(item["name"], arguments))
    return calls


def _repaired(text: str) -> str:
    """The same text, where Python's grammar would stumble over harmless things: `from=`, `007`."""
    parts = _STRING.split(text)  # the odd ones are string literals
    for n in range(0, len(parts), 2):
        parts[n] = _LEADING_ZEROS.sub("", _RESERVED.sub(_PREFIX + r"\1=", parts[n]))
    return "".join(parts)


def _call(node: ast.expr, parameters: Mapping[str, Sequence[str]]) -> Call:
    if not isinstance(node, ast.Call):
        raise ValueError("no call")
    name = _dotted(node.func)
    arguments: dict[str, Any] = {}
    names = parameters.get(name, ())
    if len(node.args) > len(names):
        raise ValueError(f"{name} has arguments without names")
    for parameter, value in zip(names, node.args, strict=False):
        arguments[parameter] = _value(value)
    for argument in node.keywords:
        if argument.arg is None:
            raise ValueError("** in a call")
        key = argument.arg.removeprefix(_PREFIX)
        if key in arguments:
            raise ValueError(f"{name} has two arguments {key}")
        arguments[key] = _value(argument.value)
    return Call(name, arguments)


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    raise ValueError("the name of a call is no name")


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Name) and node.id in _CONSTANTS:
        return _CONSTANTS[node.id]
    if isinstance(node, ast.List | ast.Tuple):
        return [_value(item) for item in node.elts]
    if isinstance(node, ast.Dict) and all(node.keys):
        return {str(_value(key)): _value(value) for key, value in zip(node.keys, node.values, strict=True) if key}
    value = ast.literal_eval(node)
    if not isinstance(value, str | int | float | bool | None):
        raise ValueError(f"{type(value).__name__} is no JSON value")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("an argument is infinite")
    return value
