"""The record of a layer of latent attention: where its matrices and norms lie. Addresses, no copies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_lfm.kernels.spec.layout import LATENT
from edge_lfm.shape import LatentAttention


def latent_record(
    latent: LatentAttention, at: str, matrix: Callable[[str], NDArray[Any]], floats: Callable[[str], int]
) -> NDArray[Any]:
    """A LATENT record [1]. at: the layer's tensors begin so. matrix, floats: a tensor's MATRIX record, its address."""
    record = np.zeros(1, LATENT)
    record["heads"], record["rank"] = latent.heads, latent.rank
    record["eps"], record["scale"] = latent.eps, latent.scale
    if latent.query_rank is not None:
        record["q_norm"] = floats(f"{at}.q_a_layernorm.weight")
        record["q_b"] = matrix(f"{at}.q_b_proj.weight")
    record["c_norm"] = floats(f"{at}.kv_a_layernorm.weight")
    record["k_b"], record["v_b"] = matrix(f"{at}.k_b_proj.weight"), matrix(f"{at}.v_b_proj.weight")
    return record
