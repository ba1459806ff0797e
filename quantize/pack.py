"""Turning the pieces of a plan into packed bytes, with the error that rounding left."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_lfm.errors import UnsupportedModelError
from edge_lfm.kernels.layout import SCHEME_IDS
from edge_lfm.kernels.ref import F32, Quantized
from edge_lfm.kernels.tiles import pack_tiles
from edge_lfm.model.plan import Matrix, Piece
from edge_lfm.model.reference import Weights
from edge_lfm.quantize.recipes import Recipe

_ROWS_AT_A_TIME = 2048
"""Rows that are rounded together, whole tiles: the search keeps several copies of them."""


@dataclass
class ErrorSum:
    """Squared error and squared weights of a class, summed over its tensors."""

    error: float = 0.0
    signal: float = 0.0

    def add(self, exact: F32, stored: F32 | Quantized) -> None:
        if isinstance(stored, Quantized):
            difference = (exact - stored.values()).ravel()
            self.error += float(np.dot(difference, difference))
        self.signal += float(np.dot(exact.ravel(), exact.ravel()))

    @property
    def relative_rmse(self) -> float:
        """Root mean square error over root mean square weight."""
        return (self.error / self.signal) ** 0.5 if self.signal else 0.0


def pack_piece(piece: Piece, weights: Weights, recipe: Recipe, errors: dict[str, ErrorSum]) -> NDArray[np.generic]:
    """The bytes of one piece (uint8), or its float32 array."""
    if piece.floats is not None:
        return np.ascontiguousarray(_float_array(weights, piece.floats.name))
    total = errors.setdefault(piece.kind, ErrorSum())
    return np.concatenate([_pack_matrix(m, piece, weights, recipe, total) for m in piece.matrices])


def _float_array(weights: Weights, name: str) -> F32:
    value = weights(name)
    assert not isinstance(value, Quantized)
    return value


def _pack_matrix(matrix: Matrix, piece: Piece, weights: Weights, recipe: Recipe, total: ErrorSum) -> NDArray[np.uint8]:
    scheme = SCHEME_IDS[piece.scheme]
    parts = []
    for source in matrix.sources:
        exact = _float_array(weights, source.name)
        packed = []
        for first in range(0, len(exact), _ROWS_AT_A_TIME):
            rows = exact[first : first + _ROWS_AT_A_TIME]
            try:
                stored = rows if piece.scheme == "float32" else recipe.rounding(piece.scheme)(rows)
            except UnsupportedModelError as error:
                raise UnsupportedModelError(f"tensor {source.name}: {error.message}", error.hint) from None
            total.add(rows, stored)
            packed.append(pack_tiles(stored, scheme))
        parts.append(np.concatenate(packed))
    if not matrix.interleave:
        return np.concatenate(parts)  # sources have whole tiles of 16 rows, but for a lone embedding
    tiles = matrix.sources[0].shape[0] // 16
    return np.stack([part.reshape(tiles, -1) for part in parts], axis=1).reshape(-1)
