"""Rounding a matrix by the error of its outputs: GPTQ, coordinate descent, and scales fitted anew.

With the second moments H of a matrix's inputs, rounding W to Q makes the squared output error tr((W - Q) H (W - Q)^T).
GPTQ rounds column after column and makes up for each error in the columns to come (Frantar et al. 2023, arXiv
2210.17323; columns in falling order of energy after IST-DASLab/MoE-Quant; two columns at a time where a code has
points of two weights). Coordinate descent then moves single weights as long as that helps, and least squares fits the
scales to the levels that were chosen. The loops over columns are compiled (`kernels/ops/feedback.py`), and so are
their results the same whatever the threads. Knows no files and no models.

Legend: N rows, K columns, B blocks of columns that share a scale.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_lfm.kernels.load.library import Kernels
from edge_lfm.kernels.spec.lattice import Lattice
from edge_lfm.kernels.spec.layout import FEEDBACK, FEEDBACK_ROWS, FEEDBACK_STEP
from edge_lfm.kernels.spec.ref import F32, I64
from edge_lfm.kernels.spec.schemes import Scheme
from edge_lfm.kernels.spec.tiles import definition

ROWS_AT_A_TIME = 1024
"""Rows that are rounded together: bounds the memory."""
_SWEEPS, _REFITS = 2, 1
"""A second refit took 2 of 12 s for an expert of the 24B, and made `compact` 0.9 % better in KL divergence (demo model,
calibration of 8,192 tokens). Without the descent before the refit it was 3 % worse."""
_MIN_DAMPING, _MAX_DAMPING = 0.05, 1.0
_DAMPED_TOKENS = 1.6
"""Damping times tokens per column. Of experts with 64 tokens per column, .01 to .2 of the mean moment did the same;
with 8, .2 was better than .05."""


@dataclass(frozen=True)
class Curvature:
    """Damped second moments of some columns, and what matrices that share them need of them once."""

    columns: slice
    moments: F32  # [k, k]
    scale: float  # of the moments: their mean on the diagonal is 1
    _factors: dict[bytes, F32] = field(default_factory=dict, compare=False)

    @cached_property
    def panels(self) -> F32:
        """The moments as kernels read them."""
        return panels_of(self.moments)

    def factor_panels(self, order: I64) -> F32:
        """The factor of the moments' columns in an order, as kernels read it."""
        key = order.tobytes()
        if key not in self._factors:
            self._factors[key] = panels_of(factor_of(self.moments[np.ix_(order, order)]))
        return self._factors[key]

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
    return Curvature(slice(first, first + count), damped.astype(np.float32), scale)


def factor_of(moments: F32) -> F32:
    """The upper factor [k, k]: moments**-1 = factor.T factor."""
    # Of the moments in reversed order, L L^T: so they are U U^T with U upper, and U**-1 is the factor.
    lower = np.linalg.cholesky(moments[::-1, ::-1].astype(np.float64))
    return _inverse_upper(np.ascontiguousarray(lower[::-1, ::-1])).astype(np.float32)


def _inverse_upper(upper: NDArray[np.float64]) -> NDArray[np.float64]:
    """The inverse of an upper triangular matrix, by halves: a sixth of the arithmetic of a general one."""
    half = len(upper) // 2
    if half < 32:
        return np.asarray(np.linalg.inv(upper))
    inverse = np.zeros_like(upper)
    first, last = _inverse_upper(upper[:half, :half]), _inverse_upper(upper[half:, half:])
    inverse[:half, :half], inverse[half:, half:] = first, last
    inverse[:half, half:] = -(first @ upper[:half, half:]) @ last
    return inverse


def damping(tokens_per_column: float) -> float:
    """What is added to the diagonal of the moments, as a share of its mean: the less they are known, the more."""
    return float(np.clip(_DAMPED_TOKENS / tokens_per_column, _MIN_DAMPING, _MAX_DAMPING))


def round_by_output(w: F32, stored: Any, scheme: Scheme, curvatures: tuple[Curvature, ...], kernels: Kernels) -> Any:
    """`stored`, the searched and rounded weights w [N, K] as the scheme's family keeps them, rounded anew.

    curvatures: of all columns, in pieces whose products with one another are taken for 0; each has whole blocks.
    """
    family = definition(scheme)
    for step in ("turn", *["descend", "fit"] * _REFITS, "descend"):
        lattice = family.lattice(stored, scheme)
        parts = [_Part(w[:, c.columns], _of_columns(lattice, c.columns), c, kernels) for c in curvatures]
        if step == "fit":
            stored = family.with_scales(stored, np.concatenate([part.fitted() for part in parts], axis=1), scheme)
        else:
            index = [part.in_turn() if step == "turn" else part.descended() for part in parts]
            stored = family.with_levels(stored, np.concatenate(index, axis=1), scheme)
    return stored


