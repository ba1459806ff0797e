"""float32 as it is: for each column of a tile its 16 rows. Stored weights are a float32 array [N, K]."""

from __future__ import annotations

import numpy as np

from edge_lfm.kernels.spec.ref import F32
from edge_lfm.kernels.spec.schemes import Scheme
from edge_lfm.kernels.spec.vectors import U8, by_row, by_tile


def pack(weights: F32, scheme: Scheme) -> U8:
    return np.ascontiguousarray(by_tile(weights), np.float32).view(np.uint8).reshape(-1)


def unpack(packed: U8, scheme: Scheme, rows: int, cols: int) -> F32:
    weights: F32 = by_row(packed.view(np.float32).reshape(-1, cols, 16))[:rows]
    return weights


def round_weights(x: F32, scheme: Scheme, importance: F32 | None = None, plain: bool = False) -> F32:
    return x


def random_tiles(scheme: Scheme, tiles: int, cols: int, spread: float, rng: np.random.Generator) -> U8:
    return (rng.standard_normal(tiles * 16 * cols, np.float32) * np.float32(spread)).view(np.uint8)
