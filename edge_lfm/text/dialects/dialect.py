"""What a form of tool calls must offer: its marks, reading, writing, and the grammar that binds a call to its tool."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
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


@dataclass(frozen=True)
class Channels:
    """Marks of an answer that is messages: each a header, then a text. Tokens of a vocabulary, never texts.

    start: begins a message; behind it stands a role. channel: before the channel's name. message: ends the header.
    ends: what may end a text; end: which of them another message of the same answer may follow.
    grammar: Lark, of tools and marks; its rule `start` is one message from its first mark on: up to its text, or the
    whole of a call. First flag: the answer is a call. Second: it has a form or is a call, and no other text comes.
    refused_switches: of chat templates, what they would ask for is not done; and what to do instead.
    """

    start: str
    channel: str
    message: str
    ends: tuple[str, ...]
    end: str
    grammar: Callable[[Sequence[BoundTool], Marked, bool, bool], str]
    refused_switches: Mapping[str, str] = field(default_factory=dict)

    @property
    def marks(self) -> tuple[str, ...]:
        return (self.start, self.channel, self.message, *self.ends)


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

    @property
    def frames(self) -> tuple[str, ...]:
        """Marks around the text of an answer, which are none of it: the first opens, the last closes.

        A form that has them is one of texts: its models write all its marks, whether or not a template shows them.
        """

    @property
    def speaker(self) -> str:
        """What a template has in front of an answer's text, which is none of it: the model writes it, too. Or ""."""

    @property
    def channels(self) -> Channels | None:
        """The marks of its messages, if an answer is such; None: it is text with marks in it."""

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
