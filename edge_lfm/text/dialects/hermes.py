"""Calls as Hermes, Qwen2.5 and Qwen3 write them: `<tool_call>`, a JSON object of name and arguments, `</tool_call>`.

Each call stands between marks of its own.
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


@dataclass(frozen=True)
class Hermes:
    """The form; a `Dialect`."""

    call_start: str = "<tool_call>"
    call_end: str = "</tool_call>"
    think_start: str = "<think>"
    think_end: str = "</think>"
    inner_marks: tuple[str, ...] = ()
    frames: tuple[str, ...] = ()
    speaker: str = ""
    channels: Channels | None = None

    def fits(self, template: str) -> bool:
        return self.call_start in template and '"arguments"' in template.replace("\\", "")  # others have the mark too

    def openings(self, names: Sequence[str]) -> tuple[str, ...]:
        return tuple(_opening(name) for name in names)

    def read(self, text: str, parameters: Parameters) -> list[Call]:
        if len(text) > MAX_TEXT:
            raise ToolCallError(f"a tool call of {len(text)} characters")
        return read_json_calls(text)

    def write(self, calls: Sequence[Call]) -> list[str]:
        return [f"\n{_opening(c.name)}{json.dumps(c.arguments, ensure_ascii=False)}}}\n" for c in calls]

    def grammar(self, tools: Sequence[BoundTool], mark: Marked, parallel: bool) -> str:
        rules = Rules()
        calls = " | ".join(
            rules.rule("tool", f'{quoted(_opening(tool.name))} ({rules.json_object(tool.forms, tool.bound)}) "}}"')
            for tool in tools
        )
        more = f'("\\n" {mark(self.call_start)} call)*' if parallel else ""
        return "\n".join([f"calls: call {more}", f'call: "\\n" ({calls}) "\\n" {mark(self.call_end)}', *rules.lines])


HERMES = Hermes()


def _opening(name: str) -> str:
    """A call up to its arguments."""
    return f'{{"name": {json.dumps(name, ensure_ascii=False)}, "arguments": '
