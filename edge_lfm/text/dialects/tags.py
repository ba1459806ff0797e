"""Calls in tags: one for a function and one for each parameter, values as plain text; of whatever spelling.

A value has no quotes: whether `5` is a text or a number only the schema of its parameter says. What ends a value cannot
stand in one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Container, Iterable, Mapping
from typing import Any

from edge_lfm.errors import ToolCallError
from edge_lfm.text.dialects.dialect import Call, Parameters
from edge_lfm.text.dialects.json_calls import MAX_TEXT
from edge_lfm.text.dialects.tags_grammar import TagForm
from edge_lfm.text.json_values import read_json
from edge_lfm.text.tool_binding import Takes

_SPACE = re.compile(r"\s*")
_PYTHON = {"True": True, "False": False, "None": None}
"""How templates spell these, through Python's `str`."""


def read_calls(text: str, parameters: Parameters, form: TagForm) -> list[Call]:
    """The calls of the text between two marks.

    Raises:
        ToolCallError: it is none.
    """
    if len(text) > MAX_TEXT:
        raise ToolCallError(f"a tool call of {len(text)} characters")
    try:
        return _Reader(text, parameters, form).calls()
    except ValueError as error:
        raise ToolCallError(f"the tool call cannot be read: {error!s:.200}") from None


def write_call(call: Call, form: TagForm) -> str:
    """One call, without marks."""
    values = (f"{form.parameter}{n}{form.behind}{_spelled(v, form)}{form.value_end}" for n, v in call.arguments.items())
    return f"{form.function}{call.name}{form.name_end}{''.join(values)}{form.function_end}"


def _spelled(value: Any, form: TagForm) -> str:
    """A value as it is written; in JSON nothing is spelled as what ends it."""
    if isinstance(value, str):
        return value
    text = json.dumps(value, ensure_ascii=False)
    return text if form.is_writable(text) else text.replace("<", "\\u003c")


def typed(text: str, takes: Takes | None) -> Any:
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

    def __init__(self, text: str, parameters: Mapping[str, Mapping[str, Takes]], form: TagForm) -> None:
        self._text, self._at, self._parameters, self._form = text, 0, parameters, form
        self._odd: dict[str, list[str]] = {}

    def calls(self) -> list[Call]:
        """The whole text: one function or several."""
        calls: list[Call] = []
        while self._skip() < len(self._text):
            self._need(self._form.function)
            name = self._name((), ())
            calls.append(Call(name, self._arguments(name)))
        if not calls:
            raise ValueError("there is no call")
        return calls

    def _arguments(self, function: str) -> dict[str, Any]:
        takes, arguments = self._parameters.get(function, {}), dict[str, Any]()
        if function not in self._odd:
            self._odd[function] = [name for name in takes if self._form.close in name]
        while not self._take(self._form.function_end):
            self._need(self._form.parameter)
            name = self._name(takes, self._odd[function])
            if name in arguments and name in takes:
                raise ValueError(f"two arguments {name}")
            arguments[name] = typed(self._value(), takes.get(name))
        return arguments

    def _name(self, known: Container[str], odd: Iterable[str]) -> str:
        """A name and what closes its tag. odd: of the known ones those that have that inside."""
        close = self._form.close
        longer = [name for name in odd if self._text.startswith(f"{name}{close}", self._at)]
        end = self._at + len(max(longer, key=len)) if longer else self._text.find(close, self._at)
        name = self._text[self._at : end]
        name = name if name in known else name.strip()
        if end < 0 or (not name and name not in known):
            raise ValueError("a name is missing")
        self._at = end + len(close)
        return name

    def _value(self) -> str:
        """A value on lines of its own, or on the line of its tag."""
        form, own_lines = self._form, self._text.startswith("\n", self._at)
        end_mark = form.reading_end if own_lines else form.parameter_end
        end = self._text.find(end_mark, self._at)  # the line break behind the tag may be the one before the end
        if end < 0:
            raise ValueError("a value does not end")
        value = self._text[self._at : end]
        self._at = end + len(end_mark)
        return value.removeprefix(form.line)

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
