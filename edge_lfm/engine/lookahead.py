"""Guessing the next layer's experts: its router, applied to the hidden state as it is one layer before.

The residual stream changes little from layer to layer, so the guess names most of the right experts (accuracy by
layer: docs/paging.md). Used to read experts ahead while the disk would be idle. Plain NumPy: 64 x 2,048 products a
layer. Knows the network's routing; does not know what a guess is used for.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_lfm.kernels.spec.routing import scores_of, select
from edge_lfm.kernels.spec.schemes import FLOAT32
from edge_lfm.kernels.spec.tiles import unpack_tiles
from edge_lfm.model.packed_model import PackedModel


class Lookahead:
    """Routers of all layers that have experts, in float32 (20 MB of the 24B)."""

    def __init__(self, model: PackedModel) -> None:
        self.shape = shape = model.shape
        self.layers = list(shape.routers)
        self._following = dict(zip(self.layers, self.layers[1:], strict=False))
        self._routers, self._biases = {}, {}
        for n, router in shape.routers.items():
            at = f"model.layers.{n}"
            packed = model.bytes_of(f"{at}.feed_forward.gate.weight")
            weights = unpack_tiles(packed, FLOAT32, router.experts, shape.hidden)
            assert isinstance(weights, np.ndarray)
            self._routers[n] = np.ascontiguousarray(weights * model.floats(f"{at}.ffn_norm.weight"))
            bias = f"{at}.feed_forward.expert_bias"
            self._biases[n] = model.floats(bias) if router.selection_bias else np.zeros(router.experts, np.float32)

    def guess(self, layer: int, hidden: NDArray[np.float32]) -> tuple[int, NDArray[np.int64]] | None:
        """The next layer that has experts, and its likely choices [k], best first; None after the last.

        hidden: the residual stream [H] of the newest token, before `layer`'s FFN.
        """
        following = self._following.get(layer)
        if following is None:
            return None
        scale = 1 / np.sqrt(np.mean(np.square(hidden)) + np.float32(self.shape.eps))
        rule = self.shape.routers[following]
        scores = scores_of(self._routers[following] @ (hidden * scale), rule)
        return following, select(scores + self._biases[following], rule)
