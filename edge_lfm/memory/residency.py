"""Which expert is in which slot of memory: pure bookkeeping, no bytes.

Slots are interchangeable, and so are layers: what is kept are the experts that are worth most, of all layers together
(on GPT-OSS's recorded routing 1 % more hits than an equal share for every layer). A few more slots take what is being
read. After use, an expert that was read takes the place of a kept one with a lower score, or leaves, so that an expert
that is used once in a while passes through.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edge_lfm.memory.policy import DecayedUse

_DECAY_OF_A_TOKEN = 0.5
"""What an expert is worth falls to this over the time of a token: one of the next layer, which gets its chance at once,
is worth up to twice as much as one whose turn has just passed. Hits on GPT-OSS's routing, an eighth of the experts
kept: 0.526 so, 0.520 without."""


@dataclass
class _Layer:
    """One layer: expert -> slot, and what its experts are worth."""

    row: int  # of `Residency._worth`
    policy: DecayedUse
    kept: dict[int, int] = field(default_factory=dict)
    passing: dict[int, int] = field(default_factory=dict)  # read for this step, not yet kept
    scores: NDArray[np.float64] | None = None  # since the last use that was noted

    def score(self) -> NDArray[np.float64]:
        if self.scores is None:
            self.scores = self.policy.scores
        return self.scores


class Residency:
    """`keep`: experts of all layers that may be kept; `policies`: of each layer that has experts, by its number."""

    def __init__(self, policies: Mapping[int, DecayedUse], keep: int, slots: int) -> None:
        self.keep = keep
        self.layers = {n: _Layer(row, policies[n]) for row, n in enumerate(sorted(policies))}
        self.kept_count = 0
        self.free = list(range(slots - 1, -1, -1))
        self._numbers = sorted(policies)
        self._worth = np.full((len(policies), next(iter(policies.values())).experts), np.inf)
        """Scores of kept experts; infinity for all others."""
        self._changed: dict[int, _Layer] = {}  # by row: whose scores have changed since `_worth` was made
        rows = np.arange(len(policies))
        turns = (rows[None] - rows[:, None] - 1) % len(rows) + 1  # layers until a row's next turn, at each row
        self._nearness = _DECAY_OF_A_TOKEN ** (turns / len(rows) - 1)
        self._unused: list[int] = []
        assert slots > keep

    def slot(self, layer: int, expert: int) -> int | None:
        """Where an expert is, or None."""
        residents = self.layers[layer]
        return residents.kept.get(expert, residents.passing.get(expert))

    @property
    def room(self) -> int:
        """How many more experts may be kept."""
        return self.keep - self.kept_count

    def note(self, layer: int, chosen: NDArray[np.int64]) -> None:
        """A step's choices [tokens, k] of a layer; call before `admit` and `settle`."""
        self.layers[layer].policy.note(chosen)
        self._score_anew(self.layers[layer])

    def admit(self, layer: int, expert: int) -> int:
        """A free slot for an expert that is to be read."""
        slot = self.free.pop()
        self.layers[layer].passing[expert] = slot
        return slot

    def drop(self, layer: int, expert: int) -> None:
        """Take back a slot whose read failed."""
        self.free.append(self.layers[layer].passing.pop(expert))

    def lend(self, layer: int, expert: int) -> int:
        """The slot of an expert that is still being read and not wanted; whoever gets it puts it back to `free`."""
        return self.layers[layer].passing.pop(expert)

    def counters(self) -> NDArray[np.float32]:
        """The policies' counters, [layers, half-lives, experts]."""
        return np.stack([self.layers[n].policy.counters for n in self._numbers]).astype(np.float32)

    def restore(self, counters: NDArray[np.float32]) -> None:
        """Go on from counters of an earlier start."""
        for n, kept in zip(self._numbers, counters, strict=True):
            self.layers[n].policy.counters[:] = kept
            self._score_anew(self.layers[n])

    def best(self, count: int) -> list[tuple[int, int]]:
        """The experts that past use makes worth most, (layer, expert), the best first; those never used are not."""
        worth = np.stack([self.layers[n].score() for n in self._numbers])
        used = np.stack([self.layers[n].policy.counters.any(axis=0) for n in self._numbers])
        order = np.argsort(np.where(used, -worth, np.inf), axis=None, kind="stable")[: min(count, int(used.sum()))]
        return [(self._numbers[row], expert) for row, expert in (divmod(int(at), used.shape[1]) for at in order)]

    def keep_early(self, layer: int, expert: int) -> None:
        """Keep an admitted expert before anything is used: there is room."""
        residents = self.layers[layer]
        residents.kept[expert] = residents.passing.pop(expert)
        self.kept_count += 1
        self._worth[residents.row, expert] = residents.score()[expert]

    def lose(self, layer: int, expert: int) -> None:
        """A kept expert could not be read."""
        self._evict(self.layers[layer].row, expert)

    def settle(self, layer: int, used: Iterable[int], later: Iterable[int] = ()) -> None:
        """Decide which of the experts that were read stay; `later`: experts of the layer that this step still needs."""
        residents = self.layers[layer]
        if not residents.passing:
            return
        scores = residents.score()
        worth: NDArray[np.float64] | None = None
        for expert in used:
            slot = residents.passing.pop(expert, None)
            if slot is None:
                continue
            if self.room <= 0:
                if worth is None:
                    worth = self._current() * self._nearness[residents.row][:, None]
                    worth[residents.row, [e for e in later if e in residents.kept]] = np.inf
                row, weakest = divmod(int(worth.argmin()), worth.shape[1])
                if worth[row, weakest] >= scores[expert]:  # infinity: there is none
                    self.free.append(slot)
                    continue
                self._evict(row, weakest)
                worth[row, weakest], worth[residents.row, expert] = np.inf, scores[expert]
            residents.kept[expert] = slot
            self.kept_count += 1
            self._worth[residents.row, expert] = scores[expert]

    def resize(self, keep: int, slots: int) -> list[int]:
        """Keep `keep` experts in `slots` slots from now on; the slots that are no longer used.

        The least worth leave first. Slots that were given up before come back first.
        """
        self.keep = keep
        while self.kept_count > keep:
            worth = self._current()
            self._evict(*divmod(int(worth.argmin()), worth.shape[1]))
        used = len(self.free) + self.kept_count
        back = max(0, min(slots - used, len(self._unused)))
        self.free = [*self._unused[len(self._unused) - back :], *self.free]
        self._unused = self._unused[: len(self._unused) - back]
        gone = [self.free.pop(0) for _ in range(used + back - slots)]
        self._unused += gone
        return gone

    def _current(self) -> NDArray[np.float64]:
        """Scores of all kept experts as of now, infinity for others."""
        for residents in self._changed.values():
            kept = list(residents.kept)
            self._worth[residents.row, kept] = residents.score()[kept]
        self._changed.clear()
        return self._worth

    def _score_anew(self, residents: _Layer) -> None:
        residents.scores = None
        self._changed[residents.row] = residents

    def _evict(self, row: int, expert: int) -> None:
        self.free.append(self.layers[self._numbers[row]].kept.pop(expert))
        self.kept_count -= 1
        self._worth[row, expert] = np.inf
