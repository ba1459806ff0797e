"""Calls as JSON objects: {"name": ..., "arguments": {...}}, one or several, bare or in OpenAI's form."""

from __future__ import annotations

from typing import Any

from edge_lfm.errors import ToolCallError
from edge_lfm.text.dialects.dialect import Call
from edge_lfm.text.json_values import read_json

MAX_TEXT = 100_000
"""Characters of a text of calls."""


def read_json_calls(text: str) -> list[Call]:
    """The calls of a JSON text.

    Raises:
        ToolCallError: it holds anything else.
    """
    try:
        value = read_json(text, strict=False)
        return [_call(item) for item in (value if isinstance(value, list) else [value])]
    except (ValueError, RecursionError) as error:
        raise ToolCallError(f"the tool call cannot be read: {error!s:.200}") from None


def read_arguments(text: str) -> dict[str, Any]:
    """The arguments of one call, as a JSON object.

    Raises:
        ToolCallError: the text is none.
    """
    try:
        arguments = read_json(text, strict=False)
    except (ValueError, RecursionError) as error:
        raise ToolCallError(f"the tool call cannot be read: {error!s:.200}") from None
    if not isinstance(arguments, dict):
        raise ToolCallError("the arguments of a tool call must be an object")
    return arguments


def _call(item: Any) -> Call:
    function = item.get("function", item) if isinstance(item, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise ValueError("no call")
    arguments = function.get("arguments", function.get("parameters", {}))
    if isinstance(arguments, str):
        arguments = read_json(arguments or "{}", strict=False)
    if not isinstance(arguments, dict):
        raise ValueError("arguments must be an object")
    return Call(function["name"], arguments)
