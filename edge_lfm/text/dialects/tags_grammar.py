"""The grammar of calls with tags: parameters in the order of their schema, texts as they are, everything else as JSON.

A text that has no bounds takes whatever comes up to the end of the value, numbers and JSON too: reading such a value
asks the schema again. Texts with bounds, and those of an enumeration, are bound as such.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edge_lfm.errors import GrammarError
from edge_lfm.text.dialects.dialect import Marked
from edge_lfm.text.dialects.rules import Rules, quoted
from edge_lfm.text.schemas.document import TYPES, Document, Schema
from edge_lfm.text.schemas.objects import FREE, ObjectForm
from edge_lfm.text.schemas.rewriting import Bound
from edge_lfm.text.schemas.values import Checker
from edge_lfm.text.tool_binding import BoundTool

_ANY = r"/(?s:.*)/"
_MAX_DEPTH = 20
_PLACES = re.compile(r"\\[bB]|[\^$]")
"""What says where in a text something stands."""


@dataclass(frozen=True)
class TagForm:
    """How a family spells its tags."""

    function: str
    """What stands before a function's name."""
    function_end: str
    parameter: str
    """What stands before a parameter's name."""
    close: str
    """What stands behind a name."""
    line: str
    """What stands before a value and behind it: a line break, or nothing."""
    together: bool
    """Whether all calls of an answer stand between one pair of marks; else each has a pair of its own."""
    parameter_end: str = "</parameter>"
    opening: str = ""
    """What stands between what closes a parameter's name and its value."""
    gap: str = "\n"
    """What stands between tags: a line break, or nothing."""
    marks: tuple[str, ...] = ()
    """Those of the tags that are tokens of the family's vocabularies."""

    @property
    def name_end(self) -> str:
        """What is written behind a function's name; where no tag stands before it, none closes it."""
        return f"{self.close if self.function else ''}{self.gap}"

    @property
    def behind(self) -> str:
        """What is written between a parameter's name and its value."""
        return f"{self.close}{self.opening}{self.line}"

    @property
    def value_end(self) -> str:
        """What is written behind a value."""
        return f"{self.line}{self.parameter_end}{self.gap}"

    @property
    def reading_end(self) -> str:
        """What ends a value when it is read, at its first place."""
        return self.value_end if self.line else self.parameter_end

    def is_writable(self, text: str) -> bool:
        """Whether a text can stand as a value: it ends where it should."""
        return self.reading_end not in f"{self.line}{text}{self.reading_end[:-1]}"


def calls_grammar(
    tools: Sequence[BoundTool], form: TagForm, ends: tuple[str, str], mark: Marked, parallel: bool
) -> str:
    """The whole grammar. ends: the marks around calls. parallel: several calls may come.

    Raises:
        GrammarError: a schema says of texts what cannot be bound here; it says what.
    """
    rules = _Rules(form, mark)
    start, end = map(mark, ends)
    call = f"({' | '.join(rules.call(tool) for tool in tools)})"
    if form.function:
        call = f"{quoted(form.function)} {call} {quoted(form.function_end + form.gap)}"
    lead = quoted(form.gap if form.function else "")
    if form.together:
        head = [f"calls: {lead} call{'+' if parallel else ''} {end}", f"call: {call}"]
    else:
        more = f'("\\n"{"" if form.gap else "?"} {start} call)*' if parallel else ""
        head = [f"calls: call {more}", f"call: {lead} {call} {end}"]
    return "\n".join([*head, *rules.lines])


class _Rules(Rules):
    """Each method gives the name of the rule that it has made, or a Lark expression."""

    def __init__(self, form: TagForm, mark: Marked) -> None:
        super().__init__()
        self._form, self._mark = form, mark

    def call(self, tool: BoundTool) -> str:
        forms = " | ".join(f"({self._arguments(form, tool.bound)})" for form in tool.forms)
        return self.rule("tool", f"{self._literal(tool.name + self._form.name_end)} ({forms})")

    def _arguments(self, form: ObjectForm, bound: Bound) -> str:
        pairs = ['""']
        for name, schema in form.given.items():
            value = None if any(mark in name for mark in self._form.marks) else self._value(schema, bound)
            if value is None and name in form.required:
                raise GrammarError(f"no value of {name:.60} can be written between tags", hint="mend its schema")
            if value is not None:
                pair = f"{self._literal(f'{self._form.parameter}{name}{self._form.behind}')} {value}"
                pairs.append(pair if name in form.required else f"({pair})?")
        return " ".join([*pairs, self._free(form, bound)])

    def _free(self, form: ObjectForm, bound: Bound) -> str:
        """Arguments that the schema allows and does not name."""
        needed = FREE in form.required
        if form.others in (None, False) and not needed:
            return ""
        value = self._value(form.others or True, bound)
        if value is None:
            return ""
        tag = f"{self._literal(self._form.parameter)} {self.free_name(form)} {self._literal(self._form.behind)}"
        return f"({tag} {value}){'+' if needed else '*'}"

    def _literal(self, text: str) -> str:
        """A text of tags: marks as tokens, where they are such, and what stands between them."""
        parts = re.split(f"({'|'.join(map(re.escape, self._form.marks))})", text) if self._form.marks else [text]
        said = [self._mark(part) if part in self._form.marks else quoted(part) for part in parts if part]
        return " ".join(said) or quoted("")

    def _value(self, schema: Schema, bound: Bound) -> str | None:
        """A value and what ends it; None if the schema takes none that can be written."""
        texts, others = _Values(bound, self._form).split(schema)
        if _ANY in texts:
            texts, others = [_ANY], []
        ends = [self._text(text) for text in texts]
        checker = Checker(Document(schema, bound.definitions))
        words = [f'"{word}"' for word in (True, False, None) if checker.accepts(schema, word)] if others else []
        wholes = [*words, *(self.json(other, bound) for other in others)]
        ends += [f"({' | '.join(wholes)}) {self._literal(self._form.value_end)}"] if wholes else []
        return self.rule("value", " | ".join(ends)) if ends else None

    def _text(self, text: str) -> str:
        """A text up to the first end of a value: as it is, or as an expression says."""
        form = self._form
        if text.startswith('"'):
            return f"{text} {self._literal(form.value_end)}"
        end = form.parameter_end.replace("/", r"\/")
        if form.parameter_end in form.marks and self._mark(form.parameter_end) != quoted(form.parameter_end):
            term = self.rule("TEXT", f"({text}) & ~/(?s:.*){end}(?s:.*)/")
            return f"{term} {self._literal(form.value_end)}"
        # With the line break in front of it, the mark is an end already; without one, it may stand nowhere else.
        ended = rf"/{end}\n(?s:.*)/" if form.line else f"/(?s:.*){end}(?s:.+)/"
        term = self.rule("TEXT", f"(({text}) {quoted(form.reading_end)}) & ~{ended}")
        behind = form.value_end.removeprefix(form.reading_end)
        return self.rule("text", term, lazy=True) + (f" {quoted(behind)}" if behind else "")


