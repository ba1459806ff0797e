"""Calls as GLM-4.5 and its successors write them: a name between `<tool_call>` marks, then keys and values in tags.

The tags are tokens of their vocabularies. GLM-4.5 and 4.6 put each on a line of its own, GLM-4.7 none.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edge_lfm.errors import ToolCallError
from edge_lfm.text.dialects.dialect import Call, Parameters
from edge_lfm.text.dialects.json_calls import MAX_TEXT
from edge_lfm.text.dialects.qwen_xml import QwenXml
from edge_lfm.text.dialects.tags import typed, write_call
from edge_lfm.text.dialects.tags_grammar import TagForm

_TAGS = _KEY, _KEY_END, _VALUE, _VALUE_END = "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"
_RESULTS = ("<tool_response>", "</tool_response>")
_PAIR = re.compile(rf"\s*{_KEY}(.*?){_KEY_END}\s*{_VALUE}(.*?){_VALUE_END}", re.DOTALL)
_LINES = TagForm("", "", _KEY, _KEY_END, "", False, _VALUE_END, opening=f"\n{_VALUE}", marks=_TAGS)
_TIGHT = TagForm("", "", _KEY, _KEY_END, "", False, _VALUE_END, opening=_VALUE, gap="", marks=_TAGS)


@dataclass(frozen=True)
class GlmXml(QwenXml):
    """The form; a `Dialect`."""

    inner_marks: tuple[str, ...] = (*_TAGS, *_RESULTS)
    form: TagForm = _LINES

    def fits(self, template: str) -> bool:
        shown = self.call_start in template and _KEY in template
        return shown and (f"{_KEY_END}{_VALUE}" in template) == (not self.form.gap)

    def openings(self, names: Sequence[str]) -> tuple[str, ...]:
        return tuple(f"{name}{self.form.gap}{_KEY}" for name in names)

    def read(self, text: str, parameters: Parameters) -> list[Call]:
        if len(text) > MAX_TEXT:
            raise ToolCallError(f"a tool call of {len(text)} characters")
        at = text.find(_KEY)
        name, at = (text, len(text)) if at < 0 else (text[:at], at)
        name = name.strip()
        if not name or "<" in name:
            raise ToolCallError(f"the tool call has no name: {text!r:.60}")
        takes, arguments = parameters.get(name, {}), dict[str, Any]()
        while text[at:].strip():
            match = _PAIR.match(text, at)
            if match is None:
                raise ToolCallError(f"the tool call cannot be read: {text[at:]!r:.60}")
            key = match[1] if match[1] in takes else match[1].strip()
            if key in arguments and key in takes:
                raise ToolCallError(f"the tool call has two arguments {key!r:.60}")
            arguments[key] = typed(match[2], takes.get(key))
            at = match.end()
        return [Call(name, arguments)]

    def write(self, calls: Sequence[Call]) -> list[str]:
        return [write_call(call, self.form) for call in calls]


GLM_XML, GLM_TIGHT = GlmXml(), GlmXml(form=_TIGHT)
