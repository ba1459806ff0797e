"""Reasoning whose end is a text of several tokens, for vocabularies that have no token for it; a `Constraint`."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from edge_lfm.engine.constraints import Constraint, only
from edge_lfm.text.tokenizer import Tokenizer


class AfterSpelledReasoning:
    """Free reasoning, which the prompt has begun, up to a text that ends it; then the inner constraint, if any.

    A token that brings the end may bring white space behind it, which counts for nothing, and no other text: that would
    escape the inner constraint. budget: tokens of reasoning after which the end is written.
    """

    def __init__(
        self, inner: Constraint | None, end: str, tokenizer: Tokenizer, vocab: int, budget: int | None
    ) -> None:
        self._inner, self._tokenizer, self._vocab, self._budget = inner, tokenizer, vocab, budget
        self._end, self._end_ids = end.encode(), tokenizer.encode(end)
        self._open, self._spent, self._tail = True, 0, b""

    @property
    def ended(self) -> bool:
        return not self._open and self._inner is not None and self._inner.ended

    def allowed(self) -> NDArray[np.bool_] | None:
        if not self._open:
            return self._inner.allowed() if self._inner is not None else None
        if self._budget is not None and self._spent >= self._budget:
            return only(self._end_ids[self._spent - self._budget], self._vocab)
        if self._inner is None:
            return None
        mask = np.ones(self._vocab, np.bool_)
        going_on = _going_on(self._tokenizer, self._end[-1:])
        mask[[i for i, text in going_on if i < self._vocab and self._escapes(text)]] = False
        return mask

    def accept(self, token: int) -> None:
        if self._open:
            text = self._tail + self._tokenizer.bytes_of(token)
            self._open, self._tail = self._end not in text, text[1 - len(self._end) :]
            self._spent += 1
        elif self._inner is not None:
            self._inner.accept(token)

    def forced(self, limit: int) -> list[int]:
        return self._inner.forced(limit) if self._inner is not None and not self._open else []

    def _escapes(self, text: bytes) -> bool:
        """Whether a token's text brings the end and goes on."""
        return bool((self._tail + text).partition(self._end)[2].strip())


@lru_cache(maxsize=1)
def _going_on(tokenizer: Tokenizer, last: bytes) -> list[tuple[int, bytes]]:
    """Tokens whose text goes on behind a character, other than with white space."""
    texts = ((i, tokenizer.bytes_of(i)) for i in range(tokenizer.size))
    return [(i, text) for i, text in texts if text.partition(last)[2].strip()]
