"""Rounds of drafts: before each step, one pass of the drafter for all answers that ask, while that pays.

How many of a pass's drafts are verified is decided for all answers together: a row more makes the step longer for each
of them. Knows asks and seconds; knows no network.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from edge_lfm.engine.draft_costs import StepTook, Switch
from edge_lfm.engine.draft_model import Block, DraftModel
from edge_lfm.engine.feeds import DraftAsk, Drafts, Feed
from edge_lfm.memory.plan import LOGIT_ROWS, MAX_PARALLEL
from edge_lfm.model.state import DraftCache

_LEAST = 0.05
"""Chance that all drafts of an answer are right, below which no further one is made."""


class DraftRounds:
    """The drafts of all answers of a model."""

    def __init__(self, model: DraftModel) -> None:
        self.model, self.switch = model, Switch()
        self._drafted: dict[int, int] = {}
        """Of the round under way, those who have as many drafts as pay, by the state: how many. Empty: nobody has."""
        self._drafting_s = 0.0
        self._reach = model.drafter.slots
        """Of answers that take as many drafts as pay: the most that are made now. A row of a 2.6B's head (262 M
        weights) costs more than one of its drafter (241 M): one more than was verified lately shows that more pay."""

    def make(self, asks: Sequence[DraftAsk], beside: Sequence[Feed], took: StepTook) -> list[Drafts]:
        """Drafts for all who ask. took: the last step; beside: as of `Backend.draft`."""
        self._note(asks, took)
        started = time.perf_counter()
        free = [ask for ask in asks if ask.free]
        wanted = bool(free) and self.switch.wants(len(free))
        going = [ask for ask in asks if (wanted or not ask.free) and _cache_of(ask).holds(ask.state.position)]
        found = dict(zip(map(id, going), self.model.draft([self._block_of(ask) for ask in going]), strict=True))
        made = {id(ask): found.get(id(ask), ([], [])) for ask in asks}
        fixed_rows = sum(1 + len(made[id(ask)][0]) for ask in asks if not ask.free)
        others = len(beside) + len(asks) - len(free)
        rows = fixed_rows + sum(len(feed.token_ids) for feed in beside)
        most = max(0, LOGIT_ROWS - MAX_PARALLEL - fixed_rows - len(free))
        counts = self.switch.costs.best_counts([made[id(ask)][1] for ask in free], rows, others, most)
        kept = dict(zip(map(id, free), counts, strict=True))
        if wanted:
            self._reach = min(self.model.drafter.slots, max(max(counts) + 1, self._reach - 1))
        self._drafting_s = time.perf_counter() - started
        if wanted:
            self._drafted = {id(ask.state): kept[id(ask)] for ask in free if id(ask) in found}
        return [Drafts(made[id(ask)][0][: kept.get(id(ask))], self._drafting_s) for ask in asks]

    def _block_of(self, ask: DraftAsk) -> Block:
        count, least = (min(ask.count, self._reach), _LEAST) if ask.free else (ask.count, 0.0)
        return Block(_cache_of(ask), ask.state.position, ask.anchor, count, least)

    def _note(self, asks: Sequence[DraftAsk], took: StepTook) -> None:
        """Take account of the round whose drafts the last step has verified. An answer that has ended with it gained
        its last token."""
        if self._drafted and took.feeds >= len(self._drafted):
            gained = {id(ask.state): ask.gained for ask in asks}
            total = sum(gained.get(state, 1) for state in self._drafted)
            answers, drafts = len(self._drafted), sum(self._drafted.values())
            self.switch.note_round(took, answers, drafts, total, self._drafting_s)
        self._drafted = {}


def _cache_of(ask: DraftAsk) -> DraftCache:
    cache = ask.state.draft
    assert cache is not None
    return cache
