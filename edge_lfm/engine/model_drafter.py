"""A drafter model at work on one answer: it drafts while that pays, and as many tokens as are worth a step's rows."""

from __future__ import annotations

import time

from edge_lfm.engine.backend import Backend
from edge_lfm.engine.draft_model import DraftModel
from edge_lfm.engine.sequence import TokenSequence

_LEAST = 0.05
"""Chance that all drafts are right, below which no further one is made."""


class ModelDrafter:
    """A `Drafter` of one answer. max_drafts: so many each time, whatever they cost; None: as many as pay."""

    def __init__(self, runner: Backend, model: DraftModel, sequence: TokenSequence, max_drafts: int | None) -> None:
        self._runner, self._model, self._sequence, self._fixed = runner, model, sequence, max_drafts
        self._anchor = self._gained = self._drafts = 0
        self._drafting_s: float | None = None  # of the round under way; None: nothing was drafted

    def extend(self, token: int) -> None:
        self._anchor = token
        self._gained += 1

    def propose(self, count: int) -> list[int]:
        cache, position = self._sequence.state.draft, self._sequence.state.position
        if cache is None:
            return []
        if self._fixed is not None:
            return self._draft(min(count, self._fixed), 0.0)[0] if cache.holds(position) else []
        self._note()
        switch = self._model.switch
        wanted, cache.wanted = switch.wants(), switch.looks_on
        if not wanted or not cache.holds(position):
            return []
        started, took = time.perf_counter(), self._runner.took
        drafts, confidences = self._draft(count, _LEAST)
        others, other_rows = took.feeds - 1, max(0, took.rows - self._drafts - 1)
        self._drafts = switch.costs.best_count(confidences, other_rows, others)
        self._drafting_s = time.perf_counter() - started
        return drafts[: self._drafts]

    def _draft(self, count: int, least: float) -> tuple[list[int], list[float]]:
        cache = self._sequence.state.draft
        assert cache is not None
        return self._model.draft(cache, self._sequence.state.position, self._anchor, count, least)

    def _note(self) -> None:
        """Take account of the step since the last proposal."""
        switch, took = self._model.switch, self._runner.took
        if self._gained and self._drafting_s is not None:
            switch.note_round(took, self._drafts, self._gained, self._drafting_s)
        self._gained, self._drafts, self._drafting_s = 0, 0, None


def begin_drafting(runner: Backend, sequence: TokenSequence, max_drafts: int | None) -> None:
    """Before an answer: decide whether a drafter looks on at its prompt. max_drafts: as of `ModelDrafter`."""
    cache, model = sequence.state.draft, runner.drafting
    if cache is None or model is None:
        return
    paged = runner.pager is not None
    cache.wanted = max_drafts > 0 if max_drafts is not None else not paged and model.switch.looks_on


def model_drafter(runner: Backend, sequence: TokenSequence, max_drafts: int | None) -> ModelDrafter | None:
    """A drafter for an answer, where there is one and it was not left off; by itself it is not where experts are paged,
    as every draft brings experts of its own."""
    model = runner.drafting
    if model is None or max_drafts == 0 or (max_drafts is None and runner.pager is not None):
        return None
    return ModelDrafter(runner, model, sequence, max_drafts)
