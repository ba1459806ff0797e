"""Calls as Qwen3-Coder and its successors write them: tags for a function and its parameters, values as plain text.

A value has no quotes: whether `5` is a text or a number only the schema of its parameter says. What ends a value cannot
stand in one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edge_lfm.errors import ToolCallError
from edge_lfm.text.dialects.dialect import Call, Marked, Parameters
from edge_lfm.text.dialects.json_calls import MAX_TEXT
from edge_lfm.text.dialects.qwen_xml_grammar import VALUE_END, calls_grammar
from edge_lfm.text.json_values import read_json
from edge_lfm.text.tool_binding import BoundTool, Takes

_FUNCTION, _FUNCTION_END, _PARAMETER, _PARAMETER_END = "<function=", "</function>", "<parameter=", "</parameter>"
_SPACE = re.compile(r"\s*")
_PYTHON = {"True": True, "False": False, "None": None}
"""How templates spell these, through Python's `str`."""


@dataclass(frozen=True)
class QwenXml:
    """The form; a `Dialect`."""

    call_start: str = "<tool_call>"
    call_end: str = "</tool_call>"
    think_start: str = "<think>"
    think_end: str = "</think>"
    inner_marks: tuple[str, ...] = ()

    def fits(self, template: str) -> bool:
        return all(mark in template for mark in (self.call_start, _FUNCTION, _PARAMETER))

    def openings(self, names: Sequence[str]) -> tuple[str, ...]:
        return tuple(f"{_FUNCTION}{name}>" for name in names)

    def read(self, text: str, parameters: Parameters) -> list[Call]:
        if len(text) > MAX_TEXT:
            raise ToolCallError(f"a tool call of {len(text)} characters")
        try:
            return _Reader(text, parameters).calls()
        except ValueError as error:
            raise ToolCallError(f"the tool call cannot be read: {error!s:.200}") from None

    def write(self, calls: Sequence[Call]) -> list[str]:
        return [f"\n{_write_call(call)}\n" for call in calls]

    def grammar(self, tools: Sequence[BoundTool], mark: Marked, parallel: bool) -> str:
        return calls_grammar(tools, mark(self.call_start), mark(self.call_end), parallel)


QWEN_XML = QwenXml()


def _write_call(call: Call) -> str:
    values = "".join(f"{_PARAMETER}{name}>\n{_spelled(value)}{VALUE_END}" for name, value in call.arguments.items())
    return f"{_FUNCTION}{call.name}>\n{values}{_FUNCTION_END}"


def _spelled(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _typed(text: str, takes: Takes | None) -> Any:
    """The value that a text stands for: what is no text if the parameter takes it, else the text."""
    try:
        value = _PYTHON[text] if text in _PYTHON else read_json(text)
    except (ValueError, RecursionError):
        return text
    if isinstance(value, str):
        return text
    verdict = True if takes is None else takes(value)
    unknown = verdict is None and takes is not None and takes(text) is not True
    return value if verdict or unknown else text


class _Reader:
    """A text of calls and the place in it. Every method raises ValueError where the text is something else."""

    def __init__(self, text: str, parameters: Mapping[str, Mapping[str, Takes]]) -> None:
        self._text, self._at, self._parameters = text, 0, parameters
        self._odd: dict[str, list[str]] = {}

    def calls(self) -> list[Call]:
        """The whole text: one function or several."""
        calls: list[Call] = []
        while self._skip() < len(self._text):
            self._need(_FUNCTION)
            name = self._name((), ())
            calls.append(Call(name, self._arguments(name)))
        if not calls:
            raise ValueError("there is no call")
        return calls

    def _arguments(self, function: str) -> dict[str, Any]:
        takes, arguments = self._parameters.get(function, {}), dict[str, Any]()
        if function not in self._odd:
            self._odd[function] = [name for name in takes if ">" in name]
        while not self._take(_FUNCTION_END):
            self._need(_PARAMETER)
            name = self._name(takes, self._odd[function])
            if name in arguments and name in takes:
                raise ValueError(f"two arguments {name}")
            arguments[name] = _typed(self._value(), takes.get(name))
        return arguments

    def _name(self, known: Container[str], odd: Iterable[str]) -> str:
        """A name and the > behind it. odd: of the known ones those that have a > inside."""
        longer = [name for name in odd if self._text.startswith(f"{name}>", self._at)]
        end = self._at + len(max(longer, key=len)) if longer else self._text.find(">", self._at)
        name = self._text[self._at : end]
        name = name if name in known else name.strip()
        if end < 0 or (not name and name not in known):
            raise ValueError("a name is missing")
        self._at = end + 1
        return name

    def _value(self) -> str:
        """A value on lines of its own, or on the line of its tag."""
        end_mark = VALUE_END if self._text.startswith("\n", self._at) else _PARAMETER_END
        end = self._text.find(end_mark, self._at)  # the line break behind the tag may be the one before the end
        if end < 0:
            raise ValueError("a value does not end")
        value = self._text[self._at : end]
        self._at = end + len(end_mark)
        return value.removeprefix("\n")

    def _take(self, mark: str) -> bool:
        """Whether the mark stands here."""
        is_there = self._text.startswith(mark, self._skip())
        self._at += len(mark) if is_there else 0
        return is_there

    def _need(self, mark: str) -> None:
        if not self._take(mark):
            raise ValueError(f"{mark} is missing before {self._text[self._at :]!r:.40}")

    def _skip(self) -> int:
        self._at = _SPACE.match(self._text, self._at).end()  # type: ignore[union-attr]
        return self._at
