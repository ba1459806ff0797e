"""Marks that a vocabulary has no tokens for, found in the text of an answer; what may become one is held back."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from edge_lfm.text.dialects import Dialect
from edge_lfm.text.parts import Part
from edge_lfm.text.stops import overlap
from edge_lfm.text.tokenizer import Tokenizer


def spelled_marks(dialect: Dialect, template: str, tokenizer: Tokenizer) -> tuple[str, ...]:
    """The marks that a chat template writes, or a form of texts has, and the vocabulary has no tokens for."""
    marks = [dialect.call_start, dialect.call_end, dialect.think_start, dialect.think_end]
    told = [mark for mark in (*marks, *dialect.inner_marks) if dialect.frames or mark in template]
    return tuple(mark for mark in (*told, *dialect.frames) if tokenizer.special_id(mark) is None)


class SpelledMarks:
    """A stream of parts, cut at the marks in it."""

    def __init__(self) -> None:
        self._held: list[Part] = []

    def add(self, part: Part) -> None:
        self._held.append(part)

    def take(self, marks: Collection[str]) -> tuple[list[Part], str | None]:
        """The parts up to the first of these marks, and that mark; or those that hold no part of one, and None."""
        text = "".join(part.text for part in self._held)
        at, mark = min(((text.find(mark), mark) for mark in marks if mark in text), default=(-1, None))
        if mark is not None:
            before = self._leave(at)
            self._leave(len(mark))
            return before, mark
        kept = max((overlap(text, mark) for mark in marks), default=0)
        return self._leave(len(text) - kept), None

    def finish(self) -> list[Part]:
        """What was held back and has become no mark."""
        held, self._held = self._held, []
        return held

    def _leave(self, count: int) -> list[Part]:
        """The first characters, which are held no longer."""
        gone: list[Part] = []
        while count and self._held:
            part = self._held.pop(0)
            head, tail = part.cut(min(count, len(part.text)))
            gone.append(head)
            count -= len(head.text)
            if tail.text:
                self._held.insert(0, tail)
        return gone


def ends_with_mark(prompt: Sequence[int], mark: str, tokenizer: Tokenizer) -> bool:
    """Whether a prompt ends with a mark that is a text. Content cannot: a template writes the end of a prompt."""
    return tokenizer.decode(prompt[-2 * len(mark) :], special=True).rstrip().endswith(mark)
