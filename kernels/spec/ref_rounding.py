"""What the encoder computes, in plain NumPy: the search for scales and the rounding of every scheme.

The definition that the compiled `encode.py` is tested against, written for reading: all rows at once. Functions take
weights x [N, K] and, optionally, the importance of columns [K]; they know no layout.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from edge_lfm.kernels.spec.layout import (
    ABOUT_HALF,
    CODEBOOK_CANDIDATES,
    CODEBOOK_SHIFT,
    CODEBOOK_STEP,
    GROUP,
    INT8_CANDIDATES,
    INT8_STEP,
    LINEAR_CANDIDATES,
    LINEAR_STEP,
    MOST_SCALE,
)
from edge_lfm.kernels.spec.ref import F32, Quantized
from edge_lfm.kernels.spec.tiles import LEVELS, Coded

_LEVELS = LEVELS.astype(np.float32)
_MIDDLES = (_LEVELS[:-1] + _LEVELS[1:]) / 2


def q4_0(x: F32) -> Quantized:
    """ggml's Q4_0: scale = (weight of largest magnitude, sign kept) / -8, round to nearest; -8..7."""
    return _rounded(x, _peak(_blocks(x, GROUP)) / np.float32(-8), -8, 7)


def int8(x: F32, importance: F32 | None = None) -> Quantized:
    """-127..127, the largest weight near the end of the grid: the best of 5 scales around absmax / 127."""
    scale, _ = _search(x, GROUP, importance, _linear(-127, 127), [(127.0, 0)], INT8_CANDIDATES, INT8_STEP)
    return _rounded(x, scale, -127, 127)


def int4(x: F32, importance: F32 | None = None) -> Quantized:
    """-8..7, the largest weight near either end of the grid: the best of 38 scales of either sign."""
    ends = [(-8.0, 0), (7.0, 0)]
    scale, _ = _search(x, GROUP, importance, _linear(-8, 7), ends, LINEAR_CANDIDATES, LINEAR_STEP)
    return _rounded(x, scale, -8, 7)


def codebook(x: F32, block: int, importance: F32 | None = None) -> Coded:
    """Codebook entries of blocks: 28 scales each, the best of 6 scale bytes around the winner, and nearest entries."""
    ends = [(float(_LEVELS[end]) + shift, shift) for shift in (0, CODEBOOK_SHIFT) for end in (0, -1)]
    scale, _ = _search(x, block, importance, _level, ends, CODEBOOK_CANDIDATES, CODEBOOK_STEP)
    row = np.abs(scale).max(axis=1) / np.float32(MOST_SCALE)
    target, blocks, weights = scale * _reciprocal(row)[:, None], _blocks(x, block), _weights(x, block, importance)
    best = np.full(scale.shape, np.float32(3e38))
    codes = np.zeros(scale.shape, np.float32)
    for bit in (0, 1):
        middle = np.rint((target - (1 - bit)) * np.float32(ABOUT_HALF))
        for move in (-1, 0, 1):
            multiple = 2 * np.clip(middle + move, bit - 64, bit + 63) + (1 - bit)
            stored = (multiple * row[:, None])[..., None]
            e = blocks - stored * _level(blocks * _reciprocal(stored), bit * CODEBOOK_SHIFT)
            error = (weights * e * e).sum(-1)
            codes = np.where(error < best, multiple + MOST_SCALE, codes)
            best = np.minimum(error, best)
    stored = ((codes - MOST_SCALE) * row[:, None])[..., None]
    index = _index(blocks * _reciprocal(stored) - (codes % 2)[..., None] * CODEBOOK_SHIFT)
    return Coded(index.reshape(x.shape).astype(np.uint8), codes.astype(np.uint8), row.astype(np.float32))


def _search(
    x: F32,
    block: int,
    importance: F32 | None,
    level: Callable[[F32, float], F32],
    ends: Sequence[tuple[float, float]],
    candidates: int,
    step: float,
) -> tuple[F32, F32]:
    """Scale and shift of every block: the candidate that explains most of the weighted squares."""
    blocks, weights = _blocks(x, block), _weights(x, block, importance)
    inverse_peak = _reciprocal(_peak(blocks))
    best, scale, shifts = (np.full(inverse_peak.shape, v, np.float32) for v in (-1, 0, 0))
    for end, shift in ends:
        for n in range(candidates):
            anchor = np.float32(end + step * (n - candidates // 2))
            q = level(blocks * (anchor * inverse_peak)[..., None], shift)
            xq, qq = (weights * blocks * q).sum(-1), (weights * q * q).sum(-1)
            qq[qq == 0] = 1
            better = xq * xq / qq > best
            best[better], scale[better] = (xq * xq / qq)[better], (xq / qq)[better]
            shifts[better] = shift
    return scale, shifts


def _linear(low: int, high: int) -> Callable[[F32, float], F32]:
    return lambda t, _shift: np.clip(np.rint(t), low, high)


def _index(t: F32) -> NDArray[np.int64]:
    """The nearest codebook entry; on a tie, the lower one."""
    return np.searchsorted(_MIDDLES, t).astype(np.int64)


def _level(t: F32, shift: float) -> F32:
    out: F32 = _LEVELS[_index(t - np.float32(shift))] + np.float32(shift)
    return out


def _rounded(x: F32, scale: F32, low: int, high: int) -> Quantized:
    """Integers on scales as float16 holds them."""
    with np.errstate(over="ignore"):
        stored = scale.astype(np.float16).astype(np.float32)
    q = np.clip(np.rint(_blocks(x, GROUP) * _reciprocal(stored)[..., None]), low, high)
    return Quantized(q.astype(np.int8).reshape(x.shape), stored)


def _blocks(x: F32, block: int) -> F32:
    return x.reshape(len(x), -1, block)


def _weights(x: F32, block: int, importance: F32 | None) -> F32:
    return _blocks(np.broadcast_to(np.float32(1) if importance is None else importance, x.shape), block)


def _peak(blocks: F32) -> F32:
    """In each block the weight of largest magnitude, sign kept."""
    return np.take_along_axis(blocks, np.abs(blocks).argmax(-1)[..., None], -1)[..., 0]


def _reciprocal(scale: F32) -> F32:
    """1 / scale, and 0 where that is not finite."""
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.float32(1) / scale
    return np.where(np.isfinite(inverse), inverse, np.float32(0)).astype(np.float32)
