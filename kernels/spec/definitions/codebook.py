"""Codebook weights: entries of 16 or 8 levels, in blocks that a byte scales: `codebook4_g32`, `codebook4_g16` and
`code3_g32`.

Stored weights are `Coded`.

A tile begins with 16 float32 scales of rows. A group of 16 x 32 is the entries of the codebook, then the scale bytes:
16 of its 32 columns, or 16 of its first 16 columns and 16 of its last 16. Entries of four bits are four vectors of
nibbles (as int4's, `linear.py`). Entries of three bits are three vectors: byte 4r + b of vector i holds q[r, 8i + b] in
bits 0-2, q[r, 8i + 4 + b] in bits 3-5, and in bits 6-7 the bits 2i and 2i + 1 of q[r, 24 + b] | q[r, 28 + b] << 3.

    weight = row scale * (c - 127) * (levels[entry] + shift * (c mod shifts))       c: the block's scale byte
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edge_lfm.kernels.spec.definitions.linear import BYTE_SPREAD
from edge_lfm.kernels.spec.lattice import Lattice
from edge_lfm.kernels.spec.layout import GROUP
from edge_lfm.kernels.spec.ref import F32, Quantized
from edge_lfm.kernels.spec.ref_rounding import blocks_of, reciprocal, search_scales, weights_of
from edge_lfm.kernels.spec.schemes import ABOUT_ONE, MAX_SCALE, TILE_ROWS, Codebook, Pairs, Scheme
from edge_lfm.kernels.spec.vectors import (
    U8,
    by_row,
    by_tile,
    from_nibbles,
    from_thirds,
    from_vectors,
    padded,
    to_nibbles,
    to_thirds,
    to_vectors,
)


@dataclass(frozen=True)
class Coded:
    """Codebook weights as they are stored."""

    index: U8  # [N, K], of each weight; of points of two weights [N, K / 2] (`Lattice`)
    codes: U8  # [N, K / block]: the scale as a multiple of the row's, plus 127; its last bits: how often shifted
    row_scale: F32  # [N]
    grid: Codebook | Pairs

    def shift(self) -> F32:
        """What each block adds to its levels, [N, K / block]."""
        return (self.codes % self.grid.shifts).astype(np.float32) * np.float32(self.grid.shift)

    def scale(self) -> F32:
        """[N, K / block]."""
        multiple = self.codes.astype(np.float32) - np.float32(MAX_SCALE)
        scale: F32 = multiple * self.row_scale[:, None]
        return scale

    def quantized(self) -> Quantized:
        """The same weights as levels and block scales."""
        return Quantized(self.lattice().levels.astype(np.int8), self.scale())

    def lattice(self) -> Lattice:
        return Lattice(np.array(self.grid.points, np.float32), self.index, self.scale(), self.shift())

    def values(self) -> F32:
        """float32 [N, K]."""
        return self.quantized().values()


def pack(weights: Coded, scheme: Scheme) -> U8:
    groups = weights.index.shape[1] // GROUP
    to_bytes = to_nibbles if len(_grid(scheme).levels) == 16 else to_thirds
    values = to_bytes(to_vectors(padded(weights.index))).reshape(-1, groups, scheme.value_bytes)
    codes = by_tile(weights.codes).reshape(len(values), groups, -1)
    row_scale = np.pad(weights.row_scale.astype(np.float32), (0, -len(weights.row_scale) % 16)).reshape(-1, 16)
    body = np.concatenate([values, codes], axis=2).reshape(len(values), -1)
    return np.concatenate([row_scale.view(np.uint8), body], axis=1).reshape(-1)


def unpack(packed: U8, scheme: Scheme, rows: int, cols: int) -> Coded:
    groups = cols // GROUP
    row_scale, rest = np.split(packed.reshape(-1, scheme.tile_bytes(cols)), [scheme.header_bytes], axis=1)
    values, codes = np.split(rest.reshape(len(rest), groups, -1), [scheme.value_bytes], axis=2)
    from_bytes = from_nibbles if len(_grid(scheme).levels) == 16 else from_thirds
    index = from_vectors(from_bytes(values.reshape(-1, groups, scheme.value_bytes // 64, 64)), cols)
    codes = by_row(codes.reshape(-1, cols // scheme.block, 16))
    scales = np.ascontiguousarray(row_scale).view(np.float32).reshape(-1)
    return Coded(index[:rows], codes[:rows], scales[:rows], _grid(scheme))


def round_weights(x: F32, scheme: Scheme, importance: F32 | None = None, plain: bool = False) -> Coded:
    """The best of some scales around both ends with each shift; of the bytes near it, three for each shift, the best;
    nearest entries."""
    grid, block = _grid(scheme), scheme.block

    def level(t: F32, shift: float) -> F32:
        out: F32 = np.array(grid.levels, np.float32)[nearest(t - np.float32(shift), grid)] + np.float32(shift)
        return out

    ends = [(float(grid.levels[end]) + shift, float(shift)) for shift in shifts_of(grid) for end in (0, -1)]
    scale = search_scales(x, block, importance, level, ends, grid.candidates, grid.step)
    codes, row = scale_codes(scale, x, importance, level, grid)
    stored = ((codes - MAX_SCALE) * row[:, None])[..., None]
    index = nearest(blocks_of(x, block) * reciprocal(stored) - (codes % grid.shifts)[..., None] * grid.shift, grid)
    return Coded(index.reshape(x.shape).astype(np.uint8), codes.astype(np.uint8), row, grid)


def scale_codes(
    scale: F32, x: F32, importance: F32 | None, level: Callable[[F32, float], F32], grid: Codebook | Pairs
) -> tuple[F32, F32]:
    """The scale bytes of blocks [N, K / block] for the scales that a search gave, and the scales of rows [N]."""
    row = np.abs(scale).max(axis=1) / np.float32(MAX_SCALE)
    block = x.shape[1] // scale.shape[1]
    target, blocks, weights = scale * reciprocal(row)[:, None], blocks_of(x, block), weights_of(x, block, importance)
    best = np.full(scale.shape, np.float32(3e38))
    codes = np.zeros(scale.shape, np.float32)
    count = grid.shifts
    for n, shift in enumerate(shifts_of(grid)):
        base = (n - MAX_SCALE) % count  # multiples are count * k + base, from -127 to 128
        middle = np.rint((target - base) * np.float32(ABOUT_ONE / count))
        for move in (-1, 0, 1):
            k = np.clip(middle + move, -((MAX_SCALE + base) // count), (MAX_SCALE + 1 - base) // count)
            multiple = count * k + base
            stored = (multiple * row[:, None])[..., None]
            e = blocks - stored * level(blocks * reciprocal(stored), shift)
            error = (weights * e * e).sum(-1)
            codes = np.where(error < best, multiple + MAX_SCALE, codes)
            best = np.minimum(error, best)
    return codes, row.astype(np.float32)


def nearest(t: F32, grid: Codebook) -> NDArray[np.int64]:
    """The entries whose levels are nearest to t; on a tie, the lower one."""
    levels = np.array(grid.levels, np.float32)
    return np.searchsorted((levels[:-1] + levels[1:]) / 2, t).astype(np.int64)


def lattice(weights: Coded, scheme: Scheme) -> Lattice:
    return weights.lattice()


def with_levels(weights: Coded, index: U8, scheme: Scheme) -> Coded:
    return replace(weights, index=index)


def with_scales(weights: Coded, scale: F32, scheme: Scheme) -> Coded:
    """The nearest multiples of the rows' scales that leave the shifts as they are."""
    count = weights.grid.shifts
    shifted = (weights.codes % count).astype(np.float32)
    multiples = scale * reciprocal(weights.row_scale)[:, None] + np.float32(MAX_SCALE)
    codes = shifted + count * np.clip(np.rint((multiples - shifted) / count), 0, 256 // count - 1)
    return replace(weights, codes=codes.astype(np.uint8))


def random_tiles(scheme: Scheme, tiles: int, cols: int, spread: float, rng: np.random.Generator) -> U8:
    """Random bytes, with row scales that give weights the spread asked for."""
    count, grid = tiles * scheme.tile_bytes(cols), scheme.grid
    assert isinstance(grid, Codebook | Pairs)
    raw = rng.bit_generator.random_raw(-(-count // 8)).view(np.uint8)[:count].reshape(tiles, -1)
    levels = np.array(grid.points, np.float64) + grid.shift * (grid.shifts - 1) / 2
    of_bytes = float(np.sqrt(np.mean(np.square(levels)))) * BYTE_SPREAD
    raw[:, : scheme.header_bytes] = np.full(TILE_ROWS, spread / of_bytes, np.float32).view(np.uint8)
    return raw.reshape(-1)


def shifts_of(grid: Codebook | Pairs) -> range:
    return range(0, grid.shifts * grid.shift, grid.shift)


def _grid(scheme: Scheme) -> Codebook:
    assert isinstance(scheme.grid, Codebook)
    return scheme.grid
