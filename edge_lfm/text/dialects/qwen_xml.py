"""Calls as Qwen3-Coder and its successors write them: `<tool_call>`, tags with values on lines of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edge_lfm.text.dialects.dialect import Call, Channels, Marked, Parameters
from edge_lfm.text.dialects.tags import read_calls, write_call
from edge_lfm.text.dialects.tags_grammar import TagForm, calls_grammar
from edge_lfm.text.tool_binding import BoundTool

_FORM = TagForm("<function=", "</function>", "<parameter=", ">", "\n", together=False)


@dataclass(frozen=True)
class QwenXml:
    """The form; a `Dialect`."""

    call_start: str = "<tool_call>"
    call_end: str = "</tool_call>"
    think_start: str = "<think>"
    think_end: str = "</think>"
    inner_marks: tuple[str, ...] = ()
    frames: tuple[str, ...] = ()
    speaker: str = ""
    channels: Channels | None = None
    form: TagForm = _FORM

    def fits(self, template: str) -> bool:
        shown = template.replace("\\", "")  # a template may write quotes with an escape
        return all(mark in shown for mark in (self.call_start, self.form.function, self.form.parameter))

    def openings(self, names: Sequence[str]) -> tuple[str, ...]:
        return tuple(f"{self.form.function}{name}{self.form.close}" for name in names)

    def read(self, text: str, parameters: Parameters) -> list[Call]:
        return read_calls(text, parameters, self.form)

    def write(self, calls: Sequence[Call]) -> list[str]:
        return [f"\n{write_call(call, self.form)}\n" for call in calls]

    def grammar(self, tools: Sequence[BoundTool], mark: Marked, parallel: bool) -> str:
        return calls_grammar(tools, self.form, (self.call_start, self.call_end), mark, parallel)


QWEN_XML = QwenXml()
