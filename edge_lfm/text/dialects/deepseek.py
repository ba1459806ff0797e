"""Calls as DeepSeek's R1 and its distilled models write them: a type, a name and JSON in a fence, between marks.

The marks are tokens of DeepSeek's own vocabulary; in those of the distilled models they are texts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from edge_lfm.errors import ToolCallError
from edge_lfm.text.dialects.dialect import Call, Channels, Marked, Parameters
from edge_lfm.text.dialects.json_calls import MAX_TEXT, read_arguments
from edge_lfm.text.dialects.rules import Rules, quoted
from edge_lfm.text.tool_binding import BoundTool

_ONE, _NAME, _ONE_END = "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"
_RESULTS = ("<｜tool▁outputs▁begin｜>", "<｜tool▁outputs▁end｜>", "<｜tool▁output▁begin｜>", "<｜tool▁output▁end｜>")
_CALL = re.compile(rf"\s*{_ONE}\w*{_NAME}([^\n]+)\n```json\n(.*?)\n```{_ONE_END}\s*", re.DOTALL)


@dataclass(frozen=True)
class DeepSeek:
    """The form; a `Dialect`."""

    call_start: str = "<｜tool▁calls▁begin｜>"
    call_end: str = "<｜tool▁calls▁end｜>"
    think_start: str = "<think>"
    think_end: str = "</think>"
    inner_marks: tuple[str, ...] = (_ONE, _NAME, _ONE_END, *_RESULTS)
    frames: tuple[str, ...] = ()
    speaker: str = ""
    channels: Channels | None = None

    def fits(self, template: str) -> bool:
        return self.call_start in template and "```json" in template  # V3.1 and later write no fence

    def openings(self, names: Sequence[str]) -> tuple[str, ...]:
        return tuple(f"{_ONE}function{_NAME}{name}\n" for name in names)

    def read(self, text: str, parameters: Parameters) -> list[Call]:
        if len(text) > MAX_TEXT:
            raise ToolCallError(f"a tool call of {len(text)} characters")
        calls: list[Call] = []
        at = 0
        while at < len(text):
            match = _CALL.match(text, at)
            if match is None:
                raise ToolCallError(f"the tool call cannot be read: {text[at:]!r:.60}")
            calls.append(Call(match[1], read_arguments(match[2])))
            at = match.end()
        return calls

    def write(self, calls: Sequence[Call]) -> list[str]:
        return ["\n".join(_write_call(call) for call in calls)]

    def grammar(self, tools: Sequence[BoundTool], mark: Marked, parallel: bool) -> str:
        rules = Rules()
        calls = " | ".join(
            rules.rule("tool", f"{quoted(_head(tool.name))} ({rules.json_object(tool.forms, tool.bound)})")
            for tool in tools
        )
        call = f'{mark(_ONE)} "function" {mark(_NAME)} ({calls}) "\\n```" {mark(_ONE_END)}'
        more = '("\\n" call)*' if parallel else ""
        return "\n".join([f"calls: call {more} {mark(self.call_end)}", f"call: {call}", *rules.lines])


DEEPSEEK = DeepSeek()


def _head(name: str) -> str:
    """What stands between the mark in front of a name and the arguments."""
    return f"{name}\n```json\n"


def _write_call(call: Call) -> str:
    return f"{_ONE}function{_NAME}{_head(call.name)}{json.dumps(call.arguments, ensure_ascii=False)}\n```{_ONE_END}"
