"""Calls as LFM2 and its successors write them: `[name(arg="x", n=3), other()]` between two control tokens.

The reader is a small parser of its own that knows the tools' names and their parameters', so that names may be anything
that JSON and MCP allow; nothing is evaluated. It takes Python's literals and JSON's, both quotes, and calls in JSON.
The grammar of a tool is in `pythonic_grammar.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from edge_lfm.errors import ToolCallError
from edge_lfm.text.dialects.dialect import Call, Channels, Marked
from edge_lfm.text.dialects.json_calls import MAX_TEXT, read_json_calls
from edge_lfm.text.dialects.pythonic_grammar import BARE, calls_grammar, spelled
from edge_lfm.text.json_values import read_number, whole_text
from edge_lfm.text.tool_binding import BoundTool

MAX_DEPTH = 100
_SPACE = re.compile(r"\s*")
_NAME = re.compile(r"[\w./:-]+")
_ARGUMENT = re.compile(r"""[^\s"'=(),\\]+""")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:_[0-9]+)*(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_WORD = re.compile(r"\w+")
_CONSTANTS = {"true": True, "false": False, "null": None, "none": None, "True": True, "False": False, "None": None}
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|U([0-9a-fA-F]{8})|([\s\S]))")
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "a": "\a", "v": "\v", "0": "\0", "\n": ""}


@dataclass(frozen=True)
class Pythonic:
    """The form; a `Dialect`."""

    call_start: str = "<|tool_call_start|>"
    call_end: str = "<|tool_call_end|>"
    think_start: str = "<think>"
    think_end: str = "</think>"
    inner_marks: tuple[str, ...] = ()
    frames: tuple[str, ...] = ()
    speaker: str = ""
    channels: Channels | None = None

    def fits(self, template: str) -> bool:
        return self.call_start in template or "<|tool_list_start|>" in template or "List of tools: [" in template

    def openings(self, names: Sequence[str]) -> tuple[str, ...]:
        return tuple(f"[{name}(" for name in names)

    def read(self, text: str, parameters: Mapping[str, Collection[str]]) -> list[Call]:
        text = text.strip()
        if len(text) > MAX_TEXT:
            raise ToolCallError(f"a tool call of {len(text)} characters")
        if re.match(r"\[?\s*\{", text):
            return read_json_calls(text)
        try:
            return _Reader(text, parameters).calls()
        except ValueError as error:
            raise ToolCallError(f"the tool call cannot be read: {error!s:.200}") from None

    def write(self, calls: Sequence[Call]) -> list[str]:
        return ["[" + ", ".join(_write_call(call) for call in calls) + "]"]

    def grammar(self, tools: Sequence[BoundTool], mark: Marked, parallel: bool) -> str:
        return calls_grammar(tools, mark(self.call_end), parallel)


PYTHONIC = Pythonic()


def _write_call(call: Call) -> str:
    return f"{call.name}({', '.join(f'{spelled(name)}={_literal(value)}' for name, value in call.arguments.items())})"


def _literal(value: Any) -> str:
    """Python's True, False and None, as arguments; JSON otherwise and inside."""
    return repr(value) if value is None or isinstance(value, bool) else json.dumps(value, ensure_ascii=False)


