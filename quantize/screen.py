"""The screen of a head: its packed rows once more in fewer bits, and how far each is from what it stands for.

A logit of the screen is its row times the activations, as that of the head is. By Cauchy and Schwarz they differ by no
more than |row of the head - row of the screen| |activations|, and by what both kernels round when they sum float32.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_lfm.kernels.load.library import Kernels
from edge_lfm.kernels.spec.layout import GROUP
from edge_lfm.kernels.spec.ref import F32, Quantized
from edge_lfm.kernels.spec.schemes import SCHEMES, TILE_ROWS
from edge_lfm.kernels.spec.tiles import unpack_tiles
from edge_lfm.model.plan import Matrix
from edge_lfm.quantize.pack import encode

_ROWS_AT_A_TIME = 2048
_SUMMING = 2.0**-20
"""Times the norm of a row and its groups plus 8: more than what the sums of both kernels round. Each of G groups adds
two products to a sum below the norms' product, 2 G * 2**-24. Offsets of levels that are read as 0..255 make products of
all groups together at most 12 times as large, each rounded six times at most, 72 * 2**-24."""


def with_screen(head: NDArray[np.uint8], matrix: Matrix, screen: Matrix, kernels: Kernels) -> list[NDArray[np.uint8]]:
    """A head's tiles, then the screen's, then a bound for each row, float32 [rows]: pieces that follow each other."""
    stored, coarse = SCHEMES[matrix.scheme], SCHEMES[screen.scheme]
    tiles, bounds = [], []
    for first in range(0, matrix.rows, _ROWS_AT_A_TIME):
        rows = min(_ROWS_AT_A_TIME, matrix.rows - first)
        at = first // TILE_ROWS * stored.tile_bytes(matrix.cols)
        part = head[at : at + stored.matrix_bytes(rows, matrix.cols)]
        exact = _values(unpack_tiles(part, stored, rows, matrix.cols))
        packed, _ = encode(exact, coarse, kernels)
        tiles.append(packed)
        bounds.append(row_bounds(exact, _values(unpack_tiles(packed, coarse, rows, matrix.cols))))
    return [head, *tiles, np.concatenate(bounds).view(np.uint8)]


def row_bounds(exact: F32, screen: F32) -> F32:
    """Of rows [N, K] of a head and of its screen: by how much their products with activations of norm 1 differ."""
    rounding = (exact.shape[1] // GROUP + 8) * _SUMMING * (_norms(exact) + _norms(screen))
    bounds: F32 = np.nextafter((_norms(exact - screen) + rounding).astype(np.float32), np.float32(np.inf))
    return bounds


def _norms(rows: F32) -> NDArray[np.float64]:
    norms: NDArray[np.float64] = np.sqrt(np.einsum("nk,nk->n", rows, rows, dtype=np.float64))
    return norms


def _values(stored: F32 | Quantized) -> F32:
    return stored.values() if isinstance(stored, Quantized) else stored
