"""Small floats in blocks that a power of two scales, as OCP's MX formats have them: `mxfp4_g32`.

Stored weights are `Scaled`: what a checkpoint has, bit for bit.

A group of 16 x 32 is four vectors of nibbles (as int4's, `linear.py`), then 16 exponents, a byte each.

    weight = levels[nibble] * 2 ** (exponent - 128)        levels are twice those of E2M1; 255 is no number

Source: OCP Microscaling Formats (MX) Specification 1.0, sections 5 and 6.3.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edge_lfm.kernels.spec.layout import GROUP
from edge_lfm.kernels.spec.ref import F32, Quantized
from edge_lfm.kernels.spec.ref_rounding import blocks_of, reciprocal, weights_of
from edge_lfm.kernels.spec.schemes import MAX_EXPONENT, MXFP4_G32, Microscaled, Scheme
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

_BLOCK_BYTES = 17
"""Of ggml's block_mxfp4: an exponent, then byte j holds weights j and j + 16."""


@dataclass(frozen=True)
class Scaled:
    """Microscaled weights as they are stored."""

    index: U8  # [N, K], of each weight
    exponents: U8  # [N, K / 32]
    grid: Microscaled

    def quantized(self) -> Quantized:
        """The same weights as levels and scales of blocks; NaN where an exponent is no number."""
        return Quantized(np.array(self.grid.levels, np.int8)[self.index], scales_of(self.exponents, self.grid))

    def values(self) -> F32:
        """float32 [N, K]; infinity beyond float32."""
        with np.errstate(over="ignore", invalid="ignore"):
            return self.quantized().values()


def scales_of(exponents: U8, grid: Microscaled) -> F32:
    """What levels are multiplied by."""
    scales = np.ldexp(np.float32(1), exponents.astype(np.int32) - grid.bias)
    return np.where(exponents <= MAX_EXPONENT, scales, np.float32(np.nan)).astype(np.float32)


def pack(weights: Scaled, scheme: Scheme) -> U8:
    groups = weights.index.shape[1] // GROUP
    values = to_nibbles(to_vectors(padded(weights.index))).reshape(-1, groups, scheme.value_bytes)
    exponents = by_tile(weights.exponents).reshape(len(values), groups, -1)
    return np.concatenate([values, exponents], axis=2).reshape(-1)


def unpack(packed: U8, scheme: Scheme, rows: int, cols: int) -> Scaled:
    groups = cols // GROUP
    values, exponents = np.split(packed.reshape(-1, groups, scheme.group_bytes), [scheme.value_bytes], axis=2)
    vectors = np.ascontiguousarray(values).reshape(-1, groups, scheme.value_bytes // 64, 64)
    index = from_vectors(from_nibbles(vectors), cols)
    return Scaled(index[:rows], by_row(np.ascontiguousarray(exponents))[:rows], _grid(scheme))


def round_weights(x: F32, scheme: Scheme, importance: F32 | None = None, plain: bool = False) -> Scaled:
    """Of the exponent with which a block's largest weight is 4..8 times the scale, and the next one, the better."""
    grid = _grid(scheme)
    blocks, weights = blocks_of(x, GROUP), weights_of(x, GROUP, importance)
    peak = np.abs(blocks).max(-1).astype(np.float32)
    first = np.maximum((peak.view(np.int32) >> 23) - 2, 0)  # float32 keeps its exponent plus 127 there
    exponents, errors = [], []
    for exponent in (first, first + 1):
        scale = scales_of(exponent.astype(np.uint8), grid)[..., None]
        e = blocks - scale * _signed(blocks * reciprocal(scale))
        exponents.append(exponent)
        errors.append((weights * e * e).sum(-1))
    chosen = np.where(errors[1] < errors[0], exponents[1], exponents[0]).astype(np.uint8)
    t = blocks * reciprocal(scales_of(chosen, grid))[..., None]
    return Scaled(_index(t).reshape(x.shape), chosen, grid)


def random_tiles(scheme: Scheme, tiles: int, cols: int, spread: float, rng: np.random.Generator) -> U8:
    """Random nibbles, with exponents that give weights the spread asked for."""
    count, grid = tiles * scheme.tile_bytes(cols), _grid(scheme)
    groups = rng.bit_generator.random_raw(-(-count // 8)).view(np.uint8)[:count].reshape(-1, scheme.group_bytes)
    wanted = float(np.log2(spread / np.sqrt(np.mean(np.square(grid.levels)))))
    low = int(np.floor(wanted))
    raised = (4 ** (wanted - low) - 1) / 3  # so many blocks are twice as large, for the same mean square
    last = groups[:, scheme.value_bytes :]
    last[:] = low + grid.bias + (last < 256 * raised)
    return groups.reshape(-1)


def from_ggml(blocks: U8, kind: str, rows: int, cols: int) -> Scaled | None:
    """The weights of block_mxfp4 (ggml-common.h). None where an exponent is no number, or a weight beyond float32.

    Blocks of zeros get the exponent 0: kernels raise levels by 12 and take that off again, in float32, which leaves
    2**-24 of it.
    """
    blocks = blocks.reshape(-1, _BLOCK_BYTES)
    nibbles = np.concatenate([blocks[:, 1:] & 15, blocks[:, 1:] >> 4], axis=1)
    exponents = np.where((nibbles & 7).any(axis=1) | (blocks[:, 0] > MAX_EXPONENT), blocks[:, 0], np.uint8(0))
    weights = Scaled(nibbles.reshape(rows, cols), exponents.reshape(rows, cols // GROUP), _grid(MXFP4_G32))
    large = weights.exponents.max(initial=0) >= MAX_EXPONENT - 1
    return None if large and not np.isfinite(weights.values()).all() else weights


def to_ggml(weights: Quantized, kind: str) -> U8:
    """Blocks of the same weights: uint8 [rows, bytes]."""
    q = weights.q.reshape(-1, GROUP)
    index = _index(q.astype(np.float32))
    _, exponents = np.frexp(weights.scale.reshape(-1, 1))  # a scale is half of 2 ** exponent
    scales = (exponents - 1 + 128).astype(np.uint8)
    return np.concatenate([scales, index[:, :16] | index[:, 16:] << np.uint8(4)], axis=1).reshape(len(weights.q), -1)


def _grid(scheme: Scheme) -> Microscaled:
    assert isinstance(scheme.grid, Microscaled)
    return scheme.grid


def _magnitude(t: F32) -> F32:
    """The levels nearest to |t|, halves to even: 0, 1, 2, 3, 4, 6, 8, 12."""
    a = np.abs(t)
    coarse = np.where(a < 8, np.rint(a / 2) * 2, np.minimum(np.rint(a / 4) * 4, 12))
    magnitude: F32 = np.where(a < 4, np.rint(a), coarse).astype(np.float32)
    return magnitude


def _signed(t: F32) -> F32:
    return np.where(t < 0, -_magnitude(t), _magnitude(t)).astype(np.float32)


def _index(t: F32) -> U8:
    m = _magnitude(t)
    index = np.minimum(m, 4) + (np.clip(m, 4, 8) - 4) / 2 + (np.maximum(m, 8) - 8) / 4
    return np.where(t < 0, index + 8, index).astype(np.uint8)
