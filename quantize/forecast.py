"""Fitting the forecast of expert use that paging evicts by: ridge regression on a model's own routing.

For every layer, from what all layers chose for a token and the layer's decayed counts, to the discounted uses of each
expert in the tokens to come. Data are the choices that calibration text showed; features are those of
`memory/policy.py`. Knows no files.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edge_lfm.memory.policy import DECAY, HORIZONS

RIDGE = 10.0

Used = NDArray[np.bool_]
"""Choices of one sequence, [tokens, layers, experts]."""


def fit_forecast(sequences: Sequence[Used]) -> NDArray[np.float32]:
    """Weights [horizons, layers, features, experts]: for each of `HORIZONS`, as `LearnedUse` takes them."""
    return np.stack([fit_layer(sequences, layer) for layer in range(sequences[0].shape[1])], axis=1)


def fit_layer(sequences: Sequence[Used], layer: int) -> NDArray[np.float32]:
    """The weights of one layer, [horizons, features, experts]."""
    _, layers, experts = sequences[0].shape
    width = 1 + (layers + len(DECAY)) * experts
    gram = np.float32(RIDGE) * np.eye(width, dtype=np.float32)
    side = np.zeros((width, len(HORIZONS) * experts), np.float32)
    for used in sequences:
        x = features(used, layer)
        gram += x.T @ x
        side += x.T @ np.concatenate([future_use(used[:, layer], discount) for _, discount in HORIZONS], axis=1)
    weights = np.linalg.solve(gram, side).astype(np.float32)
    return np.stack(np.split(weights, len(HORIZONS), axis=1))


def features(used: Used, layer: int) -> NDArray[np.float32]:
    """[tokens, features] after each token of a sequence; of layers above, the token before is what is known then."""
    tokens, own = len(used), used[:, layer].astype(np.float64)
    counters = np.zeros((tokens, len(DECAY), own.shape[1]))
    for t in range(tokens):
        counters[t] = (counters[t - 1] * DECAY[:, None] if t else 0) + own[t]
    shares = counters * (1 - DECAY)[:, None]
    known = used.copy()
    known[1:, layer + 1 :], known[0, layer + 1 :] = used[:-1, layer + 1 :], False
    parts = (np.ones((tokens, 1)), known.reshape(tokens, -1), shares.reshape(tokens, -1))
    return np.concatenate(parts, axis=1).astype(np.float32)


def future_use(own: Used, discount: float) -> NDArray[np.float32]:
    """[tokens, experts]: the discounted uses after each token, in shares."""
    ahead = np.zeros((len(own) + 1, own.shape[1]), np.float32)
    for t in range(len(own) - 1, 0, -1):
        ahead[t] = ahead[t + 1] * discount + own[t] * (1 - discount)
    return ahead[1:]
