"""The compiled loops of rounding by output error against their NumPy definition, on every tier that runs here.

Sums come in another order, so that a near tie may fall the other way, and with it all that follows in the row: rows are
compared by what they lose, and most weights must be the same.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edge_lfm.kernels.load.library import Kernels, load_kernels
from edge_lfm.kernels.spec import ref_feedback
from edge_lfm.kernels.spec.isa import find_isa, runnable_tiers
from edge_lfm.kernels.spec.lattice import Lattice
from edge_lfm.quantize.rounding import RoundingTask, factor_of, panels_of

SINGLE = np.array([[-30], [-18], [-9], [-2], [5], [12], [21], [33]], np.float32)
MANY = np.arange(-127, 128, dtype=np.float32)[:, None]
CASES = {  # points, block, columns, rows
    "eight levels": (SINGLE, 32, 64, 64),
    "eight levels in blocks of 16": (SINGLE, 16, 96, 5),
    "bytes": (MANY, 32, 32, 17),
    "pairs": (np.random.default_rng(3).integers(-30, 34, (32, 2)).astype(np.float32), 32, 128, 33),
}


@pytest.fixture(scope="module", params=[tier.name for tier in runnable_tiers()])
def kernels(request: pytest.FixtureRequest) -> Kernels:
    return load_kernels(find_isa(request.param))


def made(name: str) -> tuple[np.ndarray, Lattice, np.ndarray]:
    """Weights, a lattice with random points, and moments; a row of zeros whose scales are 0."""
    points, block, columns, rows = CASES[name]
    rng = np.random.default_rng(len(name))
    w = rng.standard_normal((rows, columns)).astype(np.float32)
    x = rng.standard_normal((4 * columns, columns // 2)) @ rng.standard_normal((columns // 2, columns))
    x += rng.standard_normal(x.shape)
    scale = rng.choice([-1, 1], (rows, columns // block)) * rng.uniform(0.06, 0.1, (rows, columns // block))
    w[0], scale[0] = 0, 0
    index = rng.integers(0, len(points), (rows, columns // points.shape[1])).astype(np.uint8)
    shift = 2.0 * rng.integers(0, 4, scale.shape)
    moments = (x.T @ x / np.square(x).mean() / len(x)).astype(np.float32)
    return w, Lattice(points, index, scale.astype(np.float32), shift.astype(np.float32)), moments


def lost(w: np.ndarray, lattice: Lattice, moments: np.ndarray) -> np.ndarray:
    """Of each row."""
    error = lattice.values().astype(np.float64) - w
    return np.einsum("nk,kl,nl->n", error, moments.astype(np.float64), error)


def compare(w: np.ndarray, lattice: Lattice, moments: np.ndarray, found: np.ndarray, expected: np.ndarray) -> None:
    assert found.shape == expected.shape == lattice.index.shape
    assert (found == expected)[1:].mean() > 0.97  # any point is as good as another where the scale is 0
    mine, theirs = (lost(w, replace(lattice, index=index), moments) for index in (found, expected))
    assert abs(mine.sum() / theirs.sum() - 1) < 0.01
    assert theirs.sum() < lost(w, lattice, moments).sum() / 10


@pytest.mark.parametrize("name", CASES)
def test_columns_are_rounded_in_turn(kernels: Kernels, name: str) -> None:
    w, lattice, moments = made(name)
    units = lattice.columns_of_units()
    order = np.argsort(-np.diag(moments)[units].sum(1), kind="stable")
    columns = units[order].ravel()
    factor = factor_of(moments[np.ix_(columns, columns)])
    assert np.allclose(factor.T @ factor @ moments[np.ix_(columns, columns)], np.eye(len(columns)), atol=1e-3)
    task = RoundingTask(lattice, panels_of(factor), w[:, columns], order=order)
    compare(w, lattice, moments, task.run(kernels.round_in_turn), ref_feedback.round_in_turn(w, lattice, order, factor))


@pytest.mark.parametrize("name", CASES)
def test_single_points_move(kernels: Kernels, name: str) -> None:
    w, lattice, moments = made(name)
    slope = ((w - lattice.values()) @ moments).astype(np.float32)
    task = RoundingTask(lattice, panels_of(moments), lattice.values(), slope, sweeps=3)
    compare(w, lattice, moments, task.run(kernels.descend), ref_feedback.descend(w, lattice, moments, 3))


@pytest.mark.parametrize("name", CASES)
def test_blocks_are_correlated(kernels: Kernels, name: str) -> None:
    _, lattice, moments = made(name)
    found = RoundingTask(lattice, panels_of(moments), lattice.levels).products(kernels.correlate_blocks)
    expected = ref_feedback.correlate_blocks(lattice.levels, moments, CASES[name][1])
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()
    assert np.array_equal(found, found.transpose(0, 2, 1))
