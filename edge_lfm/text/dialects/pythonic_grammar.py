"""The grammar of Pythonic calls for given tools, as Lark for llguidance: `[name(arg=value, ...), ...]`, end mark.

Arguments come by name, in the order of their schema; each value follows its schema, and so does the whole. Equal values
share a rule, whichever argument or tool they belong to, and a rule holds the definitions that it reaches.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from edge_lfm.text.dialects.rules import Rules, quoted
from edge_lfm.text.schemas.document import Document, Schema
from edge_lfm.text.schemas.objects import FREE, ObjectForm
from edge_lfm.text.schemas.rewriting import Bound
from edge_lfm.text.schemas.values import Checker
from edge_lfm.text.tool_binding import BoundTool

BARE = re.compile(r"""[^\s"'=(),\\\x00-\x1f](?:[^"'=(),\\\x00-\x1f\n]*[^\s"'=(),\\\x00-\x1f])?""")
"""An argument's name that needs no quotes."""


def spelled(argument: str) -> str:
    """An argument's name as it stands in a call: bare, or in quotes where it would be taken for something else."""
    return argument if BARE.fullmatch(argument) else json.dumps(argument, ensure_ascii=False)


def calls_grammar(tools: Sequence[BoundTool], end: str, parallel: bool) -> str:
    """The whole grammar. end: the mark behind the calls, as Lark says it. parallel: several calls may come."""
    rules = _Rules()
    calls = " | ".join(rules.call(tool) for tool in tools)
    more = '(", " call)*' if parallel else ""
    return "\n".join([f'calls: "[" call {more} "]" {end}', f"call: {calls}", *rules.lines])


class _Rules(Rules):
    """Each method gives the name of the rule that it has made."""

    def __init__(self) -> None:
        super().__init__()
        self._values: dict[str, str] = {}

    def call(self, tool: BoundTool) -> str:
        forms = " | ".join(self._arguments(form, tool.bound) for form in tool.forms)
        return self.rule("call", f'{quoted(tool.name + "(")} ({forms}) ")"')

    def _arguments(self, form: ObjectForm, bound: Bound) -> str:
        """Rules from the last argument to the first: after each, the rest with a comma in front, or without one."""
        first, rest = self._free(form, bound)
        for name, schema in reversed(form.given.items()):
            value = self._value(schema, bound)
            pair = f"{quoted(spelled(name) + '=')} {value} {rest}"
            skipped = name not in form.required
            first, rest = (
                self.rule("args", pair + (f" | {first}" if skipped else "")),
                self.rule("more", f'", " {pair}' + (f" | {rest}" if skipped else "")),
            )
        return first

    def _free(self, form: ObjectForm, bound: Bound) -> tuple[str, str]:
        """Arguments that the schema allows and does not name: where they are the first ones, and behind others."""
        needed = FREE in form.required
        if form.others in (None, False) and not needed:
            return '""', '""'
        one = self.rule("free", f'{self.free_name(form)} "=" {self._value(form.others or True, bound)}')
        first = self.rule("args", f'{one} (", " {one})*' + ("" if needed else ' | ""'))
        return first, self.rule("more", f'(", " {one}){"+" if needed else "*"}')

    def _value(self, schema: Schema, bound: Bound) -> str:
        """A value as the family writes it: Python's True, False and None at the top, JSON otherwise."""
        source = json.dumps(bound.with_definitions(schema))
        if source not in self._values:
            checker = Checker(Document(schema, bound.definitions))
            options = [f'"{value}"' for value in (True, False, None) if checker.accepts(schema, value)]
            if schema not in ({"type": ["boolean"]}, {"type": ["null"]}):
                options.insert(0, self.json(schema, bound))
            self._values[source] = self.rule("value", " | ".join(options))
        return self._values[source]
