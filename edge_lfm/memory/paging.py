"""Experts on demand: what a layer needs and does not have is read while what it has is computed.

A step's experts come in waves, in rising order: one wave when the free slots can take all that is missing (any
decode step), more in a prefill that needs more experts than fit; then the next wave is read while one is computed.
Knows slots, offsets and addresses; does not know what an expert computes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_lfm.memory.reader import BlockReader, Slots
from edge_lfm.memory.residency import Residency


@dataclass
class PagingStats:
    """Counters since the model was loaded; one entry a layer, in layer order."""

    hits: NDArray[np.int64]
    misses: NDArray[np.int64]
    stall_s: NDArray[np.float64]
    bytes_read: int = 0

    @property
    def hit_rate(self) -> float:
        total = int(self.hits.sum() + self.misses.sum())
        return float(self.hits.sum()) / total if total else 1.0

    def copy(self) -> PagingStats:
        """The counters as they are now."""
        return PagingStats(self.hits.copy(), self.misses.copy(), self.stall_s.copy(), self.bytes_read)

    def since(self, before: PagingStats) -> PagingStats:
        """What has been added since a copy was taken."""
        return PagingStats(
            self.hits - before.hits,
            self.misses - before.misses,
            self.stall_s - before.stall_s,
            self.bytes_read - before.bytes_read,
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "hit_rate": self.hit_rate,
            "hits": self.hits.tolist(),
            "misses": self.misses.tolist(),
            "stall_s": float(self.stall_s.sum()),
            "bytes_read": self.bytes_read,
        }


@dataclass
class Wave:
    """Experts of one layer that are computed together: those that are there, and those on their way."""

    ready: list[int]
    missing: list[int]
    only: bool
    reads: dict[int, Future[None]] = field(default_factory=dict)


class ExpertPager:
    """`offsets`: file offset of each expert's block, [experts] of each layer; `tables`: where kernels look for them."""

    def __init__(
        self,
        reader: BlockReader,
        slots: Slots,
        residency: Residency,
        block_bytes: int,
        offsets: Mapping[int, NDArray[np.int64]],
        tables: Mapping[int, NDArray[np.int64]],
    ) -> None:
        self.reader, self.slots, self.residency, self.block_bytes = reader, slots, residency, block_bytes
        self.offsets, self.tables = offsets, tables
        self._row = {n: row for row, n in enumerate(sorted(tables))}
        count = len(tables)
        self.stats = PagingStats(np.zeros(count, np.int64), np.zeros(count, np.int64), np.zeros(count))
        self._open: list[tuple[int, Wave]] = []

    def waves(self, layer: int, chosen: NDArray[np.int64]) -> Iterator[Wave]:
        """The experts that a step chose [tokens, k]; after each wave was computed, `settle` is called by the iterator.

        A wave's reads are under way when it comes; those of the next one too.
        """
        residency, row = self.residency, self._row[layer]
        residency.note(layer, chosen)
        needed = [int(e) for e in np.unique(chosen)]
        missing = [e for e in needed if residency.slot(layer, e) is None]
        self.stats.hits[row] += len(needed) - len(missing)
        self.stats.misses[row] += len(missing)
        waves = _split(needed, set(missing), len(residency.free), residency.room(layer))
        self._begin(layer, waves[0])
        for n, wave in enumerate(waves):
            if n + 1 < len(waves):
                self._begin(layer, waves[n + 1])
            yield wave
            later = [e for other in waves[n + 1 :] for e in (*other.ready, *other.missing)]
            residency.settle(layer, wave.missing, later)
            self._open.pop(0)

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
            self.stats.bytes_read += len(wave.missing) * self.block_bytes

    def abandon(self) -> None:
        """Forget a step that failed or was interrupted: wait for its reads, and take their slots back."""
        for layer, wave in self._open:
            for expert, read in wave.reads.items():
                if not read.cancel():
                    read.exception()  # waits
                self.residency.drop(layer, expert)
        self._open = []

    def close(self) -> None:
        """Wait for reads under way; must come before the slots go."""
        self.reader.close()

    def _begin(self, layer: int, wave: Wave) -> None:
        self._open.append((layer, wave))
        for expert in wave.missing:
            slot = self.residency.admit(layer, expert)
            address = self.slots.address_of(slot)
            self.tables[layer][expert] = address
            wave.reads[expert] = self.reader.read(int(self.offsets[layer][expert]), self.block_bytes, address)


def _split(needed: list[int], missing: set[int], free: int, room: int) -> list[Wave]:
    """Waves in rising order: one if all that is missing fits, else of half of the slots that come back each.

    `room`: free slots that the layer may keep for itself on the way.
    """
    most = free if len(missing) <= free else (free - room) // 2
    waves = [Wave([], [], only=len(missing) <= free)]
    for expert in needed:
        if expert in missing and len(waves[-1].missing) == most:
            waves.append(Wave([], [], only=False))
        (waves[-1].missing if expert in missing else waves[-1].ready).append(expert)
    return waves
