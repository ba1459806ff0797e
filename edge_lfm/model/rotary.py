"""The tables that attention turns its heads by: one for each kind of rotary embedding, as long as the longest cache.

Layers of one kind share a table. Knows layer records; knows no sequences.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_lfm.kernels.spec import ref
from edge_lfm.kernels.spec.ref import F32, I64
from edge_lfm.shape import Rope, Yarn


def frequencies(rope: Rope) -> F32:
    """The angle of each pair of a head from one position to the next, float32 [width / 2]; 0 of pairs that stay."""
    exponents = np.arange(0, rope.width, 2, dtype=np.float32) / np.float32(rope.width)
    each: F32 = (1 / rope.theta**exponents).astype(np.float32)
    each[len(each) if rope.turned is None else rope.turned :] = 0
    return each if rope.scaling is None else _scaled(each, rope, rope.scaling)


def _scaled(each: F32, rope: Rope, yarn: Yarn) -> F32:
    """As `_compute_yarn_parameters` of transformers 5.24."""

    def pair(turns: float) -> float:
        """Which pair turns so many times within the original context."""
        return rope.width * math.log(yarn.original / (turns * 2 * math.pi)) / (2 * math.log(rope.theta))

    first, last = pair(yarn.fast), pair(yarn.slow)
    if yarn.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, rope.width - 1)
    steps = np.arange(len(each), dtype=np.float32) - np.float32(first)
    ramp = np.clip(steps / np.float32(last - first or 0.001), 0, 1)
    scaled: F32 = (each / np.float32(yarn.factor) * ramp + each * (1 - ramp)).astype(np.float32)
    return scaled


def rope_table(rope: Rope, positions: I64) -> F32:
    """What the heads of a position are turned by, [T, width]: cosines of its angles, then their sines."""
    return ref.rope_table(positions, frequencies(rope)) * np.float32(rope.magnitude)


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
        self._tables = {rope: rope_table(rope, places) for rope in set(self._ropes.values())}
        for n, rope in self._ropes.items():
            self._layers["rope"][n] = self._tables[rope].ctypes.data
