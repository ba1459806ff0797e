"""Weights as the tiles of 16 rows that kernels read (layout: `matmul.py`), packed and unpacked in plain NumPy.

The definition of the packed bytes: the compiled encoder of `encode.py` and the look-ups of `embedding.py` are tested
against it. Knows arrays only.

Legend: N rows, K columns, G groups of 32 columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_lfm.kernels.spec.layout import CODEBOOK, CODEBOOK_SHIFT, GROUP, MOST_SCALE
from edge_lfm.kernels.spec.ref import F32, Quantized
from edge_lfm.kernels.spec.schemes import FLOAT32, INT4_G32, Scheme

U8 = NDArray[np.uint8]
LEVELS = np.array(CODEBOOK, np.int8)


@dataclass(frozen=True)
class Coded:
    """Codebook weights as they are stored."""

    index: U8  # [N, K], 0..15
    codes: U8  # [N, K / block]: the scale as a multiple of the row's, plus 127; odd where shifted
    row_scale: F32  # [N]

    def quantized(self) -> Quantized:
        """The same weights as levels and block scales."""
        block = self.index.shape[1] // self.codes.shape[1]
        shift = np.repeat((self.codes & 1).astype(np.int8) * np.int8(CODEBOOK_SHIFT), block, axis=1)
        multiple = self.codes.astype(np.float32) - np.float32(MOST_SCALE)
        return Quantized(LEVELS[self.index] + shift, multiple * self.row_scale[:, None])


def pack_tiles(weights: F32 | Quantized | Coded, scheme: Scheme) -> U8:
    """Weights [N, K] as tiles, rows padded with zeros -> uint8 [bytes].

    int4 values are -8..7, int8 values -127..127, with scales that are stored as float16.
    """
    if isinstance(weights, Coded):
        return _pack_coded(weights)
    if not isinstance(weights, Quantized):
        tiles = _padded(weights).reshape(-1, 16, weights.shape[1]).transpose(0, 2, 1)
        return np.ascontiguousarray(tiles, np.float32).view(np.uint8).reshape(-1)
    groups = weights.q.shape[1] // GROUP
    q = _to_vectors(_padded(weights.q))
    scales = _padded(weights.scale).reshape(-1, 16, groups).transpose(0, 2, 1).astype(np.float16)
    values = _nibbles((q + 8).astype(np.uint8)) if scheme is INT4_G32 else np.ascontiguousarray(q).view(np.uint8)
    scale_bytes = np.ascontiguousarray(scales).view(np.uint8)
    return np.concatenate([values.reshape(len(q), groups, -1), scale_bytes], axis=2).reshape(-1)


def unpack_tiles(packed: U8, scheme: Scheme, rows: int, cols: int) -> F32 | Quantized:
    """The inverse of `pack_tiles`: float32 [rows, cols], or integers with their scales."""
    if scheme.codebook:
        return unpack_coded(packed, scheme, rows, cols).quantized()
    groups = cols // GROUP
    if scheme is FLOAT32:
        return packed.view(np.float32).reshape(-1, cols, 16).transpose(0, 2, 1).reshape(-1, cols)[:rows]
    blocks = packed.reshape(-1, groups, scheme.group_bytes)
    values, scale_bytes = np.split(blocks, [scheme.value_bytes], axis=2)
    vectors = np.ascontiguousarray(values).reshape(-1, groups, values.shape[2] // 64, 64)
    if scheme is INT4_G32:
        q = _from_nibbles(vectors).astype(np.int8) - np.int8(8)
    else:
        q = vectors.view(np.int8)
    scale = np.ascontiguousarray(scale_bytes).view(np.float16).transpose(0, 2, 1).reshape(-1, groups)
    return Quantized(_from_vectors(q, cols)[:rows], scale[:rows].astype(np.float32))


def unpack_coded(packed: U8, scheme: Scheme, rows: int, cols: int) -> Coded:
    """Codebook tiles as what they store."""
    blocks, groups = cols // scheme.block, cols // GROUP
    row_scale, rest = np.split(packed.reshape(-1, scheme.tile_bytes(cols)), [scheme.header_bytes], axis=1)
    values, codes = np.split(rest.reshape(len(rest), groups, -1), [scheme.value_bytes], axis=2)
    index = _from_vectors(_from_nibbles(values.reshape(-1, groups, 4, 64)), cols)
    codes = codes.reshape(-1, blocks, 16).transpose(0, 2, 1).reshape(-1, blocks)
    return Coded(index[:rows], codes[:rows], np.ascontiguousarray(row_scale).view(np.float32).reshape(-1)[:rows])


def _pack_coded(weights: Coded) -> U8:
    blocks, groups = weights.codes.shape[1], weights.index.shape[1] // GROUP
    values = _nibbles(_to_vectors(_padded(weights.index))).reshape(-1, groups, 16 * GROUP // 2)
    codes = _padded(weights.codes).reshape(-1, 16, blocks).transpose(0, 2, 1).reshape(len(values), groups, -1)
    row_scale = np.pad(weights.row_scale.astype(np.float32), (0, -len(weights.row_scale) % 16)).reshape(-1, 16)
    body = np.concatenate([values, codes], axis=2).reshape(len(values), -1)
    return np.concatenate([row_scale.view(np.uint8), body], axis=1).reshape(-1)


def _to_vectors(q: NDArray[Any]) -> NDArray[Any]:
    """[N, K] -> [tiles, G, 8 vectors, 64]: byte 4r + b of vector j is row r, column 4j + b."""
    groups = q.shape[1] // GROUP
    return q.reshape(-1, 16, groups, 8, 4).transpose(0, 2, 3, 1, 4).reshape(-1, groups, 8, 64)


def _from_vectors(vectors: NDArray[Any], cols: int) -> NDArray[Any]:
    return vectors.reshape(-1, cols // GROUP, 8, 16, 4).transpose(0, 3, 1, 2, 4).reshape(-1, cols)


def _nibbles(q: U8) -> U8:
    """Eight vectors of 0..15 as four of bytes: the first four are the low halves."""
    return q[:, :, :4] | q[:, :, 4:] << np.uint8(4)


def _from_nibbles(packed: U8) -> U8:
    return np.concatenate([packed & 15, packed >> 4], axis=2)


def _padded(x: NDArray[Any]) -> NDArray[Any]:
    """Rows padded with zeros to a multiple of 16."""
    return np.pad(x, ((0, -len(x) % 16), (0, 0)))
