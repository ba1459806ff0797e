"""Experts on demand: what a layer needs and does not have is read while what it has is computed.

A step's experts come in waves, in rising order: one wave when the free slots can take all that is missing (any
decode step), more in a prefill that needs more experts than fit; then the next wave is read while one is computed.
Knows slots, offsets and addresses; does not know what an expert computes, nor which way a block comes
(`SlotStore` reads it, `MappedStore` maps it).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_lfm.memory.plan import RING_SLOTS, PagingPlan
from edge_lfm.memory.residency import Residency

SATURATED = 0.85
"""Share of a step spent waiting for the disk beyond which nothing is read on a guess: about one guess in seven is wrong
(24B shape, random weights), so reading ahead costs more than it can hide when less than that is left to hide it in."""
_SMOOTHING = 0.1


@dataclass
class PagingStats:
    """Counters since the model was loaded; one entry a layer, in layer order."""

    hits: NDArray[np.int64]
    misses: NDArray[np.int64]
    stall_s: NDArray[np.float64]
    bytes_read: int = 0
    ahead_used: int = 0  # experts that were read on a guess, and needed
    ahead_wasted: int = 0

    @property
    def hit_rate(self) -> float:
        total = int(self.hits.sum() + self.misses.sum())
        return float(self.hits.sum()) / total if total else 1.0

    def copy(self) -> PagingStats:
        """The counters as they are now."""
        return replace(self, hits=self.hits.copy(), misses=self.misses.copy(), stall_s=self.stall_s.copy())

    def since(self, before: PagingStats) -> PagingStats:
        """What has been added since a copy was taken."""
        return PagingStats(
            self.hits - before.hits,
            self.misses - before.misses,
            self.stall_s - before.stall_s,
            self.bytes_read - before.bytes_read,
            self.ahead_used - before.ahead_used,
            self.ahead_wasted - before.ahead_wasted,
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "hit_rate": self.hit_rate,
            "hits": self.hits.tolist(),
            "misses": self.misses.tolist(),
            "stall_s": float(self.stall_s.sum()),
            "bytes_read": self.bytes_read,
            "ahead_used": self.ahead_used,
            "ahead_wasted": self.ahead_wasted,
        }


@dataclass
class Wave:
    """Experts of one layer that are computed together: those that are there, and those on their way."""

    ready: list[int]
    missing: list[int]
    only: bool
    reads: dict[int, Future[None]] = field(default_factory=dict)


class Store(Protocol):
    """Where blocks are when they are in memory."""

    @property
    def block_bytes(self) -> int: ...

    def begin(self, slot: int, offset: int) -> tuple[int, Future[None]]: ...

    def release(self, slot: int) -> None: ...

    def close(self) -> None: ...


class ExpertPager:
    """`offsets`: file offset of each expert's block, [experts] of each layer; `tables`: where kernels look for them."""

    def __init__(
        self,
        store: Store,
        residency: Residency,
        plan: PagingPlan,
        offsets: Mapping[int, NDArray[np.int64]],
        tables: Mapping[int, NDArray[np.int64]],
    ) -> None:
        self.store, self.residency, self.plan = store, residency, plan
        self.offsets, self.tables = offsets, tables
        self._row = {n: row for row, n in enumerate(sorted(tables))}
        count = len(tables)
        self.stats = PagingStats(np.zeros(count, np.int64), np.zeros(count, np.int64), np.zeros(count))
        self._open: list[tuple[int, Wave]] = []  # begun, and not settled
        self._later: deque[Wave] = deque()  # of the same layer, not begun
        self._ahead: dict[int, dict[int, Future[None]]] = {}  # layer -> reads begun on a guess
        self._landing: list[tuple[int, Future[None]]] = []  # slots that wrong guesses are still written to
        self._early: list[tuple[int, int, Future[None]]] = []  # (layer, expert, read) begun before the first step
        self._stalled = 0.0  # share of recent one-token steps

    def start_layer(self, layer: int, chosen: NDArray[np.int64]) -> list[Wave]:
        """Begin to bring in the experts that a step's rows chose [T, k]: waves, to be computed and settled in turn.

        Reads of the first two are under way; each wave that is settled lets another begin.
        """
        residency, row = self.residency, self._row[layer]
        self._end_early_reads()
        self.land(wait=len(chosen) > 1)
        residency.note(layer, chosen)
        needed = [int(e) for e in np.unique(chosen)]
        guessed = self._ahead.pop(layer, {})
        missing = [e for e in needed if e in guessed or residency.slot(layer, e) is None]
        self._drop_wrong(layer, {e: read for e, read in guessed.items() if e not in missing})
        self.stats.ahead_used += sum(e in guessed for e in missing)
        self.stats.hits[row] += len(needed) - len(missing)
        self.stats.misses[row] += len(missing)
        waves = _split(needed, set(missing), len(residency.free), residency.room)
        waves[0].reads.update((e, read) for e, read in guessed.items() if e in missing)
        self._later = deque(waves)
        self._begin_next(layer)
        self._begin_next(layer)
        return waves

    def read_early(self) -> None:
        """Before the first step: begin to read the experts that are worth most, as many as may be kept."""
        for layer, expert in self.residency.best(self.residency.room):
            read = self._read(layer, expert)
            self.residency.keep_early(layer, expert)
            self._early.append((layer, expert, read))

    def _end_early_reads(self) -> None:
        """A step begins: what has not been read yet is given up, and comes when it is needed."""
        for layer, expert, read in self._early:
            if read.cancel() or read.exception() is not None:
                self.residency.lose(layer, expert)
            else:
                self.stats.bytes_read += self.store.block_bytes
        self._early.clear()

    def settle(self) -> None:
        """The oldest wave has been computed: its experts may be given up, and the next one but one begins."""
        layer, wave = self._open[0]
        following = [*(other for _, other in self._open[1:]), *self._later]
        later = [e for other in following for e in (*other.ready, *other.missing)]
        self.residency.settle(layer, wave.missing, later)
        self._open.pop(0)
        self._begin_next(layer)

    def finish_layer(self) -> None:
        """All waves have been computed."""
        while self._open:
            self.settle()

    @property
    def may_read_ahead(self) -> bool:
        """Whether the disk has had time to spare in recent steps."""
        return self._stalled < SATURATED

    def note_step(self, seconds: float, stalled_s: float) -> None:
        """How long a one-token step took, and how much of that it waited for the disk."""
        self._stalled += _SMOOTHING * (stalled_s / seconds - self._stalled)

    def read_ahead(self, layer: int, experts: Sequence[int]) -> None:
        """Begin to read what a later layer will probably need and does not have, behind all other reads.

        Only while slots are plenty: what is read on a guess must not crowd out what is needed.
        """
        reads = self._ahead.setdefault(layer, {})
        for expert in experts:
            if len(self.residency.free) <= RING_SLOTS // 2 or self.residency.slot(layer, expert) is not None:
                continue
            reads[expert] = self._read(layer, expert)

    def _read(self, layer: int, expert: int) -> Future[None]:
        """Begin to bring an expert into a free slot, and show kernels where it will be."""
        address, read = self.store.begin(self.residency.admit(layer, expert), int(self.offsets[layer][expert]))
        self.tables[layer][expert] = address
        return read

    def _drop_wrong(self, layer: int, reads: Mapping[int, Future[None]]) -> None:
        """Give up experts that were guessed and are not needed; a slot that is being written to comes back later."""
        for expert, read in reads.items():
            if read.cancel():
                self.residency.drop(layer, expert)
            else:
                self.stats.ahead_wasted += 1
                self.stats.bytes_read += self.store.block_bytes
                self._landing.append((self.residency.lend(layer, expert), read))

    def land(self, wait: bool = False) -> None:
        """Take back the slots of wrong guesses whose reads have ended; `wait`: all of them."""
        under_way = []
        for slot, read in self._landing:
            if wait:
                read.exception()
            if read.done():
                self.residency.free.append(slot)
            else:
                under_way.append((slot, read))
        self._landing = under_way

    def wait(self, layer: int, wave: Wave) -> None:
        """Return when a wave's experts are in memory.

        Raises:
            ModelFileError: one could not be read.
        """
        started = time.perf_counter()
        for expert in wave.missing:
            wave.reads[expert].result()
        if wave.missing:
            self.stats.stall_s[self._row[layer]] += time.perf_counter() - started
            self.stats.bytes_read += len(wave.missing) * self.store.block_bytes

    def abandon(self) -> None:
        """Forget a step that failed or was interrupted: wait for its reads, and take their slots back."""
        for layer, wave in self._open:
            for expert, read in wave.reads.items():
                if not read.cancel():
                    read.exception()  # waits
                self.residency.drop(layer, expert)
        for layer, reads in self._ahead.items():
            self._drop_wrong(layer, reads)
        self._open, self._ahead = [], {}
        self._later.clear()
        self.land(wait=True)

    def resize(self, keep: int, slots: int) -> None:
        """Spend more or less memory from now on; call between steps. Slots that are given up go back to the system."""
        self._end_early_reads()
        self.land(wait=True)
        for slot in self.residency.resize(keep, slots):
            self.store.release(slot)

    def close(self) -> None:
        """Wait for reads under way; must come before the memory goes."""
        self.store.close()

    def _begin_next(self, layer: int) -> None:
        if not self._later:
            return
        wave = self._later.popleft()
        self._open.append((layer, wave))
        for expert in wave.missing:
            if expert not in wave.reads:
                wave.reads[expert] = self._read(layer, expert)


def _split(needed: list[int], missing: set[int], free: int, room: int) -> list[Wave]:
    """Waves in rising order: one if all that is missing fits, else of half of the slots that come back each.

    `room`: free slots that may be kept on the way.
    """
    most = free if len(missing) <= free else (free - room) // 2
    waves = [Wave([], [], only=len(missing) <= free)]
    for expert in needed:
        if expert in missing and len(waves[-1].missing) == most:
            waves.append(Wave([], [], only=False))
        (waves[-1].missing if expert in missing else waves[-1].ready).append(expert)
    return waves
