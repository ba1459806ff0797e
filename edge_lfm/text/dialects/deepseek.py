"""Calls as DeepSeek's models write them, between marks: a name and JSON; V3 and R1 with a type and a fence around it.

The marks are tokens of DeepSeek's own vocabulary; in those of the models distilled from R1 they are texts.
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
_FENCE, _FENCE_END = "\n```json\n", "\n```"
_FENCED = re.compile(rf"\s*{_ONE}\w*{_NAME}([^\n]+){_FENCE}(.*?){_FENCE_END}{_ONE_END}\s*", re.DOTALL)
_BARE = re.compile(rf"\s*{_ONE}(.+?){_NAME}(.*?){_ONE_END}\s*", re.DOTALL)


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
        return self.call_start in template and "```json" in template

    def openings(self, names: Sequence[str]) -> tuple[str, ...]:
        return tuple(f"{_ONE}function{_NAME}{name}\n" for name in names)

    def read(self, text: str, parameters: Parameters) -> list[Call]:
        return _read_calls(text, _FENCED)

    def write(self, calls: Sequence[Call]) -> list[str]:
        return ["\n".join(f"{_ONE}function{_NAME}{c.name}{_FENCE}{_json(c)}{_FENCE_END}{_ONE_END}" for c in calls)]

    def grammar(self, tools: Sequence[BoundTool], mark: Marked, parallel: bool) -> str:
        rules = Rules()
        calls = " | ".join(
            rules.rule("tool", f"{quoted(tool.name + _FENCE)} ({rules.json_object(tool.forms, tool.bound)})")
            for tool in tools
        )
        call = f'{mark(_ONE)} "function" {mark(_NAME)} ({calls}) {quoted(_FENCE_END)} {mark(_ONE_END)}'
        more = '("\\n" call)*' if parallel else ""
        return "\n".join([f"calls: call {more} {mark(self.call_end)}", f"call: {call}", *rules.lines])


@dataclass(frozen=True)
class DeepSeekBare(DeepSeek):
    """The form of V3.1 and its successors: no type, no fence, and nothing between calls."""

    def fits(self, template: str) -> bool:
        return self.call_start in template and _NAME in template and "```json" not in template

    def openings(self, names: Sequence[str]) -> tuple[str, ...]:
        return tuple(f"{_ONE}{name}{_NAME}" for name in names)

    def read(self, text: str, parameters: Parameters) -> list[Call]:
        return _read_calls(text, _BARE)

    def write(self, calls: Sequence[Call]) -> list[str]:
        return ["".join(f"{_ONE}{call.name}{_NAME}{_json(call)}{_ONE_END}" for call in calls)]

    def grammar(self, tools: Sequence[BoundTool], mark: Marked, parallel: bool) -> str:
        rules = Rules()
        calls = " | ".join(
            rules.rule("tool", f"{quoted(tool.name)} {mark(_NAME)} ({rules.json_object(tool.forms, tool.bound)})")
            for tool in tools
        )
        times = "+" if parallel else ""
        head = [f"calls: call{times} {mark(self.call_end)}", f"call: {mark(_ONE)} ({calls}) {mark(_ONE_END)}"]
        return "\n".join([*head, *rules.lines])


DEEPSEEK, DEEPSEEK_BARE = DeepSeek(), DeepSeekBare()


def _read_calls(text: str, form: re.Pattern[str]) -> list[Call]:
    if len(text) > MAX_TEXT:
        raise ToolCallError(f"a tool call of {len(text)} characters")
    calls: list[Call] = []
    at = 0
    while at < len(text):
        match = form.match(text, at)
        if match is None or not match[1].strip():
            raise ToolCallError(f"the tool call cannot be read: {text[at:]!r:.60}")
        calls.append(Call(match[1].strip(), read_arguments(match[2])))
        at = match.end()
    return calls


def _json(call: Call) -> str:
    """The arguments of a call; in none of its texts is spelled what ends it."""
    return json.dumps(call.arguments, ensure_ascii=False).replace(_ONE_END, _ONE_END.replace("<", "\\u003c"))
