"""The router's rule in plain NumPy: which experts a token goes to, and how much each counts.

Knows arrays only; `kernels/ops/router.py` computes the same, and so do read-ahead, cached routing and the ONNX graph.

Legend: T tokens, E experts, k experts per token.
"""

from __future__ import annotations

from typing import Literal, Protocol

import numpy as np

from edge_lfm.kernels.spec.ref import F32, I64, sigmoid


class RouterRule(Protocol):
    """The numbers of a rule, as a model's description has them (`edge_lfm.shape.Router`)."""

    @property
    def top_k(self) -> int: ...
    @property
    def score(self) -> Literal["sigmoid", "softmax"]: ...
    @property
    def normalize(self) -> bool: ...
    @property
    def guard(self) -> float: ...
    @property
    def scale(self) -> float: ...
    @property
    def groups(self) -> int: ...
    @property
    def kept_groups(self) -> int: ...


def scores_of(logits: F32, rule: RouterRule) -> F32:
    """Scores [T, E] of router logits [T, E]."""
    if rule.score == "sigmoid":
        return sigmoid(logits)
    exps = np.exp(logits - logits.max(-1, keepdims=True))
    shares: F32 = (exps / exps.sum(-1, keepdims=True)).astype(np.float32)
    return shares


def select(worth: F32, rule: RouterRule) -> I64:
    """The top k of each token [T, k], best first, ties to the lower number. worth [T, E]: score plus bias.

    Of groups of experts only those are looked at whose two best have the greatest sums.
    """
    if rule.groups > rule.kept_groups:
        grouped = worth.reshape(*worth.shape[:-1], rule.groups, -1)
        sums = np.sort(grouped, axis=-1)[..., -2:].sum(-1)
        kept = np.argsort(-sums, axis=-1, kind="stable")[..., : rule.kept_groups]
        dropped = np.ones(sums.shape, bool)
        np.put_along_axis(dropped, kept, values=False, axis=-1)
        worth = np.where(dropped[..., None], np.float32(-np.inf), grouped).reshape(worth.shape)
    return np.argsort(-worth, axis=-1, kind="stable")[..., : rule.top_k].astype(np.int64)


def weigh(scores: F32, chosen: I64, rule: RouterRule) -> F32:
    """The weights [T, k] of the chosen experts: their scores without the bias, normalized and scaled by the rule."""
    weights = np.take_along_axis(scores, chosen, axis=-1)
    if rule.normalize:
        weights = weights / (weights.sum(-1, keepdims=True) + np.float32(rule.guard))
    return (weights * np.float32(rule.scale)).astype(np.float32)


def route(logits: F32, bias: F32 | None, rule: RouterRule) -> tuple[I64, F32]:
    """The chosen experts [T, k] of router logits [T, E], and their weights. bias: float32 [E], for the choice only."""
    scores = scores_of(logits, rule)
    chosen = select(scores if bias is None else scores + bias, rule)
    return chosen, weigh(scores, chosen, rule)
