"""Which rows of the head a step needs whose logits were made with the screen, a copy of the head in fewer bits.

Of each logit the screen tells bounds (`quantize/screen.py`), and whoever asks for logits tells which tokens matter
within bounds (`Feed.contenders`). First those are made exact that matter if the screen is right; with these exact, all
that may matter still. So what is drawn is what the whole head would have given: no number of candidates is guessed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from edge_lfm.engine.feeds import Contenders, Logits
from edge_lfm.kernels.spec.schemes import TILE_ROWS

_NORM_SLACK = 1 + 2.0**-20
"""Beyond what norms and their products with bounds are rounded by."""


def missing_tiles(
    logits: Logits, norms: NDArray[np.float64], bounds: NDArray[np.float32], asked: Sequence[Contenders]
) -> Iterator[NDArray[np.int64]]:
    """Twice at most, the tiles of the head that are to be computed before the next are asked for: int64 [n, 2], a row
    of logits and a tile.

    Args:
        logits: of the screen [rows, vocab]; what was computed stands in it when the generator goes on.
        norms: of the activations of each row.
        bounds: of the screen's error for activations of norm 1 [vocab].
        asked: which tokens matter, for each row.
    """
    exact = np.zeros((len(logits), -(-logits.shape[1] // TILE_ROWS)), np.bool_)
    for trusted in (True, False):
        missing = np.zeros_like(exact)
        for n, (row, norm, contenders) in enumerate(zip(logits, norms, asked, strict=True)):
            least = most = row
            if not trusted:
                errors = bounds * np.float32(norm * _NORM_SLACK)
                for tile in np.flatnonzero(exact[n]):
                    errors[tile * TILE_ROWS : (tile + 1) * TILE_ROWS] = 0
                least, most = row - errors, row + errors
            missing[n, contenders(least, most) // TILE_ROWS] = True
        missing &= ~exact
        exact |= missing
        if missing.any():
            yield np.ascontiguousarray(np.argwhere(missing))  # of which NumPy makes columns
