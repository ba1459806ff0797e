"""Pieces of an answer: their text, what kind of text it is, and which tokens it came from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

Kind = Literal["text", "reasoning", "call"]


@dataclass(frozen=True)
class Part:
    """Some text of an answer; a `call` comes whole, the other kinds as they grow.

    tokens: which tokens of the answer it shows, by number; a token that shows in two parts counts for the first.
    """

    kind: Kind
    text: str
    tokens: tuple[int, ...] = ()

    def cut(self, at: int) -> tuple[Part, Part]:
        """What stands before a place in the text, and what stands behind it."""
        head, tail = replace(self, text=self.text[:at]), replace(self, text=self.text[at:])
        return (head, replace(tail, tokens=())) if at else (replace(head, tokens=()), tail)


def joined(*parts: Part) -> Part:
    """Parts of one kind in a row, as one."""
    tokens = tuple(token for part in parts for token in part.tokens)
    return Part(parts[0].kind, "".join(part.text for part in parts), tokens)
