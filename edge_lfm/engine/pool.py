"""Sequences kept for reuse: a prompt starts from the longest prefix that some earlier sequence has read.

System prompts, few-shot examples and documents are computed once, and each turn of a conversation computes only what is
new. Bounded in bytes; the one that was not used for longest goes first, those that a conversation holds last. Used by
the engine thread only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edge_lfm.engine.sequence import TokenSequence, nbytes_at
from edge_lfm.model.state import State


@dataclass
class PoolStats:
    """Counters since the model was loaded, and what is kept now."""

    prompts: int = 0
    prompts_reused: int = 0
    tokens_reused: int = 0
    evicted: int = 0
    sequences: int = 0
    nbytes: int = 0


class SequencePool:
    """`make_state`: a fresh state; `limit_bytes`: of all sequences kept."""

    def __init__(self, make_state: Callable[[], State], limit_bytes: int) -> None:
        self._make_state, self.limit_bytes = make_state, limit_bytes
        self._idle: list[TokenSequence] = []  # least recently used first
        self.stats = PoolStats()

    def take(self, ids: Sequence[int], holder: Callable[[], Any] | None = None) -> TokenSequence:
        """A sequence that has read as much of a prompt as any, but its last token; it is the caller's until `give`.

        `holder`: a weak reference to the conversation that asks: its own sequence may be cut, others' are copied.
        """
        self.stats.prompts += 1
        best, reach, wanted = None, 0, np.asarray(ids, np.int32)
        for sequence in self._idle:
            reached = sequence.reach(wanted)
            if reached > reach or (reached == reach and reached and _is(sequence, holder)):
                best, reach = sequence, reached
        if best is None:
            return TokenSequence(self._make_state())
        self.stats.prompts_reused += 1
        self.stats.tokens_reused += reach
        self._idle.remove(best)
        mine = not best.held or _is(best, holder)
        copying = nbytes_at(best.state, reach)
        if mine and (reach == len(best.ids) or _is(best, holder) or self._nbytes() + copying > self.limit_bytes):
            best.go_back(reach)
            self._count()
            return best
        self._idle.append(best)
        return best.fork(reach, self._make_state())

    def give(self, sequence: TokenSequence, holder: Callable[[], Any] | None = None) -> None:
        """Keep a sequence for later, in place of what the same conversation had before."""
        if holder is not None:
            for other in self._idle:
                if _is(other, holder):
                    other.holder = None
        sequence.holder = holder
        sequence.state.drop_notes()
        self._idle = [s for s in self._idle if s.held or not _is_prefix(s, sequence)]
        self._idle.append(sequence)
        total = self._nbytes()
        while total > self.limit_bytes:
            gone = next((s for s in self._idle if not s.held), self._idle[0])
            self._idle.remove(gone)
            total -= gone.nbytes
            self.stats.evicted += 1
        self._count()

    def find(self, holder: Callable[[], Any]) -> TokenSequence | None:
        """The sequence that a conversation holds, if it is still kept."""
        return next((s for s in self._idle if _is(s, holder)), None)

    def _nbytes(self) -> int:
        return sum(sequence.nbytes for sequence in self._idle)

    def _count(self) -> None:
        self.stats.sequences, self.stats.nbytes = len(self._idle), self._nbytes()


def _is(sequence: TokenSequence, holder: Callable[[], Any] | None) -> bool:
    return holder is not None and sequence.holder is not None and sequence.holder() is holder()


def _is_prefix(shorter: TokenSequence, longer: TokenSequence) -> bool:
    """Whether all that a sequence offers is offered by another one too."""
    count = len(shorter.ids)
    if count > len(longer.ids) or shorter.ids != longer.ids[:count]:
        return False
    return (
        count in longer.checkpoints or count == len(longer.ids)
    ) and shorter.checkpoints.keys() <= longer.checkpoints.keys()
