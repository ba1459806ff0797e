"""The tables that attention turns its heads by: one for each kind of rotary embedding, as long as the longest cache.

Layers of one kind share a table. Knows layer records; knows no sequences.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_lfm.kernels.spec.ref import F32, rope_table

Kind = tuple[int, float]
"""Width, and theta."""


class RotaryTables:
    """`kinds`: of each layer that turns its heads; their tables' addresses stand in `layers`, LAYER records."""

    def __init__(self, layers: NDArray[Any], kinds: Mapping[int, Kind]) -> None:
        self._layers, self._kinds = layers, kinds
        self._tables: dict[Kind, F32] = {}
        self._positions = 0

    def reserve(self, positions: int) -> None:
        """Make the tables reach so many positions; not while a step runs."""
        if positions <= self._positions:
            return
        self._positions = positions
        places = np.arange(positions)
        self._tables = {kind: rope_table(places, *kind) for kind in set(self._kinds.values())}
        for n, kind in self._kinds.items():
            self._layers["rope"][n] = self._tables[kind].ctypes.data
