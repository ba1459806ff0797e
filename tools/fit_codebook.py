"""Find the levels of the codebook schemes: hill climbing by single steps, on samples of several tails.

    python tools/fit_codebook.py                    # from the levels in use
    python tools/fit_codebook.py --levels=-32,-26,-21,-16,-12,-9,-6,-3,0,3,6,9,13,17,22,28 --shift 1 --steps 0

The score is the signal to noise, in dB, of the codebook's rounding in blocks of 32 on normal and Student-t samples (12
and 6 degrees of freedom: heavier tails); other samples, in both block sizes, are printed at the end. Takes minutes.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from edge_lfm.kernels.spec.definitions.codebook import round_weights
from edge_lfm.kernels.spec.schemes import CODEBOOK4_G32, Codebook

F32 = NDArray[np.float32]
WIDEST = 63  # of 6 bits
assert isinstance(CODEBOOK4_G32.grid, Codebook)
GRID = CODEBOOK4_G32.grid


def samples(seed: int, rows: int) -> dict[str, F32]:
    rng, shape = np.random.default_rng(seed), (rows, 2048)
    made = {"normal": rng.standard_normal(shape), "t12": rng.standard_t(12, shape), "t6": rng.standard_t(6, shape)}
    return {name: x.astype(np.float32) for name, x in made.items()}


def decibels(levels: list[int], shift: int, x: F32, block: int) -> float:
    grid = replace(GRID, levels=tuple(levels), shift=shift)
    error = x - round_weights(x, replace(CODEBOOK4_G32, grid=grid, block=block)).values()
    return float(10 * np.log10(np.square(x).sum() / np.square(error).sum()))


def neighbours(levels: list[int], shift: int) -> list[tuple[list[int], int]]:
    moved = [[v + step * (m == n) for m, v in enumerate(levels)] for n in range(16) for step in (-1, 1)]
    fits = [new for new in moved if sorted(set(new)) == new and new[-1] - new[0] <= WIDEST]
    return [(new, shift) for new in fits] + [(levels, shift - 1), (levels, shift + 1)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--levels", default=",".join(map(str, GRID.levels)))
    parser.add_argument("--shift", type=int, default=GRID.shift)
    parser.add_argument("--steps", type=int, default=1000, help="the most steps upwards")
    args = parser.parse_args()
    best, data = ([int(v) for v in args.levels.split(",")], args.shift), samples(1, 64)

    def score(at: tuple[list[int], int]) -> float:
        return float(np.mean([decibels(*at, x, 32) for x in data.values()]))

    top = score(best)
    for _ in range(args.steps):
        scored = [(score(at), at) for at in neighbours(*best)]
        reached, at = max(scored)
        if reached <= top:
            break
        top, best = reached, at
        print(f"{top:.3f} dB: {best[0]}, shift {best[1]}", flush=True)
    for name, x in samples(2, 256).items():
        print(f"{name}: {decibels(*best, x, 32):.2f} dB in blocks of 32, {decibels(*best, x, 16):.2f} of 16")


if __name__ == "__main__":
    main()
