"""When a grammar holds: from the start, inside tool calls only, or after the reasoning. Each wraps the next; a
sampler sees one.

A constraint says which tokens may come next (None: any), hears which one came, and may know some in advance.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Constraint(Protocol):
    """What a sampler asks."""

    @property
    def ended(self) -> bool:
        """Whether the answer is complete, and nothing may follow."""

    def allowed(self) -> NDArray[np.bool_] | None:
        """Which tokens may come next [vocab]; None: any."""

    def accept(self, token: int) -> None:
        """Note that a token was taken."""

    def forced(self, limit: int) -> list[int]:
        """The next tokens, as far as there is no choice; they are taken."""


class InCalls:
    """Free text until a call begins; then the calls' grammar to its end.

    start_id: the token that begins calls. required: the answer must begin with it, and ends with the calls.
    """

    def __init__(self, make: Callable[[], Constraint], start_id: int, vocab: int, required: bool) -> None:
        self._make, self._start_id, self._vocab, self._required = make, start_id, vocab, required
        self._inner: Constraint | None = None
        self._done = False

    @property
    def ended(self) -> bool:
        return self._required and self._done

    def allowed(self) -> NDArray[np.bool_] | None:
        if self._inner is not None:
            return self._inner.allowed()
        return only(self._start_id, self._vocab) if self._required else None

    def accept(self, token: int) -> None:
        if self._inner is not None:
            self._inner.accept(token)
            self._leave()
        elif token == self._start_id:
            self._inner = self._make()

    def forced(self, limit: int) -> list[int]:
        if self._inner is None:
            return []
        tokens = self._inner.forced(limit)
        self._leave()
        return tokens

    def _leave(self) -> None:
        if self._inner is not None and self._inner.ended:
            self._inner, self._done = None, True


class AfterReasoning:
    """Free reasoning up to its end, which comes after `budget` tokens at the latest; then the inner constraint, if any.

    open: whether the prompt has begun the reasoning already; otherwise the answer may begin with it.
    """

    def __init__(
        self, inner: Constraint | None, start_id: int, end_id: int, vocab: int, open: bool, budget: int | None
    ) -> None:
        self._inner, self._start_id, self._end_id, self._vocab = inner, start_id, end_id, vocab
        self._open, self._budget = open, budget
        self._first, self._spent = not open, 0

    @property
    def ended(self) -> bool:
        return not self._open and not self._first and self._inner is not None and self._inner.ended

    def allowed(self) -> NDArray[np.bool_] | None:
        if self._open:
            over = self._budget is not None and self._spent >= self._budget
            return only(self._end_id, self._vocab) if over else None
        inner = self._inner.allowed() if self._inner is not None else None
        if self._first and inner is not None:
            inner = inner.copy()
            inner[self._start_id] = True
        return inner

    def accept(self, token: int) -> None:
        first, self._first = self._first, False
        if self._open:
            self._spent += 1
            self._open = token != self._end_id
        elif first and token == self._start_id:
            self._open = True
        elif self._inner is not None:
            self._inner.accept(token)

    def forced(self, limit: int) -> list[int]:
        return self._inner.forced(limit) if self._inner is not None and not self._open and not self._first else []


def only(token: int, vocab: int) -> NDArray[np.bool_]:
    """A mask that lets one token through."""
    mask = np.zeros(vocab, np.bool_)
    mask[token] = True
    return mask
