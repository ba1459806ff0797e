"""The search for scales in plain NumPy, as the compiled `search.py` does it, written for reading: all rows at once.

What the definitions of schemes round with. Functions take weights x [N, K] and, optionally, the importance of columns
[K]; they know no scheme and no layout.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from edge_lfm.kernels.spec.ref import F32


def search_scales(
    x: F32,
    block: int,
    importance: F32 | None,
    level: Callable[[F32, float], F32],
    ends: Sequence[tuple[float, float]],
    candidates: int,
    step: float,
) -> F32:
    """The scale of every block, [N, K / block]: the candidate that explains most of the weighted squares.

    level: `(t, shift)` -> the values of the grid nearest to t; ends: of the grid, each with its shift; candidates:
    scales that are tried around an end, `step` apart.
    """
    blocks, weights = blocks_of(x, block), weights_of(x, block, importance)
    inverse_peak = reciprocal(peak_of(blocks))
    best, scale = (np.full(inverse_peak.shape, v, np.float32) for v in (-1, 0))
    for end, shift in ends:
        for n in range(candidates):
            anchor = np.float32(end + step * (n - candidates // 2))
            q = level(blocks * (anchor * inverse_peak)[..., None], shift)
            xq, qq = (weights * blocks * q).sum(-1), (weights * q * q).sum(-1)
            qq[qq == 0] = 1
            better = xq * xq / qq > best
            best[better], scale[better] = (xq * xq / qq)[better], (xq / qq)[better]
    return scale


def blocks_of(x: F32, block: int) -> F32:
    """[N, K] -> [N, K / block, block]."""
    return x.reshape(len(x), -1, block)


def weights_of(x: F32, block: int, importance: F32 | None) -> F32:
    """How much the squared error of each weight counts: the importance of its column, or 1; in blocks."""
    return blocks_of(np.broadcast_to(np.float32(1) if importance is None else importance, x.shape), block)


def peak_of(blocks: F32) -> F32:
    """In each block the weight of largest magnitude, sign kept."""
    return np.take_along_axis(blocks, np.abs(blocks).argmax(-1)[..., None], -1)[..., 0]


def reciprocal(scale: F32) -> F32:
    """1 / scale, and 0 where that is not finite."""
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.float32(1) / scale
    return np.where(np.isfinite(inverse), inverse, np.float32(0)).astype(np.float32)
