"""Find the points of `pair5_g32`: Lloyd's iterations through the rounding itself, on samples of two tails.

    python tools/fit_pairs.py [--shift 2] [--seed 0] [--iterations 20]

Points are symmetric around 1.5, as far as integers can be: signs of scales and shifts, which go one way, do the rest
(ADR 22). The score is the signal to noise, in dB, on normal samples. Takes minutes.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from edge_lfm.kernels.spec.definitions.pairs import round_weights
from edge_lfm.kernels.spec.schemes import PAIR5_G32, Pairs

F32 = NDArray[np.float32]
CENTRE, EDGE = 1.5, 31.5
"""Of the points, and how far from it they may lie: -30..33, six bits."""


def symmetric(points: F32) -> F32:
    """Closed under negation: every point becomes the mean of itself and the negative of the one nearest to that."""
    made, left = points.copy(), list(np.argsort(-np.square(points).sum(1)))
    while len(left) > 1:
        i = left.pop(0)
        j = left.pop(int(np.square(made[left] + made[i]).sum(1).argmin()))
        made[i] = (made[i] - made[j]) / 2
        made[j] = -made[i]
    return made


def grid_of(points: F32, shift: int) -> Pairs:
    """Integers, symmetric around the centre."""
    whole = np.clip(np.round(points - 0.5) + 0.5, -EDGE, EDGE)
    half = whole[(whole[:, 0] > 0) | ((whole[:, 0] == 0) & (whole[:, 1] > 0))]
    both = np.concatenate([half, -half]) + CENTRE
    return Pairs(tuple(sorted((int(a), int(b)) for a, b in both)), shift, shifts=4, candidates=5, step=2.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shift", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--iterations", type=int, default=20)
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    x = np.concatenate([rng.standard_normal((96, 1024)), rng.standard_t(12, (32, 1024))]).astype(np.float32)
    fresh = np.random.default_rng(99).standard_normal((64, 1024)).astype(np.float32)
    points, best = symmetric(rng.standard_normal((32, 2)).astype(np.float32)), 0.0
    for _ in range(args.iterations):
        points *= EDGE / np.abs(points).max()
        grid = grid_of(points, args.shift)
        scheme = replace(PAIR5_G32, grid=grid)
        coded = round_weights(x, scheme)
        lattice = coded.lattice()
        scale = np.where(lattice.scale == 0, np.float32(1), lattice.scale)
        target = x.reshape(*scale.shape, 2, 16) / scale[..., None, None] - lattice.shift[..., None, None] - CENTRE
        weight = np.repeat(np.square(lattice.scale), 16, axis=1).ravel()
        for n in range(2):
            total = np.bincount(coded.index.ravel(), weight * target[..., n, :].ravel(), len(grid.points))
            counts = np.bincount(coded.index.ravel(), weight, len(grid.points))
            points[: len(total), n] = total / np.maximum(counts, 1e-30)
        points = symmetric(points)
        error = fresh - round_weights(fresh, scheme).values()
        decibels = float(10 * np.log10(np.square(fresh).sum() / np.square(error).sum()))
        if decibels > best:
            best = decibels
            print(f"{decibels:.2f} dB: {grid.points}", flush=True)


if __name__ == "__main__":
    main()
