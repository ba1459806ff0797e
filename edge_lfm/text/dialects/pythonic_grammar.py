"""The grammar of Pythonic calls for given tools, as Lark for llguidance: `[name(arg=value, ...), ...]`, end mark.

Arguments come by name, in the order of their schema; each value follows its schema, and so does the whole. Equal values
share a rule, whichever argument or tool they belong to, and a rule holds the definitions that it reaches.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from edge_lfm.text.schemas.document import Document, Schema
from edge_lfm.text.schemas.json_style import JSON_STYLE
from edge_lfm.text.schemas.objects import FREE, ObjectForm
from edge_lfm.text.schemas.rewriting import Bound
from edge_lfm.text.schemas.values import Checker
from edge_lfm.text.tool_binding import BoundTool

_BARE = re.compile(r"""[^\s"'=(),\\\x00-\x1f](?:[^"'=(),\\\x00-\x1f\n]*[^\s"'=(),\\\x00-\x1f])?""")
_FREE_NAME = r"[A-Za-z_][A-Za-z0-9_]{0,63}"
"""How an argument is called that the schema allows and does not name."""


def spelled(argument: str) -> str:
    """An argument's name as it stands in a call: bare, or in quotes where it would be taken for something else."""
    return argument if _BARE.fullmatch(argument) else json.dumps(argument, ensure_ascii=False)


def calls_grammar(tools: Sequence[BoundTool], end_id: int, parallel: bool) -> str:
    """The whole grammar. parallel: several calls may come."""
    rules = _Rules()
    calls = " | ".join(rules.call(tool) for tool in tools)
    more = '(", " call)*' if parallel else ""
    return "\n".join([f'start: "[" call {more} "]" <[{end_id}]>', f"call: {calls}", *rules.lines])


class _Rules:
    """Lark rules in the making; each method gives the name of the rule that it has made."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._values: dict[str, str] = {}
        self._count = 0

    def call(self, tool: BoundTool) -> str:
        forms = " | ".join(self._arguments(form, tool.bound) for form in tool.forms)
        return self._rule("call", f'{_quoted(tool.name + "(")} ({forms}) ")"')

    def _arguments(self, form: ObjectForm, bound: Bound) -> str:
        """Rules from the last argument to the first: after each, the rest with a comma in front, or without one."""
        first, rest = self._free(form, bound)
        for name, schema in reversed(form.given.items()):
            value = self._value(schema, bound)
            pair = f"{_quoted(spelled(name) + '=')} {value} {rest}"
            skipped = name not in form.required
            first, rest = (
                self._rule("args", pair + (f" | {first}" if skipped else "")),
                self._rule("more", f'", " {pair}' + (f" | {rest}" if skipped else "")),
            )
        return first

    def _free(self, form: ObjectForm, bound: Bound) -> tuple[str, str]:
        """Arguments that the schema allows and does not name: where they are the first ones, and behind others."""
        needed = FREE in form.required
        if form.others in (None, False) and not needed:
            return '""', '""'
        taken = "|".join(re.escape(name) for name in form.properties if re.fullmatch(_FREE_NAME, name))
        term = f"NAME{self._count}"
        self.lines.append(f"{term}: /{_FREE_NAME}/" + (f" & ~/{taken}/" if taken else ""))
        one = self._rule("free", f'{term} "=" {self._value(form.others or True, bound)}')
        first = self._rule("args", f'{one} (", " {one})*' + ("" if needed else ' | ""'))
        return first, self._rule("more", f'(", " {one}){"+" if needed else "*"}')

    def _value(self, schema: Schema, bound: Bound) -> str:
        """A value as the family writes it: Python's True, False and None at the top, JSON otherwise."""
        whole = bound.with_definitions(schema)
        source = json.dumps(whole if isinstance(whole, dict) else {})
        if source not in self._values:
            checker = Checker(Document(schema, bound.definitions))
            options = [f'"{value}"' for value in (True, False, None) if checker.accepts(schema, value)]
            if schema not in ({"type": ["boolean"]}, {"type": ["null"]}):
                options.insert(
                    0, self._rule("json", f"%json {json.dumps(json.loads(source) | {'x-guidance': JSON_STYLE})}")
                )
            self._values[source] = self._rule("value", " | ".join(options))
        return self._values[source]

    def _rule(self, kind: str, body: str) -> str:
        name = f"{kind}{self._count}"
        self._count += 1
        self.lines.append(f"{name}: {body}")
        return name


def _quoted(text: str) -> str:
    """A text as Lark writes it."""
    return json.dumps(text, ensure_ascii=False)
