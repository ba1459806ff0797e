"""Which expert is in which slot of memory: pure bookkeeping, no bytes.

Slots are interchangeable. Every layer keeps a number of experts of its own; a few more slots take what is being read.
After use, an expert that was read takes the place of a kept one with a lower score, or leaves. So the slots of a
layer are never thrashed by another layer, and an expert that is used once in a while passes through.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edge_lfm.memory.policy import DecayedUse


@dataclass
class _Layer:
    """One layer: expert -> slot, and what its experts are worth."""

    policy: DecayedUse
    kept: dict[int, int] = field(default_factory=dict)
    passing: dict[int, int] = field(default_factory=dict)  # read for this step, not yet kept


class Residency:
    """`keep`: experts that each layer may keep; `policies`: of each layer that has experts, by its number."""

    def __init__(self, policies: Mapping[int, DecayedUse], keep: int, slots: int) -> None:
        self.keep = keep
        self.layers = {n: _Layer(policy) for n, policy in policies.items()}
        self.free = list(range(slots - 1, -1, -1))
        self._unused: list[int] = []
        assert slots > keep * len(self.layers)

    def slot(self, layer: int, expert: int) -> int | None:
        """Where an expert is, or None."""
        found = self.layers[layer]
        return found.kept.get(expert, found.passing.get(expert))

    def room(self, layer: int) -> int:
        """How many more experts a layer may keep."""
        return self.keep - len(self.layers[layer].kept)

    def note(self, layer: int, chosen: NDArray[np.int64]) -> None:
        """A step's choices [tokens, k] of a layer; call before `admit` and `settle`."""
        self.layers[layer].policy.note(chosen)

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

    def settle(self, layer: int, used: Iterable[int], later: Iterable[int] = ()) -> None:
        """Decide which of the experts that were read stay; `later`: experts that this step still needs."""
        found, needed = self.layers[layer], set(later)
        if not found.passing:
            return
        scores = found.policy.scores
        for expert in used:
            slot = found.passing.pop(expert, None)
            if slot is None:
                continue
            if len(found.kept) < self.keep:
                found.kept[expert] = slot
                continue
            weakest = min((e for e in found.kept if e not in needed), key=lambda e: scores[e], default=None)
            if weakest is None or scores[weakest] >= scores[expert]:
                self.free.append(slot)
            else:
                self.free.append(found.kept.pop(weakest))
                found.kept[expert] = slot

    def resize(self, keep: int, slots: int) -> list[int]:
        """Keep `keep` experts a layer in `slots` slots from now on; the slots that are no longer used.

        The least worth leave first. Slots that were given up before come back first.
        """
        self.keep = keep
        for found in self.layers.values():
            scores = found.policy.scores
            for expert in sorted(found.kept, key=lambda e: scores[e])[: max(0, len(found.kept) - keep)]:
                self.free.append(found.kept.pop(expert))
        used = len(self.free) + sum(len(found.kept) for found in self.layers.values())
        back = max(0, min(slots - used, len(self._unused)))
        self.free = [*self._unused[len(self._unused) - back :], *self.free]
        self._unused = self._unused[: len(self._unused) - back]
        gone = [self.free.pop(0) for _ in range(used + back - slots)]
        self._unused += gone
        return gone
