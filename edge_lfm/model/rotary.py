"""The tables that attention turns its heads by: one for each kind of rotary embedding, as long as the longest cache.

Layers of one kind share a table. Knows layer records; knows no sequences.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_lfm.kernels.spec.ref import F32, rope_table
from edge_lfm.shape import Rope


def frequencies(rope: Rope) -> F32:
    """The angle of each pair of a head from one position to the next, float32 [width / 2]; 0 of pairs that stay."""
    exponents = np.arange(0, rope.width, 2, dtype=np.float32) / np.float32(rope.width)
    each: F32 = (1 / rope.theta**exponents).astype(np.float32)
    each[len(each) if rope.turned is None else rope.turned :] = 0
    return each


class RotaryTables:
    """`ropes`: of each layer that turns its heads; their tables' addresses stand in `layers`, LAYER records."""

    def __init__(self, layers: NDArray[Any], ropes: Mapping[int, Rope]) -> None:
        self._layers, self._ropes = layers, ropes
        self._tables: dict[Rope, F32] = {}
        self._positions = 0

    def reserve(self, positions: int) -> None:
        """Make the tables reach so many positions; not while a step runs."""
        if positions <= self._positions:
            return
        self._positions = positions
        places = np.arange(positions)
        self._tables = {rope: rope_table(places, frequencies(rope)) for rope in set(self._ropes.values())}
        for n, rope in self._ropes.items():
            self._layers["rope"][n] = self._tables[rope].ctypes.data
