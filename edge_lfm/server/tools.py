"""Tools as clients describe them, and which of them may be called."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from msgspec import structs

from edge_lfm.server.failures import RequestError
from edge_lfm.server.fields import Nested
from edge_lfm.server.formats import json_schema

Json = dict[str, Any]
_CACHED = frozenset({"cache_control", "copilot_cache_control"})
"""How a part of the prompt may be cached."""


class Function(Nested):
    """A function that the model may call. strict: its schema is bound exactly, or refused."""

    harmless: ClassVar[frozenset[str]] = _CACHED

    name: str
    description: str | None = None
    parameters: Json | None = None
    strict: bool | None = None


class Described(Nested):
    """A function in OpenAI's wrapping, or bare, as in /v1/responses."""

    harmless: ClassVar[frozenset[str]] = _CACHED

    function: Function | None = None
    name: str | None = None
    description: str | None = None
    parameters: Json | None = None
    strict: bool | None = None

    @property
    def described(self) -> Function:
        """The function.

        Raises:
            RequestError: there is none.
        """
        if self.function is not None:
            return self.function
        if self.name is None:
            raise RequestError("a tool has no name", "tools")
        return Function(self.name, self.description, self.parameters, self.strict)

    def plain(self) -> Json:
        """The tool as templates know it, in the form in which it came."""
        described = {name: value for name, value in structs.asdict(self.described).items() if value is not None}
        return described if self.function is None else {"type": "function", "function": described}


class Tool(Described):
    """A tool that the model may call."""

    kinds: ClassVar[frozenset[str]] = frozenset({"function"})

    type: Literal["function"] = "function"


class Named(Nested):
    """A function by its name."""

    name: str


class AllowedTools(Nested):
    """Those of the tools that may be called, and whether one must be."""

    tools: list[Tool]
    mode: Literal["auto", "required"] = "auto"


class ToolChoice(Nested, omit_defaults=True):
    """Which tool is to be called: one by its name, or some that may be, in OpenAI's older form or its newer."""

    type: Literal["function", "allowed_tools"] | None = None
    function: Named | None = None
    name: str | None = None
    allowed_tools: AllowedTools | None = None
    tools: list[Tool] | None = None
    mode: Literal["auto", "required"] | None = None

    def __post_init__(self) -> None:
        if self.type == "allowed_tools" and self.allowed_tools is None and self.tools is None:
            raise ValueError("a choice of allowed_tools has no tools")
        if self.type != "allowed_tools" and self.function is None and self.name is None:
            raise ValueError("a choice of a function has no name")

    def among(self, tools: list[Tool]) -> tuple[list[Tool], str]:
        """The tools that may be called, and how: auto, required, or the name of one.

        Raises:
            RequestError: it allows a tool that is not there.
        """
        if self.type != "allowed_tools":
            return tools, self.function.name if self.function is not None else self.name or ""
        some = self.allowed_tools or AllowedTools(self.tools or [], self.mode or "auto")
        names = {tool.described.name for tool in some.tools}
        kept = [tool for tool in tools if tool.described.name in names]
        if len(kept) < len(names):
            raise RequestError("tool_choice allows a tool that is not among the tools", "tool_choice")
        return kept, some.mode


def allowed(tools: Sequence[Tool] | None, choice: ToolChoice | str | None) -> tuple[list[Tool], str]:
    """The tools that the model is told of, and how they may be called: auto, none, required, or the name of one.

    Raises:
        RequestError: the choice allows a tool that is not there.
    """
    if choice == "none":
        return [], "none"
    if isinstance(choice, ToolChoice):
        return choice.among(list(tools or []))
    return list(tools or []), choice or "auto"


def check_tools(tools: Sequence[Tool] | None) -> None:
    """Refuse a tool without a name, or whose arguments have no JSON schema.

    Raises:
        RequestError: there is one.
    """
    for n, tool in enumerate(tools or ()):
        parameters = tool.described.parameters
        if parameters is not None:
            json_schema(parameters, f"tools[{n}]")
