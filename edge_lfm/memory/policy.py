"""Which experts are worth their memory: scores from past use, or a forecast of future use.

`DecayedUse` needs nothing but the past: each use of an expert adds to counters that halve after 1, 4, 16, 64 and 256
tokens; the score is their weighted sum, close to a power law of the time since each use. `LearnedUse` forecasts the
uses to come from the same counters and from what all layers chose last, with linear weights that were fitted to the
model's own routing (`quantize/forecast.py`). Hit rates of both on recorded routing: `benchmarks/replay.py`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FORECAST_FILE = "forecast.safetensors"
"""Beside a packed model: the weights of `LearnedUse`, float16 [horizons, layers, features, experts]."""

HORIZONS = ((1.4, 0.4), (2.8, 0.8), (np.inf, 0.9))
"""Up to how many tokens' choices that fit into memory, how much less each later token counts in the forecast: the
smaller the cache, the sooner must an expert come back to be worth its slot. Hits on GPT-OSS's routing, equal shares for
all layers, with an eighth of its experts: 0.520 at 0.4, 0.494 at 0.9; with half of them 0.900 and 0.914."""

HALF_LIVES = np.array([1, 4, 16, 64, 256], np.float64)
WEIGHTS = np.array([1, 0.6, 0.3, 0.2, 0.1])
DECAY = 0.5 ** (1 / HALF_LIVES)


def horizon_of(tokens: float) -> int:
    """Which of `HORIZONS` serves when so many tokens' choices fit into memory: experts kept in a layer over top-k."""
    return next(n for n, (most, _) in enumerate(HORIZONS) if tokens <= most)


class DecayedUse:
    """Scores of the experts of one layer, [experts]."""

    def __init__(self, experts: int) -> None:
        self.experts = experts
        self.counters = np.zeros((len(HALF_LIVES), experts))

    def note(self, chosen: NDArray[np.int64]) -> None:
        """A step's choices [tokens, k], oldest first."""
        tokens = len(chosen)
        used = np.zeros((tokens, self.counters.shape[1]))
        np.put_along_axis(used, chosen, 1.0, axis=1)
        self.counters *= (DECAY**tokens)[:, None]
        self.counters += (DECAY[:, None] ** np.arange(tokens - 1, -1, -1)) @ used

    @property
    def scores(self) -> NDArray[np.float64]:
        return WEIGHTS @ self.counters


class LearnedUse(DecayedUse):
    """Forecasts of the experts of layer `row` of those that have experts.

    weights: float32 [1 + layers * experts + half-lives * experts, experts], rows for: a constant, the last choices of
    every layer, and this layer's counters as shares. latest: bool [layers, experts], shared by all layers.
    """

    def __init__(self, row: int, weights: NDArray[np.float32], latest: NDArray[np.bool_]) -> None:
        super().__init__(latest.shape[1])
        self.row, self.latest = row, latest
        self._constant, self._choices = weights[0], weights[1 : 1 + latest.size]
        self._shares = weights[1 + latest.size :]

    def note(self, chosen: NDArray[np.int64]) -> None:
        super().note(chosen)
        self.latest[self.row] = False
        self.latest[self.row, chosen[-1]] = True

    @property
    def scores(self) -> NDArray[np.float64]:
        shares = (self.counters * (1 - DECAY)[:, None]).ravel().astype(np.float32)
        chosen = np.flatnonzero(self.latest)
        out: NDArray[np.float64] = self._constant + self._choices[chosen].sum(axis=0) + shares @ self._shares
        return out
