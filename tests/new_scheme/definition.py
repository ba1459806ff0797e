"""A scheme that is not in the table: signs, a bit a weight, times a float32 scale of the row; 64 columns together.

Stored weights are `Quantized`, -1 or 1. A tile is 16 row scales, then 128 bytes a group of 16 x 64: two vectors, bit n
of byte 4r + b of vector i being 1 where q[r, 32i + 4n + b] is.
"""

from __future__ import annotations

import numpy as np

from edge_lfm.kernels.spec.layout import GROUP
from edge_lfm.kernels.spec.ref import F32, Quantized
from edge_lfm.kernels.spec.schemes import Scheme
from edge_lfm.kernels.spec.vectors import U8, from_vectors, padded, to_vectors


def pack(weights: Quantized, scheme: Scheme) -> U8:
    bits = np.packbits(to_vectors(padded(weights.q)) > 0, axis=2, bitorder="little")
    scales = padded(weights.scale[:, :1]).astype(np.float32).reshape(-1, 16)
    return np.concatenate([scales.view(np.uint8), bits.reshape(len(bits), -1)], axis=1).reshape(-1)


def unpack(packed: U8, scheme: Scheme, rows: int, cols: int) -> Quantized:
    tiles = packed.reshape(-1, scheme.tile_bytes(cols))
    scales = np.ascontiguousarray(tiles[:, : scheme.header_bytes]).view(np.float32).reshape(-1)
    bits = np.unpackbits(tiles[:, scheme.header_bytes :].reshape(len(tiles), -1, 1, 64), axis=2, bitorder="little")
    q = 2 * from_vectors(bits, cols).astype(np.int8) - np.int8(1)
    return Quantized(q[:rows], np.repeat(scales[:rows, None], cols // GROUP, axis=1))


def round_weights(x: F32, scheme: Scheme, importance: F32 | None = None, plain: bool = False) -> Quantized:
    scale = np.abs(x).mean(axis=1, dtype=np.float32, keepdims=True)
    return Quantized(np.where(x > 0, 1, -1).astype(np.int8), np.repeat(scale, x.shape[1] // GROUP, axis=1))


def random_tiles(scheme: Scheme, tiles: int, cols: int, spread: float, rng: np.random.Generator) -> U8:
    raw = rng.integers(0, 256, (tiles, scheme.tile_bytes(cols)), np.uint8)
    raw[:, : scheme.header_bytes] = np.full(16, spread, np.float32).view(np.uint8)
    return raw.reshape(-1)