class _Values:
    """The values that a schema takes, as texts without quotes and as others."""

    def __init__(self, bound: Bound, form: TagForm) -> None:
        self._definitions, self._form = bound.definitions, form

    def split(self, schema: Schema, depth: int = 0) -> tuple[list[str], list[Schema]]:
        """Texts, as Lark has them (in quotes, or as an expression), and schemas that take no texts.

        Raises:
            GrammarError: it says of texts what cannot be bound.
        """
        if isinstance(schema, bool):
            return ([_ANY], []) if schema else ([], [])
        if depth > _MAX_DEPTH:
            raise _refusal("references to itself")
        if "enum" in schema:
            taken = [v for v in schema["enum"] if Checker(Document(schema, self._definitions)).accepts(schema, v)]
            texts = [quoted(v) for v in taken if isinstance(v, str) and self._form.is_writable(v)]
            return texts, [{"enum": [v]} for v in taken if not isinstance(v, str)]
        if not self._takes_texts(schema, depth):
            return [], [schema]
        parts = schema.get("anyOf") or schema.get("allOf") or ()
        target = self._definitions[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else None
        if len(schema) == 1 and ("anyOf" in schema or len(parts) == 1 or target is not None):
            splits = [self.split(part, depth + 1) for part in ([target] if target is not None else parts)]
            return [text for texts, _ in splits for text in texts], [other for _, others in splits for other in others]
        if parts or target is not None:
            raise _refusal("allOf, $ref or anyOf beside other keywords")
        rest = [kind for kind in schema.get("type", TYPES) if kind != "string"]
        return [_expression(schema)], ([{**schema, "type": rest}] if rest else [])

    def _takes_texts(self, schema: Schema, depth: int) -> bool:
        """Whether a schema may take a text."""
        if isinstance(schema, bool) or depth > _MAX_DEPTH:
            return schema is not False
        if "enum" in schema:
            return any(isinstance(value, str) for value in schema["enum"])
        inside = [self._takes_texts(part, depth + 1) for part in schema.get("allOf", ())]
        inside += [any(self._takes_texts(part, depth + 1) for part in schema["anyOf"])] if "anyOf" in schema else []
        if "$ref" in schema:
            inside.append(self._takes_texts(self._definitions[schema["$ref"].rpartition("/")[2]], depth + 1))
        return "string" in schema.get("type", ("string",)) and all(inside)


def _expression(schema: dict[str, Any]) -> str:
    """The texts that a schema's keywords of strings take. `format` is an annotation."""
    low, high = schema.get("minLength", 0), schema.get("maxLength")
    bounds = [] if not low and high is None else [f"/(?s:.{{{low},{'' if high is None else high}}})/"]
    bounds += [_anywhere(schema["pattern"])] if "pattern" in schema else []
    return " & ".join(bounds) or _ANY


def _anywhere(pattern: str) -> str:
    """A pattern, which may be found at any place of a text, as an expression for the whole of it."""
    begins, ends = pattern.startswith("^"), pattern.endswith("$") and not pattern.endswith("\\$")
    inner = pattern[begins : len(pattern) - ends]
    bare = re.sub(r"\\[^bB]", "", inner).replace("[^", "[")
    outside = re.sub(r"\([^()]*\)|\[[^\]]*\]", "", bare)
    if _PLACES.search(bare) or ("|" in outside and (begins or ends)):
        raise _refusal(f"the pattern {pattern!r:.60}")
    escaped = re.sub(r"(?<!\\)/", r"\\/", inner)
    return f"/{'' if begins else '(?s:.*)'}(?:{escaped}){'' if ends else '(?s:.*)'}/"


def _refusal(what: str) -> GrammarError:
    return GrammarError(f"{what}, of a text between tags", hint="simplify the schema")
