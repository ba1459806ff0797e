"""Prompt lookup: drafts are what followed the last n-gram of a text where it stood before."""

from __future__ import annotations

from collections.abc import Sequence

NGRAM = 3


class Lookup:
    """A `Drafter` with an index of where each n-gram of a text was followed by what."""

    def __init__(self, token_ids: Sequence[int]) -> None:
        self._ids: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}  # n-gram -> index of the token after its last occurrence
        self._pending: tuple[int, ...] = ()
        for token in token_ids:
            self.extend(token)

    def extend(self, token: int) -> None:
        """Append one token."""
        if self._pending:
            self._after[self._pending] = len(self._ids)
        self._ids.append(token)
        self._pending = tuple(self._ids[-NGRAM:]) if len(self._ids) >= NGRAM else ()

    def propose(self, count: int) -> list[int]:
        """At most `count` tokens that followed the final n-gram when it stood last."""
        start = self._after.get(self._pending)
        return [] if start is None else self._ids[start : start + count]
