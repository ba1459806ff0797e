"""A drafter model at work on one answer: what it asks for before each step, beside those of other answers."""

from __future__ import annotations

from edge_lfm.engine.backend import Backend
from edge_lfm.engine.feeds import DraftAsk
from edge_lfm.engine.sequence import TokenSequence


class ModelDrafter:
    """A `Drafter` of one answer. max_drafts: so many each time, whatever they cost; None: as many as pay."""

    def __init__(self, sequence: TokenSequence, max_drafts: int | None) -> None:
        self._sequence, self._fixed = sequence, max_drafts
        self._anchor = self._gained = 0

    def extend(self, token: int) -> None:
        self._anchor = token
        self._gained += 1

    def propose(self, count: int) -> list[int] | DraftAsk:
        gained, self._gained = self._gained, 0
        if self._sequence.state.draft is None or count < 1:
            return []
        free = self._fixed is None
        count = count if self._fixed is None else min(count, self._fixed)
        return DraftAsk(self._sequence.state, self._anchor, count, free, gained)


def model_drafter(runner: Backend, sequence: TokenSequence, max_drafts: int | None) -> ModelDrafter | None:
    """A drafter for an answer, where there is one and it was not left off; by itself it is not where experts are paged,
    as every draft brings experts of its own."""
    if runner.drafting is None or max_drafts == 0 or (max_drafts is None and runner.pager is not None):
        return None
    return ModelDrafter(sequence, max_drafts)
