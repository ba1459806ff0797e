"""Stop strings in a stream of text: nothing of one is given out, and nothing that could become one is given out
early."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """`ended_by`: the stop string that ended the text, or None so far."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.ended_by: str | None = None

    def feed(self, text: str, may_end: bool = True) -> str:
        """The text that is safe to give out now; nothing more after a stop string was found.

        may_end: whether a stop string that this text completes ends the answer. One that it begins may, later on.
        """
        if not self._stops or self.ended_by is not None:
            return text if self.ended_by is None else ""
        held, text = len(self._held), self._held + text
        places = [(text.find(s, max(0, held - len(s) + 1)), s) for s in self._stops] if may_end else []
        first = min(((place + len(s), -len(s), s) for place, s in places if place >= 0), default=None)
        if first is not None:  # the one that is complete first; of two at once the longer
            self.ended_by, self._held = first[2], ""
            return text[: first[0] + first[1]]
        keep = max(overlap(text, stop) for stop in self._stops)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def finish(self) -> str:
        """What was held back and did not become a stop string."""
        rest, self._held = self._held, ""
        return rest


def overlap(text: str, stop: str) -> int:
    """The longest end of `text` that is a beginning of `stop`, and not all of it."""
    for count in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:count]):
            return count
    return 0