class _Reader:
    """A text of calls and the place in it. Every method raises ValueError where the text is something else."""

    def __init__(self, text: str, parameters: Mapping[str, Collection[str]]) -> None:
        self._text, self._at, self._parameters = text, 0, parameters
        self._known: dict[str, tuple[tuple[str, ...], frozenset[str]]] = {}

    def calls(self) -> list[Call]:
        """The whole text: a list of calls, with or without brackets."""
        opening = self._take("[") or self._take("(")
        closing = {"[": "]", "(": ")"}.get(opening, "")
        calls: list[Call] = []
        while not (closing and self._take(closing)):
            calls.append(self._call())
            if not self._take(","):
                if closing:
                    self._need(closing)
                break
        if self._skip() < len(self._text):
            raise ValueError(f"{self._text[self._at :]!r:.40} after the calls")
        return calls

    def _call(self) -> Call:
        name = self._match(_NAME, "the name of a call is no name")
        self._need("(")
        (order, names), arguments = self._parameters_of(name), dict[str, Any]()
        positional = True
        while not self._take(")"):
            argument = self._argument(names)
            positional = positional and argument is None
            if argument is None and (not positional or len(arguments) >= len(order)):
                raise ValueError(f"{name} has an argument without a name")
            key = order[len(arguments)] if argument is None else argument
            if key in arguments and (key in names or not order):
                raise ValueError(f"{name} has two arguments {key}")
            arguments[key] = self._value()
            if not self._take(","):
                self._need(")")
                break
        return Call(name, arguments)

    def _parameters_of(self, name: str) -> tuple[tuple[str, ...], frozenset[str]]:
        """The names of a function's parameters, in order and as a set; made once, for there may be thousands."""
        if name not in self._known:
            order = tuple(self._parameters.get(name, ()))
            self._known[name] = order, frozenset(order)
        return self._known[name]

    def _argument(self, names: Set[str]) -> str | None:
        """The name of an argument and the = behind it; None if a value stands here."""
        start, name = self._skip(), None
        if self._text[start : start + 1] in ("'", '"'):
            name = self._string()
        elif (match := self._bare_name(start, names)) is not None:
            name, self._at = match[0], match.end()
        if name is not None and self._take("="):
            return name
        self._at = start
        return None

    def _bare_name(self, start: int, names: Set[str]) -> re.Match[str] | None:
        """What may be a name without quotes; one that is known may have spaces inside."""
        whole = BARE.match(self._text, start)
        return whole if whole is not None and whole[0] in names else _ARGUMENT.match(self._text, start)

    def _value(self, depth: int = 0) -> Any:
        if depth > MAX_DEPTH:
            raise ValueError("a value is nested too deeply")
        start = self._skip()
        if self._text[start : start + 1] in ("'", '"'):
            return self._string()
        for opening, closing in (("[", "]"), ("(", ")")):
            if self._take(opening):
                return self._items(closing, depth)
        if self._take("{"):
            return self._entries(depth)
        if (match := _NUMBER.match(self._text, start)) is not None:
            self._at = match.end()
            return _number(match[0].replace("_", ""))
        word = self._match(_WORD, "a value is missing")
        if word not in _CONSTANTS:
            raise ValueError(f"{word!r:.40} is no value")
        return _CONSTANTS[word]

    def _items(self, closing: str, depth: int) -> list[Any]:
        items: list[Any] = []
        while not self._take(closing):
            items.append(self._value(depth + 1))
            if not self._take(","):
                self._need(closing)
                break
        return items

    def _entries(self, depth: int) -> dict[str, Any]:
        entries: dict[str, Any] = {}
        while not self._take("}"):
            key = self._value(depth + 1)
            if isinstance(key, list | dict):
                raise ValueError("a key is no text")
            self._need(":")
            entries[str(key)] = self._value(depth + 1)
            if not self._take(","):
                self._need("}")
                break
        return entries

    def _string(self) -> str:
        """A string in either quote; escapes are JSON's and Python's, others stay as they are, line breaks too."""
        quote, start = self._text[self._at], self._at + 1
        end = start
        while end < len(self._text) and self._text[end] != quote:
            end += 2 if self._text[end] == "\\" else 1
        if end >= len(self._text):
            raise ValueError("a string does not end")
        self._at = end + 1
        return whole_text(_ESCAPE.sub(_unescaped, self._text[start:end]))

    def _match(self, pattern: re.Pattern[str], problem: str) -> str:
        match = pattern.match(self._text, self._skip())
        if match is None:
            raise ValueError(problem)
        self._at = match.end()
        return match[0]

    def _take(self, mark: str) -> str:
        """The mark, if it stands here."""
        if not self._text.startswith(mark, self._skip()):
            return ""
        self._at += len(mark)
        return mark

    def _need(self, mark: str) -> None:
        if not self._take(mark):
            raise ValueError(f"{mark} is missing before {self._text[self._at :]!r:.40}")

    def _skip(self) -> int:
        self._at = _SPACE.match(self._text, self._at).end()  # type: ignore[union-attr]
        return self._at


def _number(text: str) -> int | float:
    return int(text) if text.lstrip("+-").isdigit() else read_number(text)


def _unescaped(match: re.Match[str]) -> str:
    code = match[1] or match[2] or match[3]
    if code is None:
        return _ESCAPES.get(match[4], match[4] if match[4] in "\\'\"/" else match[0])
    return chr(int(code, 16)) if int(code, 16) < 0x110000 else match[0]
