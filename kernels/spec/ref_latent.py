"""Latent attention in plain NumPy, absorbed: what the compiled kernels of `ops/latent.py` compute. Knows arrays only.

Legend: T tokens, P positions, R values of a latent, W values of a key that are turned.
"""

from __future__ import annotations

import numpy as np

from edge_lfm.kernels.spec.ref import F32


def latent_weights(low: F32, turned: F32, latents: F32, keys: F32, position: int, scale: float) -> F32:
    """The weight that each head gives each position, [heads, T, P].

    low [T, heads, R] and turned [T, heads, W]: both parts of the queries at `position`.., which latents [P, R] and
    keys [P, W] are scored by. The deepseek_v3 of transformers 5.24, with K_h moved to the query.
    """
    scores = (np.einsum("thr,pr->htp", low, latents) + np.einsum("thw,pw->htp", turned, keys)) * low.dtype.type(scale)
    own = position + np.arange(len(low))[:, None]
    scores = np.where(np.arange(len(latents))[None, :] > own, -np.inf, scores)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    out: F32 = weights / weights.sum(-1, keepdims=True)
    return out


def latent_attention(low: F32, turned: F32, latents: F32, keys: F32, position: int, scale: float) -> F32:
    """What each head takes of the latents, [T, heads, R]; arguments as of `latent_weights`."""
    weights = latent_weights(low, turned, latents, keys, position, scale)
    out: F32 = np.einsum("htp,pr->thr", weights, latents).astype(low.dtype)
    return out
