"""Sequences kept for reuse: a prompt starts from the longest prefix that some earlier sequence has read.

System prompts, few-shot examples and documents are computed once, and each turn of a conversation computes only what is
new. Of sequences that answers go on with, a copy is given up to where they agree. What is kept is bounded in bytes; the
one that was not used for longest goes first, those that a conversation holds last. Every place that a kept sequence can
be brought to is found by a hash of the tokens before it, so that looking for a prefix takes as long among thousands of
sequences as among two. Used by the engine thread only.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

import numpy as np

from edge_lfm.engine.sequence import TokenSequence, nbytes_at
from edge_lfm.model.state import State

Holder = Callable[[], Any]


@dataclass
class PoolStats:
    """Counters since the model was loaded, and what is kept now."""

    prompts: int = 0
    prompts_reused: int = 0
    tokens_reused: int = 0
    evicted: int = 0
    sequences: int = 0
    nbytes: int = 0


@dataclass(frozen=True)
class _Kept:
    """A sequence that waits for use, the bytes it was counted with, and the hashes of its places and of its end."""

    sequence: TokenSequence
    nbytes: int
    places: frozenset[int]
    end: int
    holder: int


class _Index:
    """Sequences by a number; any number of them under each."""

    def __init__(self) -> None:
        self._found: dict[int, dict[int, TokenSequence]] = {}

    def __getitem__(self, key: int) -> Iterable[TokenSequence]:
        return self._found.get(key, {}).values()

    def add(self, key: int, sequence: TokenSequence) -> None:
        self._found.setdefault(key, {})[id(sequence)] = sequence

    def remove(self, key: int, sequence: TokenSequence) -> None:
        sequences = self._found[key]
        del sequences[id(sequence)]
        if not sequences:
            del self._found[key]


class SequencePool:
    """`make_state`: a fresh state; `limit_bytes`: of all sequences kept."""

    def __init__(self, make_state: Callable[[], State], limit_bytes: int) -> None:
        self._make_state, self.limit_bytes = make_state, limit_bytes
        self._idle: OrderedDict[int, _Kept] = OrderedDict()  # by identity, least recently used first
        self._lent = WeakSet[TokenSequence]()
        self._by_place, self._by_end, self._by_holder = _Index(), _Index(), _Index()
        self._seed = int(np.random.default_rng().integers(1 << 62))
        self.stats = PoolStats()

    def take(self, ids: Sequence[int], holder: Holder | None = None) -> TokenSequence:
        """A sequence that has read as much of a prompt as any, but its last token; it is the caller's until `give`.

        `holder`: a weak reference to the conversation that asks: its own sequence may be cut, others' are copied.
        """
        sequence = self._take(array("i", ids), holder)
        self._lent.add(sequence)
        return sequence

    def _take(self, ids: array[int], holder: Holder | None) -> TokenSequence:
        self.stats.prompts += 1
        best, reach = self._longest(ids, holder)
        lender, lent = self._longest_lent(ids)
        if best is None and lender is None:
            return TokenSequence(self._make_state(), self._spare)
        self.stats.prompts_reused += 1
        if best is None or (lender is not None and lent > reach):
            assert lender is not None
            self.stats.tokens_reused += lent
            return lender.fork(lent, self._make_state())
        self.stats.tokens_reused += reach
        self._remove(best)
        mine = not best.held or _is(best, holder)
        copying = nbytes_at(best.state, reach)
        if mine and (reach == len(best.ids) or _is(best, holder) or self.stats.nbytes + copying > self.limit_bytes):
            best.go_back(reach)
            return best
        self._add(best)
        return best.fork(reach, self._make_state())

    def give(self, sequence: TokenSequence, holder: Holder | None = None) -> None:
        """Keep a sequence for later, in place of what the same conversation had before."""
        before = self.find(holder) if holder is not None else None
        if before is not None:
            self._remove(before)
            before.holder = None
            self._add(before)
        sequence.holder = holder
        self._lent.discard(sequence)
        sequence.state.drop_notes()
        for other in self._offered_by(sequence):
            self._remove(other)
        self._add(sequence)
        while self.stats.nbytes > self.limit_bytes:
            oldest = next(iter(self._idle.values()))
            gone = next((kept for kept in self._idle.values() if not kept.sequence.held), oldest)
            self._remove(gone.sequence)
            if gone.sequence.drop_copies():
                self._add(gone.sequence)
                self._idle.move_to_end(id(gone.sequence), last=False)
            else:
                self.stats.evicted += 1

    def _spare(self, nbytes: int) -> bool:
        """Whether copies of places that rings lose may take so many bytes more, of what is kept for reuse."""
        lent = sum(sequence.copied_bytes for sequence in self._lent)
        return self.stats.nbytes + lent + nbytes <= self.limit_bytes

    def find(self, holder: Holder) -> TokenSequence | None:
        """The sequence that a conversation holds, if it is still kept."""
        return next((s for s in self._by_holder[id(holder())] if _is(s, holder)), None)

    def _longest(self, ids: array[int], holder: Holder | None) -> tuple[TokenSequence | None, int]:
        """The sequence that can be brought to the longest prefix short of the last token, and that length."""
        hashes, own = self._hashes(ids[:-1]), self.find(holder) if holder is not None else None
        for count in range(len(hashes), 0, -1):
            other = next((s for s in self._by_place[hashes[count - 1]] if _offers(s, ids[:count])), None)
            if other is not None:
                return own if own is not None and _offers(own, ids[:count]) else other, count
        return None, 0

    def _longest_lent(self, ids: array[int]) -> tuple[TokenSequence | None, int]:
        """As `_longest`, of those that others go on with: few, so that each is looked at."""
        sequence_to_lend: TokenSequence | None = None
        longest = 0
        for sequence in self._lent:
            common = _common(sequence.ids, ids[:-1])
            count = max((p for p in _places(sequence) if p <= common), default=0)
            if count > longest:
                sequence_to_lend, longest = sequence, count
        return sequence_to_lend, longest

    def _offered_by(self, longer: TokenSequence) -> list[TokenSequence]:
        """The sequences of no conversation whose every place is a place of this one too."""
        hashes = self._hashes(longer.ids)
        return [
            s
            for count in _places(longer)
            for s in self._by_end[hashes[count - 1]]
            if not s.held and s.checkpoints.keys() <= longer.checkpoints.keys() and s.ids == longer.ids[:count]
        ]

    def _add(self, sequence: TokenSequence) -> None:
        hashes = [0, *self._hashes(sequence.ids)]
        places = frozenset(hashes[count] for count in _places(sequence))
        holder = id(sequence.holder()) if sequence.holder is not None else 0
        kept = _Kept(sequence, sequence.nbytes, places, hashes[-1], holder)
        self._idle[id(sequence)] = kept
        for place in places:
            self._by_place.add(place, sequence)
        self._by_end.add(kept.end, sequence)
        self._by_holder.add(holder, sequence)
        self._count(kept.nbytes)

    def _remove(self, sequence: TokenSequence) -> None:
        kept = self._idle.pop(id(sequence))
        for place in kept.places:
            self._by_place.remove(place, sequence)
        self._by_end.remove(kept.end, sequence)
        self._by_holder.remove(kept.holder, sequence)
        self._count(-kept.nbytes)

    def _count(self, nbytes: int) -> None:
        self.stats.sequences = len(self._idle)
        self.stats.nbytes += nbytes

    def _hashes(self, ids: array[int]) -> list[int]:
        """A hash of the first token, of the first two, and so on; seeded, so that nobody can make many of one."""
        x = np.array(ids, np.uint64) + (np.arange(len(ids), dtype=np.uint64) << np.uint64(32))
        x += np.uint64(self._seed)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):  # splitmix64 (Steele et al. 2014)
            x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
        hashes: list[int] = np.cumsum(x ^ (x >> np.uint64(31)), dtype=np.uint64).tolist()
        return hashes


def _places(sequence: TokenSequence) -> set[int]:
    """The lengths that a sequence can be brought to."""
    return {count for count in (*sequence.checkpoints, len(sequence.ids)) if count}


def _common(a: array[int], b: array[int]) -> int:
    """How many tokens two texts begin with alike."""
    count = min(len(a), len(b))
    differing = np.flatnonzero(np.array(a[:count]) != np.array(b[:count]))
    return int(differing[0]) if differing.size else count


def _offers(sequence: TokenSequence, ids: array[int]) -> bool:
    """Whether a sequence can be brought to exactly these tokens."""
    count = len(ids)
    return (count == len(sequence.ids) or count in sequence.checkpoints) and sequence.ids[:count] == ids


def _is(sequence: TokenSequence, holder: Holder | None) -> bool:
    return holder is not None and sequence.holder is not None and sequence.holder() is holder()
