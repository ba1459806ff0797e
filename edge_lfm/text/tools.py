"""Tools as an application describes them, in OpenAI's form or bare: read, checked by name, and chosen from."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edge_lfm.errors import UsageError

MAX_TOOLS = 1000
_NAME = re.compile(r"[\w./:-]+")
"""OpenAI's names and MCP's, and letters of every script; what would end a name in a call is left out."""


@dataclass(frozen=True)
class Tool:
    """One tool. schema: of the object of its arguments. strict: it is bound by the grammar exactly, or refused."""

    name: str
    schema: Mapping[str, Any] = field(default_factory=dict)
    strict: bool = False


def read_tools(tools: Sequence[Any]) -> list[Tool]:
    """The tools of a request.

    Raises:
        UsageError: one has no proper name or schema, two have the same name, or there are too many.
    """
    if len(tools) > MAX_TOOLS:
        raise UsageError(f"there are {len(tools)} tools", hint=f"at most {MAX_TOOLS} are taken")
    tools_read: list[Tool] = []
    for n, item in enumerate(tools):
        function = item.get("function", item) if isinstance(item, Mapping) else None
        name = function.get("name") if isinstance(function, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(name, str) or not _NAME.fullmatch(name):
            raise UsageError(f"tool {n} has no proper name", hint="use letters, digits and _ - . / :")
        schema = function.get("parameters")
        if not isinstance(schema, Mapping | None):
            raise UsageError(f"the parameters of the tool {name} are no schema", hint='give {"type": "object", ...}')
        tools_read.append(Tool(name, schema or {}, function.get("strict") is True))
    if len({tool.name for tool in tools_read}) < len(tools_read):
        raise UsageError("two tools have the same name", hint="rename one")
    return tools_read


def chosen_tool(choice: Any, tools: Sequence[Tool]) -> Tool | None:
    """The one tool that a tool choice names: its name, or OpenAI's object; None for auto, none and required.

    Raises:
        UsageError: there is no such tool, or the choice is none of these.
    """
    if choice is None or choice in ("auto", "none", "required"):
        return None
    name = choice
    if isinstance(choice, Mapping):
        holder = choice.get("function", choice)
        name = holder.get("name") if isinstance(holder, Mapping) else None
    tool_named = next((tool for tool in tools if tool.name == name), None)
    if tool_named is None:
        raise UsageError(
            f"tool_choice names {name!r:.60}, which is no tool",
            hint="auto, none, required, or a tool's name",
            param="tool_choice",
        )
    return tool_named
