"""What goes into the next step: a row of every answer, or its drafts, then as much of prompts as there is room for.

Knows feeds and seconds; does not know whose they are, nor who runs them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edge_lfm.engine.feeds import Feed

_FIRST_TOKENS = 16
_AIM = 0.8
"""Of the bound, what a step is made for: the next one has longer prompts behind it, and other work may come between."""
_GROWTH = 2.0


@dataclass(frozen=True)
class Room:
    """What a step may hold. rows: of it; logit_rows: of feeds that want the logits of all their tokens."""

    rows: int
    logit_rows: int

    def without(self, feed: Feed) -> Room:
        """What is left beside a feed."""
        return Room(self.rows - len(feed.token_ids), self.logit_rows - _all_logits(feed))

    def holds(self, feed: Feed) -> bool:
        """Whether there is room for a feed."""
        return len(feed.token_ids) <= self.rows and _all_logits(feed) <= self.logit_rows


class Pace:
    """How many tokens of prompts a step may read beside running answers, so that they add `bound_s` seconds at most.

    What they add grows less than they do, as experts and trunk are read once for all rows: a part that added less than
    the bound can be made longer in proportion, and stays below it. One that added more, or less than nothing, may have
    met a machine that has become slower or faster: the next step is one without prompts, which tells.
    """

    def __init__(self, bound_s: float, most: int) -> None:
        self._bound_s, self._most = bound_s, most
        self._share = float(min(_FIRST_TOKENS, most))
        self._plain_s: float | None = None  # of a step without prompts; None: it is to be found out

    @property
    def tokens(self) -> int:
        """At least one in every other step: prompts go on, however slow the machine is."""
        return int(self._share) if self._plain_s is not None else 0

    def note(self, tokens: int, seconds: float) -> None:
        """Take account of a step of answers that took so long, and read `tokens` of prompts beside them."""
        if not tokens or self._plain_s is None:
            self._plain_s = seconds
            return
        added_s = seconds - self._plain_s
        if added_s > self._bound_s:
            self._share = max(1.0, min(self._share, tokens) / 2)
        elif tokens >= self.tokens:
            grown = self._share * min(_GROWTH, _AIM * self._bound_s / added_s if added_s > 0 else _GROWTH)
            self._share = min(float(self._most), max(1.0, grown))
        if not 0 <= added_s <= self._bound_s:
            self._plain_s = None


def gather(feeds: Sequence[Feed], room: Room, prompt_tokens: int) -> list[tuple[int, Feed]]:
    """The feeds of the next step, each with its number among those that want one; prompts are cut to what fits.

    feeds: who has waited longest comes first, and is served whatever the others want.
    prompt_tokens: of prompts at most, if there are answers beside them.
    """
    if len(feeds) == 1 and not feeds[0].divisible:
        return [(0, feeds[0])]
    chosen: list[tuple[int, Feed]] = []
    kept = int(feeds[0].divisible)
    room = Room(room.rows - kept, room.logit_rows - kept)
    for n, feed in enumerate(feeds):
        if not feed.divisible and (room.holds(feed) or n == 0):
            chosen.append((n, feed))
            room = room.without(feed)
    rows = room.rows + kept
    return chosen + _share(feeds, Room(min(rows, prompt_tokens) if chosen else rows, room.logit_rows + kept))


def _share(feeds: Sequence[Feed], room: Room) -> list[tuple[int, Feed]]:
    """Prompts, each with an equal part of the room; what a short one leaves, the longer ones share."""
    prompts = [n for n, feed in enumerate(feeds) if feed.divisible][: max(0, room.rows)]
    scored = [n for n in prompts if feeds[n].logits == "all"]
    prompts = [n for n in prompts if n not in scored[max(0, room.logit_rows) :]]
    scored = scored[: max(0, room.logit_rows)]
    chosen: list[tuple[int, Feed]] = []
    for place, n in enumerate(sorted(prompts, key=lambda n: len(feeds[n].token_ids))):
        tokens = room.rows // (len(prompts) - place)
        if n in scored:
            tokens = min(tokens, room.logit_rows // len(scored))
            scored.remove(n)
        part = feeds[n].first(tokens)
        chosen.append((n, part))
        room = room.without(part)
    return chosen


def _all_logits(feed: Feed) -> int:
    return feed.logit_rows if feed.logits == "all" else 0