def _of_columns(lattice: Lattice, columns: slice) -> Lattice:
    """Some columns of a lattice, whole blocks."""
    dims, block = lattice.points.shape[1], lattice.index.shape[1] * lattice.points.shape[1] // lattice.scale.shape[1]
    units = slice(columns.start // dims, columns.stop // dims)
    blocks = slice(columns.start // block, columns.stop // block)
    return replace(
        lattice, index=lattice.index[:, units], scale=lattice.scale[:, blocks], shift=lattice.shift[:, blocks]
    )


@dataclass(frozen=True)
class _Part:
    """Some columns of a matrix, as they are rounded now, and their curvature."""

    w: F32  # [N, k]
    lattice: Lattice
    curvature: Curvature
    kernels: Kernels

    def in_turn(self) -> NDArray[np.uint8]:
        """GPTQ; the index of each unit."""
        units = self.lattice.columns_of_units()
        order = np.argsort(-np.diag(self.curvature.moments)[units].sum(1), kind="stable")
        columns = units[order].ravel()
        factor = self.curvature.factor_panels(columns)
        done = [task.run(self.kernels.round_in_turn) for task in self._tasks(factor, w=self.w[:, columns], order=order)]
        return np.concatenate(done)

    def descended(self) -> NDArray[np.uint8]:
        """Coordinate descent from the points that stand; the index of each unit."""
        rounded = self.lattice.values()
        slope = np.asarray((self.w - rounded) @ self.curvature.moments, np.float32)
        tasks = self._tasks(self.curvature.panels, w=rounded, slope=slope, sweeps=_SWEEPS)
        return np.concatenate([task.run(self.kernels.descend) for task in tasks])

    def fitted(self) -> F32:
        """The scales with the least output error for the points that stand, [N, B]; those far from before are left."""
        levels, before = self.lattice.levels, self.lattice.scale
        n, blocks = before.shape
        tasks = self._tasks(self.curvature.panels, w=levels)
        products = np.concatenate([task.products(self.kernels.correlate_blocks) for task in tasks])
        right = ((self.w @ self.curvature.moments) * levels).reshape(n, blocks, -1).sum(-1, dtype=np.float64)
        products[:, range(blocks), range(blocks)] *= 1 + 1e-4
        products[:, range(blocks), range(blocks)] += 1e-30 + 1e-12 * np.trace(products, axis1=1, axis2=2)[:, None]
        scale = np.linalg.solve(products, right[..., None])[..., 0]
        ratio = scale / np.where(before == 0, np.float32(np.nan), before)
        return np.where((ratio > 0.5) & (ratio < 2), scale, before).astype(np.float32)

    def _tasks(
        self, panels: F32, *, w: F32, slope: F32 | None = None, order: I64 | None = None, sweeps: int = 0
    ) -> Iterator[RoundingTask]:
        lattice = self.lattice
        for first in range(0, len(w), FEEDBACK_ROWS):
            rows = slice(first, first + FEEDBACK_ROWS)
            few = replace(lattice, index=lattice.index[rows], scale=lattice.scale[rows], shift=lattice.shift[rows])
            yield RoundingTask(few, panels, w[rows], None if slope is None else slope[rows], order, sweeps)


class RoundingTask:
    """A record FEEDBACK for up to 64 rows, and the arrays behind it; the fields are those of the record."""

    def __init__(
        self, lattice: Lattice, panels: F32, w: F32, slope: F32 | None = None, order: I64 | None = None, sweeps: int = 0
    ) -> None:
        self.rows, columns = w.shape
        count, dims = lattice.points.shape
        self.blocks = lattice.scale.shape[1]
        self.index = _side_by_side(lattice.index).astype(np.int32)
        arrays: dict[str, NDArray[Any]] = {
            "points": np.ascontiguousarray(lattice.points, np.float32),
            "matrix": panels,
            "order": np.zeros(0, np.int64) if order is None else np.ascontiguousarray(order),
            "w": _side_by_side(w),
            "scale": _side_by_side(lattice.scale),
            "shift": _side_by_side(lattice.shift),
            "index": self.index,
            "slope": np.zeros((self.blocks**2, FEEDBACK_ROWS), np.float32) if slope is None else _side_by_side(slope),
            "work": np.empty((max(columns, 2 * FEEDBACK_STEP), FEEDBACK_ROWS), np.float32),
        }
        self._arrays, self._record = arrays, np.zeros(1, FEEDBACK)
        for name, array in arrays.items():
            self._record[name] = array.ctypes.data
        self._record["columns"], self._record["block"] = columns, columns // self.blocks
        self._record["count"], self._record["pairs"], self._record["sweeps"] = count, dims == 2, sweeps

    def run(self, entry: Callable[[int], int]) -> NDArray[np.uint8]:
        """Round; the index of each unit, [rows, K / D]."""
        entry(self._record.ctypes.data)
        return self.index.T[: self.rows].astype(np.uint8)

    def products(self, entry: Callable[[int], int]) -> NDArray[np.float64]:
        """Of the blocks of w through the moments, [rows, B, B]."""
        entry(self._record.ctypes.data)
        return self._arrays["slope"].T[: self.rows].reshape(-1, self.blocks, self.blocks).astype(np.float64)


def _side_by_side(x: NDArray[Any]) -> NDArray[Any]:
    """[n, K] of up to 64 rows -> [K, 64], the missing rows zeros."""
    lanes = np.zeros((x.shape[1], FEEDBACK_ROWS), x.dtype)
    lanes[:, : len(x)] = x.T
    return lanes


def panels_of(matrix: F32) -> F32:
    """[K, K] -> [K / 16, K, 16]: element [p, j, i] is that of row 16 p + i and column j."""
    panels: F32 = np.ascontiguousarray(matrix.reshape(-1, 16, len(matrix)).transpose(0, 2, 1), np.float32)
    return panels
