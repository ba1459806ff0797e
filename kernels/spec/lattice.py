"""The values that weights can have once their scales are chosen: what rounding with error feedback chooses from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_lfm.kernels.spec.ref import F32


@dataclass(frozen=True)
class Lattice:
    """weight = scale * (point + shift), with a scale and a shift for each block of columns.

    A point is one level for one weight, or two for two weights half a block apart: unit u of a block is its column u,
    or its columns u and u + half. N rows, K columns, B blocks, P points of D = 1 or 2 coordinates.
    """

    points: F32  # [P, D]; levels of one weight rise
    index: NDArray[np.uint8]  # [N, K / D]: the point of each unit
    scale: F32  # [N, B]
    shift: F32  # [N, B]

    @property
    def levels(self) -> F32:
        """Of every weight, its shift included: [N, K]."""
        n, blocks = self.scale.shape
        chosen = self.points[self.index.reshape(n, blocks, -1)] + self.shift[:, :, None, None]
        levels: F32 = chosen.transpose(0, 1, 3, 2).reshape(n, -1)
        return levels

    def values(self) -> F32:
        """[N, K]."""
        levels = self.levels
        values: F32 = levels * np.repeat(self.scale, levels.shape[1] // self.scale.shape[1], axis=1)
        return values

    def columns_of_units(self) -> NDArray[np.int64]:
        """The columns of every unit, [K / D, D]."""
        dims = self.points.shape[1]
        units = np.arange(self.index.shape[1] * dims).reshape(self.scale.shape[1], dims, -1)
        return np.ascontiguousarray(units.transpose(0, 2, 1)).reshape(-1, dims)
