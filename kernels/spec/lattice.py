"""The values that weights can have once their scales are chosen: what rounding with error feedback chooses from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_lfm.kernels.spec.ref import F32


@dataclass(frozen=True)
class Lattice:
    """weight = scale * (level + shift), with a scale and a shift for each block of columns.

    N rows, B blocks, L levels.
    """

    levels: F32  # [L], rising
    index: NDArray[np.uint8]  # [N, K]: the level of each weight
    scale: F32  # [N, B]
    shift: F32  # [N, B]
