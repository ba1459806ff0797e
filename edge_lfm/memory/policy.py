"""Which experts are worth their memory: a score that rises with use and decays with time.

Each use of an expert adds to several counters that halve after 1, 4, 16, 64 and 256 tokens; the score is their
weighted sum, close to a power law of the time since each use. On the traces of GPT-OSS-20B (`benchmarks/replay.py`)
that misses 8 to 17 % less than least-recently-used, and 1 to 2 % less than any single half-life.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

HALF_LIVES = np.array([1, 4, 16, 64, 256], np.float64)
WEIGHTS = np.array([1, 0.6, 0.3, 0.2, 0.1])
_DECAY = 0.5 ** (1 / HALF_LIVES)


class DecayedUse:
    """Scores of the experts of one layer, [experts]."""

    def __init__(self, experts: int) -> None:
        self._counters = np.zeros((len(HALF_LIVES), experts))
        self.scores = np.zeros(experts)

    def note(self, chosen: NDArray[np.int64]) -> None:
        """A step's choices [tokens, k], oldest first."""
        tokens, experts = len(chosen), self._counters.shape[1]
        ages = np.arange(tokens - 1, -1, -1)
        used = np.zeros((tokens, experts))
        np.put_along_axis(used, chosen, 1.0, axis=1)
        self._counters *= (_DECAY**tokens)[:, None]
        self._counters += (_DECAY[:, None] ** ages) @ used
        self.scores = WEIGHTS @ self._counters
