"""Calls as Hunyuan-A13B writes them: `<tool_calls>`, a JSON list of objects with name and arguments, `</tool_calls>`.

Its vocabulary has tokens for none of its marks, and its template need not show them: an answer is thoughts between
`<think>` and `</think>`, then text or calls between `<answer>` and `</answer>`, all of it letters.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from edge_lfm.errors import ToolCallError
from edge_lfm.text.dialects.dialect import Call, Channels, Marked, Parameters
from edge_lfm.text.dialects.json_calls import MAX_TEXT, read_json_calls
from edge_lfm.text.dialects.rules import Rules, quoted
from edge_lfm.text.tool_binding import BoundTool

_TURNS = ("<|extra_0|>", "<|extra_4|>")
"""End the user's turn, and the system's."""


@dataclass(frozen=True)
class Hunyuan:
    """The form; a `Dialect`."""

    call_start: str = "<tool_calls>"
    call_end: str = "</tool_calls>"
    think_start: str = "<think>"
    think_end: str = "</think>"
    inner_marks: tuple[str, ...] = ()
    frames: tuple[str, ...] = ("<answer>", "\n</answer>", "</answer>")
    speaker: str = "助手："
    channels: Channels | None = None

    def fits(self, template: str) -> bool:
        if self.call_start in template:
            return f"{self.call_start}[{{" in template  # others open single calls behind the mark
        return all(mark in template for mark in _TURNS)

    def openings(self, names: Sequence[str]) -> tuple[str, ...]:
        return tuple(f"[{_opening(name)}" for name in names)

    def read(self, text: str, parameters: Parameters) -> list[Call]:
        if len(text) > MAX_TEXT:
            raise ToolCallError(f"a tool call of {len(text)} characters")
        return read_json_calls(text)

    def write(self, calls: Sequence[Call]) -> list[str]:
        each = (f"{_opening(call.name)}{json.dumps(call.arguments, ensure_ascii=False)}}}" for call in calls)
        return [f"[{', '.join(each)}]"] if calls else []

    def grammar(self, tools: Sequence[BoundTool], mark: Marked, parallel: bool) -> str:
        rules = Rules()
        calls = " | ".join(
            rules.rule("tool", f'{quoted(_opening(tool.name))} ({rules.json_object(tool.forms, tool.bound)}) "}}"')
            for tool in tools
        )
        more = '(", " call)*' if parallel else ""
        return "\n".join([f'calls: "[" call {more} "]" {mark(self.call_end)}', f"call: {calls}", *rules.lines])


HUNYUAN = Hunyuan()


def _opening(name: str) -> str:
    """A call up to its arguments."""
    return f'{{"name": {json.dumps(name, ensure_ascii=False)}, "arguments": '
