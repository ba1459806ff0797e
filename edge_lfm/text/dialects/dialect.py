"""What a form of tool calls must offer: its marks, reading, writing, and the grammar that binds a call to its tool."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from edge_lfm.text.tool_binding import BoundTool, Takes

Parameters = Mapping[str, Mapping[str, Takes]]
"""For each known tool its parameters in order, and for each of them whether it takes a value."""
Marked = Callable[[str], str]
"""The spelling of a mark -> how a Lark grammar says it: as a token, or as a text."""


@dataclass(frozen=True)
class Call:
    """One call: a tool's name and its arguments by name."""

    name: str
    arguments: dict[str, Any]


class Dialect(Protocol):
    """One form of tool calls. Whatever its grammar can force, `read` gives back, and `write` spells it that way."""

    @property
    def call_start(self) -> str:
        """What begins calls: a token, or a text in vocabularies that have no such token."""

    @property
    def call_end(self) -> str:
        """What ends them."""

    @property
    def think_start(self) -> str:
        """What begins reasoning."""

    @property
    def think_end(self) -> str:
        """What ends it."""

    @property
    def inner_marks(self) -> tuple[str, ...]:
        """Further marks of the form, which no content may forge where they are texts."""

    def fits(self, template: str) -> bool:
        """Whether a chat template shows that its model writes calls in this form."""

    def openings(self, names: Sequence[str]) -> tuple[str, ...]:
        """How an answer begins that is a call without the marks around it."""

    def read(self, text: str, parameters: Parameters) -> list[Call]:
        """The calls of the text between two marks.

        Raises:
            ToolCallError: it is none.
        """

    def write(self, calls: Sequence[Call]) -> list[str]:
        """The texts of calls, each of which stands between two marks: one for all calls, or one for each."""

    def grammar(self, tools: Sequence[BoundTool], mark: Marked, parallel: bool) -> str:
        """Lark, as llguidance reads it. Its rule `calls`: what may follow `call_start`, the last `call_end` included.

        parallel: several calls may come.
        """
