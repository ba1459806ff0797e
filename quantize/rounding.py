"""Rounding a matrix by the error of its outputs: GPTQ, coordinate descent, and scales fitted anew.

With the second moments H of a matrix's inputs, rounding W to Q makes the squared output error tr((W - Q) H (W - Q)^T).
GPTQ rounds column after column and makes up for each error in the columns to come (Frantar et al. 2023, arXiv
2210.17323; columns in falling order of energy after IST-DASLab/MoE-Quant). Coordinate descent then moves single weights
as long as that helps, and least squares fits the scales to the levels that were chosen. Knows no files and no models.

Legend: N rows, K columns, B blocks of columns that share a scale.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_lfm.kernels.spec.lattice import Lattice
from edge_lfm.kernels.spec.ref import F32, I64
from edge_lfm.kernels.spec.schemes import Scheme
from edge_lfm.kernels.spec.tiles import definition

ROWS_AT_A_TIME = 1024
"""Rows that are rounded together: bounds the memory, and the columns of a step are still worth a call."""
_STEP = 64
"""Columns whose errors are spread over all others together."""
_SWEEPS, _REFITS = 2, 2
_MIN_DAMPING, _MAX_DAMPING = 0.05, 1.0
_DAMPED_TOKENS = 1.6
"""Damping times tokens per column. Of experts with 64 tokens per column, .01 to .2 of the mean moment did the same;
with 8, .2 was better than .05."""


@dataclass(frozen=True)
class Curvature:
    """Damped second moments of some columns, and what GPTQ makes of them."""

    columns: slice
    moments: F32  # [k, k]
    scale: float  # of the moments: their mean on the diagonal is 1
    order: I64  # columns in falling order of energy
    factor: F32  # [k, k] upper, in that order: moments**-1 = factor.T factor

    def solved(self, products: F32) -> F32:
        """X [N, k] with X moments = products, which are scaled as the moments were before."""
        solved: F32 = np.linalg.solve(self.moments.astype(np.float64), products.T / self.scale).T.astype(np.float32)
        return solved


def curvatures_of(moments: F32, tokens: float) -> tuple[Curvature, ...]:
    """Of sums of products [pieces, k, k] that `tokens` tokens gave."""
    count = moments.shape[-1]
    return tuple(_curvature(piece, tokens, n * count) for n, piece in enumerate(moments))


def _curvature(moments: F32, tokens: float, first: int) -> Curvature:
    count = len(moments)
    damped = moments.astype(np.float64)
    damped[np.diag_indices(count)] += damping(tokens / count) * max(float(damped.trace()) / count, 1e-30)
    scale = float(damped.trace()) / count
    damped /= scale
    order = np.argsort(-np.diag(damped), kind="stable")
    factor = np.linalg.cholesky(np.linalg.inv(damped[np.ix_(order, order)])).T.astype(np.float32)
    return Curvature(slice(first, first + count), damped.astype(np.float32), scale, order, factor)


def damping(tokens_per_column: float) -> float:
    """What is added to the diagonal of the moments, as a share of its mean: the less they are known, the more."""
    return float(np.clip(_DAMPED_TOKENS / tokens_per_column, _MIN_DAMPING, _MAX_DAMPING))


def round_by_output(w: F32, stored: Any, scheme: Scheme, curvatures: tuple[Curvature, ...]) -> Any:
    """`stored`, the searched and rounded weights w [N, K] as the scheme's family keeps them, rounded anew.

    curvatures: of all columns, in pieces whose products with one another are taken for 0; each has whole blocks.
    """
    family = definition(scheme)
    for part in curvatures:
        stored = family.with_levels(stored, _replaced(w, family.lattice(stored, scheme), part, _in_turn), scheme)
    for fit in range(_REFITS + 1):
        if fit:
            stored = family.with_scales(stored, _refitted(w, family.lattice(stored, scheme), curvatures), scheme)
        for part in curvatures:
            stored = family.with_levels(stored, _replaced(w, family.lattice(stored, scheme), part, _descended), scheme)
    return stored


def _replaced(w: F32, lattice: Lattice, part: Curvature, rounded: Any) -> NDArray[np.uint8]:
    """The index of all weights, those of some columns rounded by `rounded`."""
    block = w.shape[1] // lattice.scale.shape[1]
    blocks = slice(part.columns.start // block, part.columns.stop // block)
    columns = _Columns(
        np.ascontiguousarray(w[:, part.columns].T),
        np.ascontiguousarray(lattice.index[:, part.columns].T),
        np.repeat(lattice.scale[:, blocks].T, block, axis=0),
        np.repeat(lattice.shift[:, blocks].T, block, axis=0),
        lattice.levels,
    )
    index = lattice.index.copy()
    index[:, part.columns] = rounded(columns, part).T
    return index


@dataclass(frozen=True)
class _Columns:
    """Some columns of a matrix and its lattice, one after the other in memory."""

    w: F32  # [k, N]
    index: NDArray[np.uint8]
    scale: F32
    shift: F32
    levels: F32

    def value(self, k: int | slice, index: NDArray[np.uint8]) -> F32:
        value: F32 = (self.levels[index] + self.shift[k]) * self.scale[k]
        return value

    def nearest(self, k: int, target: F32) -> NDArray[np.uint8]:
        """The levels of column k that are nearest to the target values, [N]."""
        scale = self.scale[k]
        usable = scale != 0
        t = np.where(usable, target / np.where(usable, scale, np.float32(1)), np.float32(0)) - self.shift[k]
        index: NDArray[np.uint8] = np.searchsorted((self.levels[:-1] + self.levels[1:]) / 2, t).astype(np.uint8)
        return index


def _in_turn(columns: _Columns, part: Curvature) -> NDArray[np.uint8]:
    """GPTQ; the index of each weight, [k, N]."""
    left, index, factor = columns.w[part.order], np.empty_like(columns.index), part.factor
    for first, last in _steps(len(left)):
        errors = np.empty((last - first, left.shape[1]), np.float32)
        for k in range(first, last):
            at = int(part.order[k])
            index[at] = columns.nearest(at, left[k])
            errors[k - first] = (left[k] - columns.value(at, index[at])) / factor[k, k]
            left[k + 1 : last] -= factor[k, k + 1 : last, None] * errors[k - first]
        left[last:] -= factor[first:last, last:].T @ errors
    return index


def _descended(columns: _Columns, part: Curvature) -> NDArray[np.uint8]:
    """Coordinate descent from the levels that stand; the index of each weight, [k, N]."""
    moments, index = part.moments, columns.index.copy()
    rounded = columns.value(slice(None), index)
    slope = moments @ (columns.w - rounded)
    for _ in range(_SWEEPS):
        for first, last in _steps(len(index)):
            own, before = slope[first:last].copy(), rounded[first:last].copy()
            for k in range(first, last):
                index[k] = columns.nearest(k, rounded[k] + own[k - first] / moments[k, k])
                value = columns.value(k, index[k])
                own[k - first + 1 :] -= moments[k + 1 : last, k, None] * (value - rounded[k])
                rounded[k] = value
            slope -= moments[:, first:last] @ (rounded[first:last] - before)
    return index


def _steps(count: int) -> Iterator[tuple[int, int]]:
    return ((first, min(first + _STEP, count)) for first in range(0, count, _STEP))


def _refitted(w: F32, lattice: Lattice, curvatures: tuple[Curvature, ...]) -> F32:
    """The scales with the least output error for the levels that stand, [N, B]; those far from before are left."""
    n, blocks = lattice.scale.shape
    block = w.shape[1] // blocks
    values = lattice.levels[lattice.index] + np.repeat(lattice.shift, block, axis=1)
    scale = lattice.scale.copy()
    for part in curvatures:
        own = slice(part.columns.start // block, part.columns.stop // block)
        count = own.stop - own.start
        v, products = values[:, part.columns], np.empty((n, count, count), np.float64)
        for b in range(count):
            at = slice(b * block, (b + 1) * block)
            products[:, b] = ((v[:, at] @ part.moments[at]) * v).reshape(n, count, block).sum(-1)
        right = ((w[:, part.columns] @ part.moments) * v).reshape(n, count, block).sum(-1, dtype=np.float64)
        products[:, range(count), range(count)] *= 1 + 1e-4
        products[:, range(count), range(count)] += 1e-30 + 1e-12 * np.trace(products, axis1=1, axis2=2)[:, None]
        scale[:, own] = np.linalg.solve(products, right[..., None])[..., 0]
    ratio = scale / np.where(lattice.scale == 0, np.float32(np.nan), lattice.scale)
    return np.where((ratio > 0.5) & (ratio < 2), scale, lattice.scale).astype(np.float32)
