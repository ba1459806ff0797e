"""The tools of /v1/responses: functions, and groups of functions under a name (`namespace`).

To the model a group's functions are tools like others, each told with what is said of the group; a call names it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal

from msgspec import structs

from edge_lfm.server.failures import RequestError
from edge_lfm.server.tools import Described, Function, Tool

Json = dict[str, Any]


class ResponseTool(Described):
    """A function, or a group of them; tools: of a group."""

    kinds: ClassVar[frozenset[str]] = frozenset({"function", "namespace"})

    type: Literal["function", "namespace"] = "function"
    tools: list[Tool] | None = None

    def __post_init__(self) -> None:
        if self.type == "namespace" and (self.name is None or not self.tools):
            raise ValueError("a namespace has a name and tools")
        if self.type == "function" and self.tools is not None:
            raise ValueError("a function has no tools; give type namespace")

    @property
    def functions(self) -> Iterator[Tool]:
        """Those that the model is told of, bare."""
        if self.type == "function":
            yield _bare(self.described)
        for tool in self.tools or ():
            texts = filter(None, (self.description, tool.described.description))
            yield _bare(structs.replace(tool.described, description="\n".join(texts) or None))

    def echo(self) -> Json:
        """The tool as a response tells it."""
        if self.type == "function":
            return {"type": "function", **self.plain()}
        group = {"type": self.type, "name": self.name, "description": self.description}
        return group | {"tools": [{"type": "function", **tool.plain()} for tool in self.tools or ()]}


def _bare(function: Function) -> Tool:
    return Tool(None, function.name, function.description, function.parameters, function.strict)


def functions_of(tools: Sequence[ResponseTool] | None) -> list[Tool]:
    """All functions, those of groups too.

    Raises:
        RequestError: a group's function is called as another is: a call would not say which is meant.
    """
    found: dict[str, Tool] = {}
    for n, group in enumerate(tools or ()):
        for function in group.functions:
            name = function.described.name
            if name in found:
                raise RequestError(f"tools[{n}] has a function {name!r:.60}, and so has another tool", f"tools[{n}]")
            found[name] = function
    return list(found.values())


def namespaces_of(tools: Sequence[ResponseTool] | None) -> dict[str, str]:
    """The group of each function that is of one."""
    groups = [group for group in tools or () if group.type == "namespace"]
    return {function.described.name: group.name or "" for group in groups for function in group.functions}
