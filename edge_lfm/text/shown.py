"""The text of an answer on its way out: a stop string may end it, and each piece knows which tokens it is made of."""

from __future__ import annotations

from collections.abc import Sequence

from edge_lfm.text.parts import Part
from edge_lfm.text.stops import StopStrings


class Shown:
    """Text that a stop string may end, and the tokens that it is made of."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = StopStrings(stops)
        self._entered = self._left = 0
        self._waiting: list[tuple[int, int]] = []  # where the text of each token begins, and its number

    @property
    def stopped_by(self) -> str:
        return self._stops.ended_by or ""

    def add(self, part: Part, may_end: bool) -> list[Part]:
        self._waiting += [(self._entered, token) for token in part.tokens]
        self._entered += len(part.text)
        return self._leave(self._stops.feed(part.text, may_end))

    def finish(self) -> list[Part]:
        return self._leave(self._stops.finish())

    def _leave(self, text: str) -> list[Part]:
        if not text:
            return []
        self._left += len(text)
        shown = tuple(token for start, token in self._waiting if start < self._left)
        self._waiting = [(start, token) for start, token in self._waiting if start >= self._left]
        return [Part("text", text, shown)]
