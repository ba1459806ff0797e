"""Reasoning whose marks are texts of several tokens, for vocabularies that have no tokens for them: a `Constraint` of
what comes after it, and one that only limits it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edge_lfm.engine.constraints import Constraint, only, without
from edge_lfm.text.tokenizer import Tokenizer

Before = Literal["prompt begins", "may begin", "none"]
"""Where reasoning stands as an answer begins: the prompt has begun it, the answer may, or there is none (any more)."""


class _Thoughts:
    """Reasoning that goes on until a text ends it. budget: tokens after which that is written. ends: tokens that may
    not come before."""

    def __init__(
        self, end: str, tokenizer: Tokenizer, vocab: int, budget: int | None, ends: Sequence[int] = ()
    ) -> None:
        self._tokenizer, self._vocab, self._budget, self._ends = tokenizer, vocab, budget, list(ends)
        self._end, self._end_ids = end.encode(), tokenizer.encode(end)
        self._spent, self._tail = 0, b""

    def allowed(self, alone: bool) -> NDArray[np.bool_] | None:
        """alone: what brings the end brings nothing else but white space."""
        if self._budget is not None and self._spent >= self._budget:
            return only(self._end_ids[self._spent - self._budget], self._vocab)
        if not alone:
            return None
        mask = without(self._ends, self._vocab)
        going_on = _going_on(self._tokenizer, self._end[-1:])
        mask[[i for i, text in going_on if i < self._vocab and (self._tail + text).partition(self._end)[2].strip()]] = (
            False
        )
        return mask

    def accept(self, token: int) -> bytes | None:
        """What a token brings behind the end; None: it goes on."""
        text = self._tail + self._tokenizer.bytes_of(token)
        self._spent, self._tail = self._spent + 1, text[1 - len(self._end) :]
        return text.partition(self._end)[2] if self._end in text else None


class AfterSpelledReasoning:
    """Free reasoning, if there is any, up to a text that ends it; then the inner constraint, if any.

    A token that brings the end may bring white space behind it, which counts for nothing, and no other text: that would
    escape the inner constraint. ends: as of `AfterReasoning`. opens: a text that stands before what the inner
    constraint is of, on a line of its own, or "". Where the answer may begin its reasoning, `opens` is what tells an
    answer without any.
    """

    def __init__(
        self,
        inner: Constraint | None,
        marks: tuple[str, str],
        tokenizer: Tokenizer,
        vocab: int,
        budget: int | None,
        before: Before = "prompt begins",
        opens: str = "",
        ends: Sequence[int] = (),
    ) -> None:
        self._inner, self._tokenizer, self._vocab = inner, tokenizer, vocab
        self._thoughts = _Thoughts(marks[1], tokenizer, vocab, budget, ends)
        self._start = marks[0].encode() if before == "may begin" and budget != 0 else None
        self._opens = f"{opens}\n".encode() if opens else b""
        self._phase = "thoughts" if before == "prompt begins" else "between"
        self._said = b""  # between thoughts and the inner constraint, without the line break behind thoughts
        self._may_break = False
        self._enter_inner()

    @property
    def ended(self) -> bool:
        return self._phase == "inner" and self._inner is not None and self._inner.ended

    def allowed(self) -> NDArray[np.bool_] | None:
        if self._phase == "thoughts":
            return self._thoughts.allowed(alone=self._inner is not None)
        if self._phase == "between":
            return self._of_openings()
        return self._inner.allowed() if self._inner is not None else None

    def accept(self, token: int) -> None:
        if self._phase == "inner":
            if self._inner is not None:
                self._inner.accept(token)
            return
        if self._phase == "thoughts":
            behind = self._thoughts.accept(token)
            if behind is not None:
                self._phase, self._may_break, self._start = "between", not behind, None
        else:
            self._said = (self._said + self._tokenizer.bytes_of(token)).lstrip()
            self._may_break = False
            if self._start is not None and self._said.startswith(self._start):
                self._phase, self._said = "thoughts", b""
        self._enter_inner()

    def forced(self, limit: int) -> list[int]:
        return self._inner.forced(limit) if self._inner is not None and self._phase == "inner" else []

    def _enter_inner(self) -> None:
        if self._phase == "between" and (self._inner is None or self._said == self._opens):
            self._phase = "inner"

    def _of_openings(self) -> NDArray[np.bool_]:
        """Tokens on the way to what opens the answer, or to reasoning."""
        ways = [self._opens, *([b"\n" + self._opens] if self._may_break else [])]
        mask = np.zeros(self._vocab, np.bool_)
        for token, text in _pieces(self._tokenizer, (*ways, *([self._start] if self._start else []))):
            said = self._said + text
            begins = self._start is not None and (said.startswith(self._start) or self._start.startswith(said))
            mask[token] = token < self._vocab and (begins or any(way.startswith(said) for way in ways))
        return mask


class SpelledReasoningLimit:
    """The inner constraint, if any, of a whole answer, its reasoning included, of which no more than `budget` tokens
    come before its end is written."""

    def __init__(
        self, inner: Constraint | None, marks: tuple[str, str], tokenizer: Tokenizer, vocab: int, budget: int
    ) -> None:
        self._inner, self._tokenizer, self._start = inner, tokenizer, marks[0].encode()
        self._thoughts = _Thoughts(marks[1], tokenizer, vocab, budget)
        self._open: bool | None = None  # None: what has come may become its beginning
        self._said = b""

    @property
    def ended(self) -> bool:
        return self._inner is not None and self._inner.ended

    def allowed(self) -> NDArray[np.bool_] | None:
        mask = self._thoughts.allowed(alone=False) if self._open else None
        return mask if mask is not None or self._inner is None else self._inner.allowed()

    def accept(self, token: int) -> None:
        if self._inner is not None:
            self._inner.accept(token)
        self._follow(token)

    def forced(self, limit: int) -> list[int]:
        return self._inner.forced(limit) if self._inner is not None and self._open is False else []

    def _follow(self, token: int) -> None:
        if self._open:
            self._open = self._thoughts.accept(token) is None
        elif self._open is None:
            self._said = (self._said + self._tokenizer.bytes_of(token)).lstrip()
            if self._said.startswith(self._start):
                self._open = True
            elif not self._start.startswith(self._said):
                self._open = False


@lru_cache(maxsize=1)
def _going_on(tokenizer: Tokenizer, last: bytes) -> list[tuple[int, bytes]]:
    """Tokens whose text goes on behind a character, other than with white space."""
    return [(i, text) for i, text in _texts(tokenizer) if text.partition(last)[2].strip()]


@lru_cache(maxsize=4)
def _pieces(tokenizer: Tokenizer, ways: tuple[bytes, ...]) -> list[tuple[int, bytes]]:
    """Tokens that may stand on the way through one of these texts, or go on behind its end."""
    ends = tuple({way[n:] for way in ways for n in range(len(way))})
    return [
        (i, text)
        for i, text in _texts(tokenizer)
        if text and (text.startswith(ends) or any(text in way for way in ways))
    ]


def _texts(tokenizer: Tokenizer) -> Iterable[tuple[int, bytes]]:
    return ((i, tokenizer.bytes_of(i)) for i in range(tokenizer.size))
