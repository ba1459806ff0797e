"""What a form of tool calls must offer: its marks, reading, writing, and the grammar that binds a call to its tool."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from edge_lfm.text.tool_binding import BoundTool


@dataclass(frozen=True)
class Call:
    """One call: a tool's name and its arguments by name."""

    name: str
    arguments: dict[str, Any]


class Dialect(Protocol):
    """One form of tool calls. Whatever its grammar can force, `read` gives back, and `write` spells it that way."""

    @property
    def call_start(self) -> str:
        """The token that begins calls."""

    @property
    def call_end(self) -> str:
        """The token that ends them."""

    @property
    def think_start(self) -> str:
        """The token that begins reasoning."""

    @property
    def think_end(self) -> str:
        """The token that ends it."""

    def fits(self, template: str) -> bool:
        """Whether a chat template shows that its model writes calls in this form."""

    def openings(self, names: Sequence[str]) -> tuple[str, ...]:
        """How an answer begins that is a call without the tokens around it."""

    def read(self, text: str, parameters: Mapping[str, Sequence[str]]) -> list[Call]:
        """The calls of the text between the marks.

        Args:
            parameters: for each known tool the names of its parameters, in order.

        Raises:
            ToolCallError: it is none.
        """

    def write(self, calls: Sequence[Call]) -> str:
        """The text of calls, without the marks."""

    def grammar(self, tools: Sequence[BoundTool], end_id: int, parallel: bool) -> str:
        """Lark, as llguidance reads it: what may follow `call_start`, the token `end_id` included."""
