"""Text that knows who wrote each of its characters: the template, or somebody whose words it carries.

A chat template is rendered with the messages exactly as they are, so that it may search, cut and join them as its
authors meant; afterwards a control token is one only where the template wrote every character of it. What loses its
marks on the way (`"%s" | format(x)`, say) counts as content: nothing is ever trusted by accident. Knows no tokens.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any, SupportsIndex

from jinja2 import nodes, pass_eval_context
from jinja2.compiler import CodeGenerator, Frame
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.filters import sync_do_join
from jinja2.parser import Parser
from jinja2.runtime import Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment

_OURS, _THEIRS = "1", "0"


class Written(str):
    """A text with one mark for each character. Made by `literal` and `joined`; `Written(x)` is all content."""

    _marks: str | None = None

    @classmethod
    def literal(cls, text: str) -> Written:
        """A text that the template itself has."""
        return cls._of(text, _OURS * len(text))

    @classmethod
    def joined(cls, parts: Iterable[Any]) -> Written:
        """The parts in a row, each with its marks."""
        texts = [part if isinstance(part, str) else str(part) for part in parts]
        return cls._of("".join(texts), "".join(map(_marks_of, texts)))

    @classmethod
    def _of(cls, text: str, marks: str) -> Written:
        made = cls(text)
        made._marks = marks
        return made

    def is_literal(self, start: int, stop: int) -> bool:
        """Whether the template wrote all characters of a part."""
        return _THEIRS not in _marks_of(self)[start:stop]

    def __str__(self) -> str:
        return self

    def __add__(self, other: str) -> Written:
        return Written.joined((self, other)) if isinstance(other, str) else NotImplemented

    def __radd__(self, other: str) -> Written:
        return Written.joined((other, self)) if isinstance(other, str) else NotImplemented

    def __mul__(self, count: SupportsIndex) -> Written:
        return Written._of(str.__mul__(self, count), _marks_of(self) * count)

    __rmul__ = __mul__

    def __getitem__(self, key: Any) -> Written:
        return Written._of(str.__getitem__(self, key), _marks_of(self)[key])

    def join(self, parts: Iterable[str]) -> Written:
        between: list[str] = []
        for part in parts:
            between += [self, part] if between else [part]
        return Written.joined(between)

    def lstrip(self, chars: str | None = None) -> Written:
        return self[len(self) - len(str.lstrip(self, chars)) :]

    def rstrip(self, chars: str | None = None) -> Written:
        return self[: len(str.rstrip(self, chars))]

    def strip(self, chars: str | None = None) -> Written:
        return self.lstrip(chars).rstrip(chars)

    def removeprefix(self, prefix: str) -> Written:
        return self[len(prefix) :] if prefix and self.startswith(prefix) else self[:]

    def removesuffix(self, suffix: str) -> Written:
        return self[: -len(suffix)] if suffix and self.endswith(suffix) else self[:]

    def split(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:  # type: ignore[override]
        return self._pieces(str.split(self, sep, maxsplit))

    def rsplit(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:  # type: ignore[override]
        return self._pieces(str.rsplit(self, sep, maxsplit))

    def splitlines(self, keepends: bool = False) -> list[str]:  # type: ignore[override]
        return self._pieces(str.splitlines(self, keepends))

    def replace(self, old: str, new: str, count: SupportsIndex = -1) -> Written:
        if not old:
            return Written(str.replace(self, old, new, count))
        return Written.joined((new,)).join(self.split(old, count))

    def _pieces(self, texts: list[str]) -> list[str]:
        """Parts of this text, in its order, with their marks."""
        pieces, at = [], 0
        for text in texts:
            at = str.find(self, text, at)
            pieces.append(self[at : at + len(text)])
            at += len(text)
        return pieces  # type: ignore[return-value]


def _marks_of(text: str) -> str:
    marks = text._marks if isinstance(text, Written) else None
    return _THEIRS * len(text) if marks is None else marks


def parts_of(text: str, spellings: re.Pattern[str]) -> list[tuple[str, bool]]:
    """The text cut at the control tokens that it spells: each part, and whether the template wrote it as a token."""
    parts, start = [], 0
    for match in spellings.finditer(text):
        parts += [(text[start : match.start()], False), (match[0], _is_literal(text, match))]
        start = match.end()
    return [*parts, (text[start:], False)]


def broken(text: str, marks: Mapping[str, int]) -> list[str]:
    """A text cut in the middle of marks that the template did not write, so that none is read as it would write them.

    marks: spelling -> where to cut it.
    """
    if not any(mark in text for mark in marks):
        return [text]
    spellings = re.compile("|".join(map(re.escape, sorted(marks, key=len, reverse=True))))
    cuts = [m.start() + marks[m[0]] for m in spellings.finditer(text) if not _is_literal(text, m)]
    return [text[start:stop] for start, stop in pairwise([0, *cuts, len(text)])]


def _is_literal(text: str, match: re.Match[str]) -> bool:
    return isinstance(text, Written) and text.is_literal(*match.span())


class _Generator(CodeGenerator):
    """Marks every text that stands in the template, where Jinja would write it as a plain constant."""

    def visit_Const(self, node: nodes.Const, frame: Frame) -> None:  # noqa: N802 - Jinja's name
        value = node.as_const(frame.eval_ctx)
        if isinstance(value, str):
            self.write(f"environment.literal({value!r})")
        else:
            super().visit_Const(node, frame)

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:  # noqa: N802
        self.write("environment.concat((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")

    def _output_const_repr(self, group: Iterable[Any]) -> str:
        return f"environment.literal({''.join(map(str, group))!r})"


class _GenerationTag(Extension):
    """`{% generation %}`, which marks what to train on: it renders its body, as a block that takes its line breaks."""

    tags = {"generation"}  # noqa: RUF012 - Jinja's own form

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_render"), [], [], body).set_lineno(line)

    def _render(self, caller: Macro) -> str:
        return caller()


_MAX_REPEATED, _MAX_PRODUCT, _MAX_EXPONENT = 1 << 24, 1 << 62, 64


class TemplateEnvironment(ImmutableSandboxedEnvironment):
    """Jinja as transformers sets it up for chat templates, with marks on what the template writes."""

    code_generator_class = _Generator
    intercepted_binops = frozenset(("*", "**"))
    concat = staticmethod(Written.joined)  # type: ignore[assignment]
    literal = staticmethod(Written.literal)

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols])
        self.filters["join"] = _join

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Products and powers within bounds: one of them can take minutes and gigabytes, and no deadline ends it."""
        repeated = [value for value in (left, right) if isinstance(value, str | list | tuple)]
        size = math.prod(len(value) if value in repeated else abs(value) for value in (left, right))
        if size > (_MAX_REPEATED if repeated else _MAX_PRODUCT) or (operator == "**" and abs(right) > _MAX_EXPONENT):
            raise SecurityError(f"{operator} of values this large is not done in a template")
        return super().call_binop(context, operator, left, right)


@pass_eval_context
def _join(context: nodes.EvalContext, value: Iterable[Any], d: str = "", attribute: str | int | None = None) -> str:
    """Jinja's `join` filter, whose separator keeps the marks of what it joins."""
    return sync_do_join(context, value, Written.joined((d,)), attribute)
