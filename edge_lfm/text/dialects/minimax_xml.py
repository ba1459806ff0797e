"""Calls as MiniMax-M2 writes them: one pair of marks around all calls, values on the line of their tag."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edge_lfm.text.dialects.dialect import Call
from edge_lfm.text.dialects.qwen_xml import QwenXml
from edge_lfm.text.dialects.tags import write_call
from edge_lfm.text.dialects.tags_grammar import TagForm

_FORM = TagForm('<invoke name="', "</invoke>", '<parameter name="', '">', "", together=True)


@dataclass(frozen=True)
class MiniMaxXml(QwenXml):
    """The form; a `Dialect`."""

    call_start: str = "<minimax:tool_call>"
    call_end: str = "</minimax:tool_call>"
    form: TagForm = _FORM

    def write(self, calls: Sequence[Call]) -> list[str]:
        return ["\n" + "".join(f"{write_call(call, self.form)}\n" for call in calls)] if calls else []


MINIMAX_XML = MiniMaxXml()
