"""How a chat template wants the calls of earlier turns: found by rendering one, for templates differ and say nothing.

Some take arguments as an object and refuse JSON text, some put text together and cannot take an object; some write the
calls only of a turn without content, and some cannot read a turn whose content is null.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from edge_lfm.errors import EdgeLfmError, TemplateError
from edge_lfm.text.dialects import Call
from edge_lfm.text.json_values import read_json

Turn = dict[str, Any]


@dataclass(frozen=True)
class CallForm:
    """as_text: arguments are JSON text. empty: the content of a turn that has calls and no text. alone: calls of a turn
    that has a text too are not written. single: only the first call of a turn is. either: thoughts and a text beside
    calls are refused."""

    as_text: bool = False
    empty: str | None = ""
    alone: bool = False
    single: bool = False
    either: bool = False

    def turns(self, rest: Turn, calls: Sequence[Call]) -> list[Turn]:
        """An assistant's turn with these calls; its text in a turn in front where it hides them. rest: other fields."""
        thoughts = next((name for name in THOUGHTS if isinstance(rest.get(name), str) and rest[name]), None)
        if self.either and thoughts is not None and isinstance(rest.get("content"), str) and rest["content"]:
            whole = f"{rest[thoughts]}\n\n{rest['content']}"  # such a template takes a text for thoughts
            rest = {**rest, **dict.fromkeys(THOUGHTS, whole), "content": ""}
        if self.alone and rest.get("content"):
            return [rest, self.turn({"role": rest["role"]}, calls)]
        return [self.turn(rest, calls)]

    def turn(self, rest: Turn, calls: Sequence[Call]) -> Turn:
        """An assistant's turn with these calls. rest: its other fields."""
        functions = [{"name": call.name, "arguments": self._written(call.arguments)} for call in calls]
        content = rest.get("content") or self.empty
        return {**rest, "content": content, "tool_calls": [{"type": "function", "function": f} for f in functions]}

    def _written(self, arguments: dict[str, Any]) -> Any:
        return json.dumps(arguments, ensure_ascii=False) if self.as_text else arguments


THOUGHTS = ("thinking", "reasoning", "reasoning_content")
"""Names of one thing in the templates of the family's generations and of others."""
_PROBE = Call("probe_call", {"probe_key": "probe_value"})
_SECOND = Call("second_call", {})


def find_form(render: Callable[[list[Turn]], str]) -> CallForm:
    """The first form in which a template writes the whole of a call; the usual one if it writes it in none."""
    for as_text, empty in product((False, True), (None, "")):
        form = CallForm(as_text, empty)
        if _writes(render, form, {}):
            return replace(
                form,
                alone=not _writes(render, form, {"content": "?"}),
                single=not _writes(render, form, {}, _SECOND),
                either=_writes(render, form, {"content": "?"})
                and not _writes(render, form, {"content": "?", **dict.fromkeys(THOUGHTS, "!")}),
            )
    return CallForm()


def _writes(render: Callable[[list[Turn]], str], form: CallForm, rest: Turn, *more: Call) -> bool:
    """Whether a template writes the whole of a call, and neither a content that is null nor JSON inside JSON."""
    try:
        text = render([{"role": "user", "content": "?"}, form.turn({"role": "assistant", **rest}, [_PROBE, *more])])
    except EdgeLfmError:
        return False
    parts = (_PROBE.name, *_PROBE.arguments, *_PROBE.arguments.values(), *(call.name for call in more))
    whole = all(part in text for part in parts)
    return whole and "None" not in text and '\\"' not in text


def read_calls(value: Any) -> list[Call]:
    """Calls in OpenAI's form: [{"function": {"name", "arguments": JSON text or an object}}].

    Raises:
        TemplateError: they are malformed.
    """
    calls = []
    for item in value if isinstance(value, list | tuple) else [value]:
        function = item.get("function", item) if isinstance(item, Mapping) else None
        try:
            arguments = function["arguments"]  # type: ignore[index]
            arguments = read_json(arguments or "{}", strict=False) if isinstance(arguments, str) else arguments
            calls.append(Call(str(function["name"]), dict(arguments)))  # type: ignore[index]
        except (TypeError, KeyError, ValueError, RecursionError):
            raise TemplateError(
                "a message's tool_calls are malformed", hint='give [{"function": {"name": ..., "arguments": "{...}"}}]'
            ) from None
    return calls
