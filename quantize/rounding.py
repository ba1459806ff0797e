"""From float32 weights to integers and scales: round to nearest, and the search for a better scale.

Every function takes rows [N, K] and gives `Quantized` with scales that float16 holds exactly, the
integers rounded against that stored scale. Knows no layout and no files.
"""

from __future__ import annotations

import numpy as np

from edge_lfm.errors import UnsupportedModelError
from edge_lfm.kernels.layout import GROUP
from edge_lfm.kernels.ref import F32, Quantized

_SEARCH_STEPS = np.arange(-9, 10) * 0.1
"""Where around the end of the grid the largest weight is tried, in units of the grid (quantization facts,
"how the scales are searched"): +0.5 dB over absmax on Gaussian weights."""


def q4_0(x: F32) -> Quantized:
    """ggml's Q4_0: scale = (weight of largest magnitude, sign kept) / -8, round to nearest; -8..7."""
    groups = _groups(x)
    largest = np.take_along_axis(groups, np.abs(groups).argmax(-1)[..., None], -1)[..., 0]
    scale = (largest / np.float32(-8)).astype(np.float32)
    inverse = _inverse(scale)
    q = np.minimum(np.floor(groups * inverse[..., None] + np.float32(8.5)), 15) - 8
    return _done(x, q, _as_half(scale))


def int8(x: F32) -> Quantized:
    """-127..127, the largest weight near the end of the grid: the best of 19 scales around absmax / 127."""
    return _searched(x, ends=(127.0,), low=-127, high=127)


def int4(x: F32) -> Quantized:
    """-8..7, the largest weight near either end of the grid: the best of 38 scales of either sign."""
    return _searched(x, ends=(-8.0, 7.0), low=-8, high=7)


def _searched(x: F32, ends: tuple[float, ...], low: int, high: int) -> Quantized:
    """The scale that leaves the least squared error among candidates that put the largest weight near an end.

    For rounded q the best scale is sum(x q) / sum(q q), which explains F = sum(x q)**2 / sum(q q) of
    sum(x x); so the candidate with the largest F wins.
    """
    groups = _groups(x)
    peak = np.take_along_axis(groups, np.abs(groups).argmax(-1)[..., None], -1)[..., 0]
    best = np.full(peak.shape, -1, np.float32)
    scale = np.zeros(peak.shape, np.float32)
    for end in ends:
        for step in _SEARCH_STEPS:
            inverse = np.float32(end + step) * _inverse(peak)
            q = np.clip(np.rint(groups * inverse[..., None]), low, high)
            xq, qq = np.einsum("ngk,ngk->ng", groups, q), np.einsum("ngk,ngk->ng", q, q)
            qq[qq == 0] = 1
            better = xq * xq / qq > best
            best[better] = (xq * xq / qq)[better]
            scale[better] = (xq / qq)[better]
    stored = _as_half(scale)
    q = np.clip(np.rint(groups * _inverse(stored)[..., None]), low, high)
    return _done(x, q, stored)


def _groups(x: F32) -> F32:
    return x.reshape(len(x), -1, GROUP)


def _inverse(scale: F32) -> F32:
    """1 / scale, and 0 where that is not finite (a group of zeros or of denormals rounds to zeros)."""
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.float32(1) / scale
    return np.where(np.isfinite(inverse), inverse, np.float32(0)).astype(np.float32)


def _as_half(scale: F32) -> F32:
    with np.errstate(over="ignore"):
        half = scale.astype(np.float16).astype(np.float32)
    if not np.isfinite(half).all():
        raise UnsupportedModelError(
            f"a scale of {np.abs(scale).max():.3g} is beyond float16",
            hint="such weights are outliers beyond any use; is the checkpoint damaged?",
        )
    return half


def _done(x: F32, q: F32, scale: F32) -> Quantized:
    return Quantized(q.astype(np.int8).reshape(x.shape), scale)
