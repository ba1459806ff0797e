"""Rounding by output error in plain NumPy, as the compiled `ops/feedback.py` does it, written for reading.

With the second moments H of a matrix's inputs, rounding W to Q makes the squared output error tr((W - Q) H (W - Q)^T).
Legend: N rows, K columns, B blocks of columns that share a scale.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_lfm.kernels.spec.lattice import Lattice
from edge_lfm.kernels.spec.ref import F32, I64

U8 = NDArray[np.uint8]


def round_in_turn(w: F32, lattice: Lattice, order: I64, factor: F32) -> U8:
    """GPTQ: the index of each unit, [N, K / D].

    Units are rounded in `order`, and each error is made up for in the units to come. factor: [K, K] upper, of columns
    in that order, with H**-1 = factor.T factor.
    """
    columns, index = lattice.columns_of_units()[order], lattice.index.copy()
    left, dims = w[:, columns.ravel()].copy(), columns.shape[1]
    for n, unit in enumerate(order):
        own = factor[n * dims : (n + 1) * dims, n * dims : (n + 1) * dims]
        inverse = np.linalg.inv(own.astype(np.float64))
        form = (inverse @ inverse.T).astype(np.float32)  # errors e cost |e own**-1|**2
        target = left[:, n * dims : (n + 1) * dims]
        index[:, unit] = nearest(lattice, int(columns[n, 0]), target, form)
        error = (target - value_of(lattice, int(columns[n, 0]), index[:, unit])) @ inverse
        left[:, (n + 1) * dims :] -= (error @ factor[n * dims : (n + 1) * dims, (n + 1) * dims :]).astype(np.float32)
    return index


def descend(w: F32, lattice: Lattice, moments: F32, sweeps: int) -> U8:
    """Coordinate descent from the points that stand: the best point of one unit after the other, all others fixed."""
    index, rounded = lattice.index.copy(), lattice.values()
    slope = (w - rounded) @ moments
    for _ in range(sweeps):
        for unit, columns in enumerate(lattice.columns_of_units()):
            own = moments[np.ix_(columns, columns)]
            target = rounded[:, columns] + np.linalg.solve(own.astype(np.float64), slope[:, columns].T).T
            index[:, unit] = nearest(lattice, int(columns[0]), target.astype(np.float32), own)
            moved = value_of(lattice, int(columns[0]), index[:, unit]) - rounded[:, columns]
            slope -= moved @ moments[columns]
            rounded[:, columns] += moved
    return index


def correlate_blocks(x: F32, moments: F32, block: int) -> F32:
    """Products of the blocks of columns of x [N, K] through the moments: [N, B, B]."""
    n, columns = x.shape
    apart = np.zeros((n, columns // block, columns), np.float32)
    for b in range(columns // block):
        apart[:, b, b * block : (b + 1) * block] = x[:, b * block : (b + 1) * block]
    products: F32 = np.einsum("nbk,kj,ncj->nbc", apart, moments, apart, optimize=True)
    return products


def value_of(lattice: Lattice, column: int, index: U8) -> F32:
    """The values of a unit, [N, D]; column: the first of the unit."""
    block = column // (lattice.levels.shape[1] // lattice.scale.shape[1])
    value: F32 = (lattice.points[index] + lattice.shift[:, block, None]) * lattice.scale[:, block, None]
    return value


def nearest(lattice: Lattice, column: int, target: F32, form: F32) -> U8:
    """The points of a unit whose values' distances d from the target [N, D] have the least d form d^T."""
    every = np.stack([value_of(lattice, column, np.full(len(target), p)) for p in range(len(lattice.points))])
    away = every - target
    return np.asarray(np.einsum("pnd,de,pne->pn", away, form, away).argmin(0), np.uint8)
