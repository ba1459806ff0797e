"""The network layer by layer over many sequences at once, float32, straight from a checkpoint: calibration, evaluation.

One layer's weights are in memory at a time, one expert's at a time in an FFN, so that a laptop can send text through
47.7 GB of weights once. The arithmetic is the reference's, with float32 matrix products. An observer is shown what
every matrix gets to see. Knows nothing of files and of compiled kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edge_lfm.kernels.spec import ref
from edge_lfm.kernels.spec.ref import F32, I64, Quantized
from edge_lfm.kernels.spec.routing import route
from edge_lfm.model.reference import ReferenceModel, ReferenceState, Weights
from edge_lfm.shape import Ffn, Router, Shape


class Observer(Protocol):
    """What may be looked at on the way; arrays are not to be changed."""

    def matrix(self, name: str, x: F32) -> None:
        """Inputs [T, K] of a matrix that every token passes."""

    def routed(self, layer: int, x: F32, chosen: I64, weight: F32) -> None:
        """Inputs [T, H] of a layer's experts, the chosen ones [T, k] and their weights [T, k]."""

    def expert(self, layer: int, expert: int, x: F32, gated: F32, weight: F32) -> None:
        """Inputs [t, H] of one expert, of its second matrix [t, I], and its weights [t]."""


class StreamedModel(ReferenceModel):
    """`Shape` + weights by name -> hidden states and logits of whole texts."""

    def __init__(self, shape: Shape, weights: Weights, observer: Observer | None = None) -> None:
        super().__init__(shape, weights)
        self.observer = observer
        self._layer, self._kept = -1, dict[str, F32]()

    def hidden(
        self, sequences: Sequence[NDArray[np.int64]], progress: Callable[[int], object] = lambda _layers: None
    ) -> F32:
        """The normed hidden states [T, H] of all sequences, one after the other; the head's input.

        `progress` is called with 1 after every layer.
        """
        h = self.embedded(sequences)
        for n in range(len(self.shape.layers)):
            self.layer(n, h, [len(s) for s in sequences])
            progress(1)
        return self.normed(h)

    def embedded(self, sequences: Sequence[NDArray[np.int64]]) -> F32:
        """What the first layer gets, [T, H]."""
        return self._embedded(np.concatenate(sequences))

    def layer(self, n: int, h: F32, lengths: Sequence[int]) -> None:
        """Send the hidden states [T, H] of sequences of these lengths through layer n, in place."""
        at, shape = f"model.layers.{n}", self.shape
        if n != self._layer:
            self._layer, self._kept = n, {}
        weight = self._f32(f"{at}.operator_norm.weight")
        for first, last in pairwise(np.cumsum([0, *lengths])):
            part = h[first:last]
            part += self._posted(
                n, "operator", self._operator(n, ref.rms_norm(part, weight, shape.eps), ReferenceState())
            )
        h += self._posted(n, "ffn", self._ffn(n, ref.rms_norm(h, self._f32(f"{at}.ffn_norm.weight"), shape.eps)))

    def normed(self, h: F32) -> F32:
        """Hidden states [T, H] after the last layer -> the head's input."""
        self._layer, self._kept = -1, {}
        return ref.rms_norm(h, self._f32("model.embedding_norm.weight"), self.shape.eps)

    def head(self, hidden: F32) -> F32:
        """Logits [t, vocab] of hidden states [t, H]."""
        return self._linear("model.embed_tokens" if self.shape.tied else "lm_head", hidden)

    def _linear(self, name: str, x: F32) -> F32:
        if self.observer is not None:
            self.observer.matrix(f"{name}.weight", x)
        return _product(x, self._matrix(f"{name}.weight"))

    def _each_head(self, name: str, x: F32) -> F32:
        """An observer is shown the inputs of all heads together, [T heads, K]."""
        heads, matrix = x.shape[1], self._matrix(f"{name}.weight")
        if self.observer is not None:
            self.observer.matrix(f"{name}.weight", x.reshape(-1, x.shape[2]))
        out: F32 = np.einsum("thk,hnk->thn", x, matrix.reshape(heads, -1, x.shape[2]), optimize=True)
        return out

    def _matrix(self, name: str) -> F32:
        """A matrix of the trunk or a dense FFN, kept until the next layer."""
        if name not in self._kept:
            self._kept[name] = self._f32(name)
        return self._kept[name]

    def _f32(self, name: str) -> F32:
        value = self.weights(name)
        return value.values() if isinstance(value, Quantized) else value

    def _experts(self, at: str, ffn: Ffn, router: Router, x: F32) -> F32:
        layer = int(at.split(".")[2])
        bias = self._f32(f"{at}.expert_bias") if router.selection_bias else None
        logits = _product(x, self._f32(f"{at}.gate.weight"))
        if router.bias:
            logits += self._f32(f"{at}.gate.bias")
        chosen, weights = route(logits, bias, router)
        if self.observer is not None:
            self.observer.routed(layer, x, chosen, weights)
        out = np.zeros_like(x)
        for e in np.unique(chosen):
            token, rank = np.nonzero(chosen == e)
            w1, w3, w2 = (self._f32(f"{at}.experts.{e}.{w}.weight") for w in ("w1", "w3", "w2"))
            biases = biases_of(self.weights, f"{at}.experts.{e}", ffn)
            gated = gate(ffn, biases, x[token], w1, w3)
            if self.observer is not None:
                self.observer.expert(layer, int(e), x[token], gated, weights[token, rank])
            out[token] += weights[token, rank, None] * (_product(gated, w2) + biases[2])
        return out


def biases_of(weights: Weights, at: str, ffn: Ffn) -> tuple[F32, F32, F32]:
    """The biases of an expert's w1, w3 and w2; zeros where it has none."""
    w1, w3, w2 = (weights(f"{at}.{w}.bias") if ffn.bias else np.zeros(1, np.float32) for w in ("w1", "w3", "w2"))
    assert not isinstance(w1, Quantized) and not isinstance(w3, Quantized) and not isinstance(w2, Quantized)
    return w1, w3, w2


def gate(ffn: Ffn, biases: tuple[F32, F32, F32], x: F32, w1: F32, w3: F32) -> F32:
    """gated(w1 x, w3 x), [t, I]: the input of an expert's second matrix."""
    form, gates, ups = ffn.gated, _product(x, w1), _product(x, w3)
    if ffn.bias:
        gates += biases[0]
        ups += biases[1]
    return gated_in_place(gates, ups, form.alpha, form.limit, form.plus)


def gated_in_place(gates: F32, ups: F32, alpha: float, limit: float | None, plus: float) -> F32:
    """As `ref.gated`, in the memory of `ups`: a fifth less time for the inputs of an expert's second matrix."""
    if limit is not None:
        np.minimum(gates, np.float32(limit), out=gates)
        np.clip(ups, np.float32(-limit), np.float32(limit), out=ups)
    if plus:
        ups += np.float32(plus)
    with np.errstate(over="ignore"):
        beside = gates * np.float32(-alpha)
        np.exp(beside, out=beside)
    beside += np.float32(1)
    gates /= beside
    ups *= gates
    return ups


def _product(x: F32, weights: F32) -> F32:
    out: F32 = x @ weights.T
    return out
