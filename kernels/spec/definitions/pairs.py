"""Codebook weights whose entries are points of two weights, 16 columns apart: `pair5_g32`, 2.75 bits a weight.

Stored weights are `Coded`, with an index for every two weights. A tile begins with 16 float32 scales of rows. A group
of 16 x 64 is five vectors of entries, then 16 scale bytes of its first 32 columns and 16 of its last 32. Pair u of a
group, 0..31, is columns 32 (u / 16) + u mod 16 and 16 more. Byte 4r + b of vector i holds in bits 0-4 row r's pair
4i + b; above them lie the bits of pairs 20 + b, 24 + b and 28 + b (`vectors.to_fifths`).

    weight = row scale * (c - 127) * (point[entry] + shift * (c mod shifts))        c: the block's scale byte
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_lfm.kernels.spec.definitions.codebook import (
    Coded,
    lattice,
    random_tiles,
    scale_codes,
    shifts_of,
    with_levels,
    with_scales,
)
from edge_lfm.kernels.spec.ref import F32
from edge_lfm.kernels.spec.ref_rounding import blocks_of, reciprocal, search_scales, weights_of
from edge_lfm.kernels.spec.schemes import MAX_SCALE, Pairs, Scheme
from edge_lfm.kernels.spec.vectors import U8, by_row, by_tile, from_fifths, from_vectors, padded, to_fifths, to_vectors

__all__ = ["lattice", "pack", "random_tiles", "round_weights", "unpack", "with_levels", "with_scales"]


def pack(weights: Coded, scheme: Scheme) -> U8:
    values = to_fifths(to_vectors(padded(weights.index)))
    tiles, groups = values.shape[:2]
    codes = by_tile(weights.codes).reshape(tiles, groups, -1)
    row_scale = np.pad(weights.row_scale.astype(np.float32), (0, -len(weights.row_scale) % 16)).reshape(-1, 16)
    body = np.concatenate([values.reshape(tiles, groups, -1), codes], axis=2).reshape(tiles, -1)
    return np.concatenate([row_scale.view(np.uint8), body], axis=1).reshape(-1)


def unpack(packed: U8, scheme: Scheme, rows: int, cols: int) -> Coded:
    groups = cols // scheme.columns
    row_scale, rest = np.split(packed.reshape(-1, scheme.tile_bytes(cols)), [scheme.header_bytes], axis=1)
    values, codes = np.split(rest.reshape(len(rest), groups, -1), [scheme.value_bytes], axis=2)
    index = from_vectors(from_fifths(values.reshape(-1, groups, 5, 64)), cols // 2)
    codes = by_row(codes.reshape(-1, cols // scheme.block, 16))
    scales = np.ascontiguousarray(row_scale).view(np.float32).reshape(-1)
    return Coded(index[:rows], codes[:rows], scales[:rows], _grid(scheme))


def round_weights(x: F32, scheme: Scheme, importance: F32 | None = None, plain: bool = False) -> Coded:
    """As of a codebook; the nearest point is that of the least weighted error of both weights."""
    grid, weights = _grid(scheme), weights_of(x, scheme.block, importance)
    points = np.array(grid.points, np.float32)

    def level(t: F32, shift: float) -> F32:
        chosen = points[nearest(t - np.float32(shift), weights, points)] + np.float32(shift)
        return np.concatenate([chosen[..., 0], chosen[..., 1]], axis=-1)

    ends = [(end + shift, float(shift)) for shift in shifts_of(grid) for end in (float(grid.low), float(grid.highest))]
    scale = search_scales(x, scheme.block, importance, level, ends, grid.candidates, grid.step)
    codes, row = scale_codes(scale, x, importance, level, grid)
    stored = ((codes - MAX_SCALE) * row[:, None])[..., None]
    shift = ((codes % grid.shifts) * np.float32(grid.shift))[..., None]
    index = nearest(blocks_of(x, scheme.block) * reciprocal(stored) - shift, weights, points)
    return Coded(index.reshape(len(x), -1).astype(np.uint8), codes.astype(np.uint8), row, grid)


def nearest(t: F32, weights: F32, points: F32) -> NDArray[np.int64]:
    """The point nearest to each two of t [..., 32], 16 apart, by weighted squares: [..., 16]; of equals the first."""
    half = t.shape[-1] // 2
    best = np.full((*t.shape[:-1], half), np.float32(3e38))
    index = np.zeros(best.shape, np.int64)
    for p, (first, last) in enumerate(points):
        d, e = t[..., :half] - first, t[..., half:] - last
        error = weights[..., :half] * d * d + weights[..., half:] * e * e
        index = np.where(error < best, p, index)
        best = np.minimum(error, best)
    return index


def _grid(scheme: Scheme) -> Pairs:
    assert isinstance(scheme.grid, Pairs)
    return scheme.grid
