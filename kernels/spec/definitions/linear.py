"""Integers with a float16 scale for each group of 32 columns: `int8_g32` and `int4_g32`.

Stored weights are `Quantized`. A group of 16 x 32 is its values, then 16 float16 scales. int8: eight vectors, byte
4r + b of vector j is q[r, 4j + b]. int4: four vectors of nibbles, byte 4r + b of vector j holds q[r, 4j + b] + 8 low
and q[r, 16 + 4j + b] + 8 high.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_lfm.kernels.spec.lattice import Lattice
from edge_lfm.kernels.spec.layout import GROUP
from edge_lfm.kernels.spec.ref import F32, Quantized
from edge_lfm.kernels.spec.ref_rounding import blocks_of, peak_of, reciprocal, search_scales
from edge_lfm.kernels.spec.schemes import Linear, Scheme
from edge_lfm.kernels.spec.vectors import (
    U8,
    by_row,
    by_tile,
    from_nibbles,
    from_vectors,
    padded,
    to_nibbles,
    to_vectors,
)

_NIBBLE_ZERO = 8
_NIBBLE_SPREAD, BYTE_SPREAD = 4.61, 73.9
"""Standard deviations of uniform -8..7 and -128..127."""


def pack(weights: Quantized, scheme: Scheme) -> U8:
    """Integers within the grid, and scales that float16 holds."""
    q = to_vectors(padded(weights.q))
    values = to_nibbles((q + _NIBBLE_ZERO).astype(np.uint8)) if scheme.integer_bits == 4 else q
    tiles, groups = q.shape[:2]
    parts = (values, by_tile(weights.scale).astype(np.float16))
    as_bytes = [np.ascontiguousarray(part).view(np.uint8).reshape(tiles, groups, -1) for part in parts]
    return np.concatenate(as_bytes, axis=2).reshape(-1)


def unpack(packed: U8, scheme: Scheme, rows: int, cols: int) -> Quantized:
    groups = cols // GROUP
    values, scales = np.split(packed.reshape(-1, groups, scheme.group_bytes), [scheme.value_bytes], axis=2)
    vectors = np.ascontiguousarray(values).reshape(-1, groups, scheme.value_bytes // 64, 64)
    if scheme.integer_bits == 4:
        q = from_nibbles(vectors).astype(np.int8) - np.int8(_NIBBLE_ZERO)
    else:
        q = vectors.view(np.int8)
    scale = by_row(np.ascontiguousarray(scales).view(np.float16))
    return Quantized(from_vectors(q, cols)[:rows], scale[:rows].astype(np.float32))


def round_weights(x: F32, scheme: Scheme, importance: F32 | None = None, plain: bool = False) -> Quantized:
    """The best of some scales around the ends of the grid, and the nearest integers.

    plain: ggml's grid, where the scheme has one: no search, the weight of largest magnitude lies on the lower end.
    """
    grid = _grid(scheme)
    if plain and grid.plain:
        return _rounded(x, peak_of(blocks_of(x, GROUP)) / np.float32(grid.low), grid)

    def level(t: F32, _shift: float) -> F32:
        return np.clip(np.rint(t), grid.low, grid.high)

    ends = [(end, 0.0) for end in grid.ends]
    return _rounded(x, search_scales(x, GROUP, importance, level, ends, grid.candidates, grid.step), grid)


def lattice(weights: Quantized, scheme: Scheme) -> Lattice:
    grid = _grid(scheme)
    levels, index = np.arange(grid.low, grid.high + 1, dtype=np.float32)[:, None], weights.q.astype(np.int16) - grid.low
    return Lattice(levels, index.astype(np.uint8), weights.scale, np.zeros_like(weights.scale))


def with_levels(weights: Quantized, index: U8, scheme: Scheme) -> Quantized:
    return Quantized((index.astype(np.int16) + _grid(scheme).low).astype(np.int8), weights.scale)


def with_scales(weights: Quantized, scale: F32, scheme: Scheme) -> Quantized:
    """Scales beyond float16 stay as they were."""
    with np.errstate(over="ignore"):
        stored = scale.astype(np.float16).astype(np.float32)
    return Quantized(weights.q, np.where(np.isfinite(stored), stored, weights.scale))


def random_tiles(scheme: Scheme, tiles: int, cols: int, spread: float, rng: np.random.Generator) -> U8:
    """Random bytes, with scales that give weights the spread asked for."""
    count = tiles * scheme.tile_bytes(cols)
    groups = rng.bit_generator.random_raw(-(-count // 8)).view(np.uint8)[:count].reshape(-1, scheme.group_bytes)
    scale = np.float16(spread / (_NIBBLE_SPREAD if scheme.integer_bits == 4 else BYTE_SPREAD))
    # Random signs, for uniform nibbles have a mean of -0.5: their own last bytes give them.
    signs = (groups[:, -32::2] & 1).astype(np.uint16) << 15
    groups[:, -32:] = (signs | scale.view(np.uint16)).view(np.uint8)
    return groups.reshape(-1)


def from_ggml(blocks: U8, kind: str, rows: int, cols: int) -> Quantized | None:
    """The integers of block_q4_0 or block_q8_0: a float16 scale, then 32 values (ggml-common.h).

    None where a Q8_0 value is -128, which ggml never writes and kernels do not expect, or a scale is not finite.
    """
    blocks = blocks.reshape(-1, 18 if kind == "Q4_0" else 34)
    scale = np.ascontiguousarray(blocks[:, :2]).view(np.float16).astype(np.float32)
    q: NDArray[Any] = blocks[:, 2:].view(np.int8)
    if kind == "Q4_0":
        nibbles = np.concatenate([blocks[:, 2:] & 15, blocks[:, 2:] >> 4], axis=1)  # byte j: weights j and j + 16
        q = nibbles.astype(np.int8) - np.int8(_NIBBLE_ZERO)
    if q.min(initial=0) < -127 or not np.isfinite(scale).all():
        return None
    return Quantized(q.reshape(rows, cols), scale.reshape(rows, cols // GROUP))


def to_ggml(weights: Quantized, kind: str) -> U8:
    """The inverse of `from_ggml`: uint8 [rows, bytes]."""
    q = weights.q.reshape(-1, GROUP)
    scales = weights.scale.astype(np.float16).reshape(-1, 1).view(np.uint8)
    values = q.view(np.uint8)
    if kind == "Q4_0":
        nibbles = (q + _NIBBLE_ZERO).astype(np.uint8)
        values = nibbles[:, :16] | nibbles[:, 16:] << np.uint8(4)
    return np.concatenate([scales, values], axis=1).reshape(len(weights.q), -1)


def _grid(scheme: Scheme) -> Linear:
    assert isinstance(scheme.grid, Linear)
    return scheme.grid


def _rounded(x: F32, scale: F32, grid: Linear) -> Quantized:
    """Integers on scales as float16 holds them."""
    with np.errstate(over="ignore"):
        stored = scale.astype(np.float16).astype(np.float32)
    q = np.clip(np.rint(blocks_of(x, GROUP) * reciprocal(stored)[..., None]), grid.low, grid.high)
    return Quantized(q.astype(np.int8).reshape(x.shape), stored)
