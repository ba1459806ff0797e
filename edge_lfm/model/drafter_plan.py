"""What a drafter consists of: the tensors of its checkpoint, what they become, and which model it is for.

The layers are those of any model (`plan.py`); this adds what stands before and behind them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_lfm.errors import DrafterError
from edge_lfm.kernels.spec.ref import F32
from edge_lfm.model.checkpoint_weights import CheckpointWeights
from edge_lfm.model.plan import FLOAT_CLASS, Matrix, PackedTensor, Schemes, Source, plan_tensors
from edge_lfm.shape import Drafter, Shape

FC, HIDDEN_NORM, NORM = "fc.weight", "hidden_norm.weight", "norm.weight"
MARKOV_IN, MARKOV_OUT = "markov_head.markov_w1.weight", "markov_head.markov_w2.weight"
CONFIDENCE, CONFIDENCE_BIAS = "confidence_head.proj.weight", "confidence_head.proj.bias"
_TURNED = ("q_proj.weight", "k_proj.weight", "q_layernorm.weight", "k_layernorm.weight")


def plan_drafter(drafter: Drafter, schemes: Schemes) -> list[PackedTensor]:
    """Every tensor of the packed drafter. What is looked up has the embedding's scheme, what is multiplied the layers'.

    Raises:
        UnsupportedModelError: the kernels cannot do it.
    """
    hidden, vocab = drafter.body.hidden, drafter.body.vocab
    layers = [tensor for tensor in plan_tensors(drafter.body, schemes) if tensor.layer is not None]
    return [
        _matrix(FC, "attention", schemes, (hidden, len(drafter.taps) * hidden)),
        _float(HIDDEN_NORM, (hidden,)),
        _float(NORM, (hidden,)),
        _float(CONFIDENCE, (1, hidden + drafter.rank)),
        _float(CONFIDENCE_BIAS, (1,)),
        _matrix(MARKOV_IN, "embedding", schemes, (vocab, drafter.rank)),
        _matrix(MARKOV_OUT, "ffn", schemes, (vocab, drafter.rank)),
        *layers,
    ]


@dataclass(frozen=True)
class Target:
    """The model that a drafter is for: `source_hash` tells its weights before they were packed."""

    name: str
    source_hash: str

    def to_json(self) -> dict[str, str]:
        return {"name": self.name, "source_hash": self.source_hash}

    @classmethod
    def of(cls, provenance: Mapping[str, Any], fingerprint: str) -> Target:
        """Of a packed model; `fingerprint`: what tells its weights if they come from no checkpoint."""
        return cls(str(provenance.get("source", "")), str(provenance.get("source_hash") or fingerprint))


def check_target(drafter: Drafter, shape: Shape, where: str, target: str) -> None:
    """Refuse a drafter that cannot be of a model with this shape; `where`, `target`: their names.

    Raises:
        DrafterError: vocabulary, hidden size or number of layers differ; the model's streams cannot be tapped.
    """
    if any(layer.post_norms for layer in shape.layers):  # a layer's stream is whole only within the next layer
        raise DrafterError(
            f"{target} has norms behind its branches", hint="drafters of such models are not implemented"
        )
    for what, its, needed in (
        ("a vocabulary of", drafter.body.vocab, shape.vocab),
        ("a hidden size of", drafter.body.hidden, shape.hidden),
        ("a target of so many layers:", drafter.target_layers, len(shape.layers)),
    ):
        if its != needed:
            raise DrafterError(
                f"{where} is a drafter for {what} {its}, {target} has {needed}",
                hint="give the drafter that was published for this model",
            )


class DrafterWeights(CheckpointWeights):
    """A drafter's weights, with the values of heads in the order in which kernels turn them: the pairs (2i, 2i + 1) of
    a head become (i, i + width / 2), which changes no product of a query and a key."""

    def __init__(self, checkpoint: Any, drafter: Drafter, tensors: list[PackedTensor]) -> None:
        super().__init__(checkpoint, drafter.body, tensors)
        self._width = drafter.body.attentions[0].width if drafter.interleaved else 0

    def __call__(self, name: str) -> F32:
        return self._ordered(name, super().__call__(name))

    def stored(self, name: str) -> NDArray[Any]:
        return self._ordered(name, super().stored(name))

    def _ordered(self, name: str, values: NDArray[Any]) -> NDArray[Any]:
        if not self._width or not name.endswith(_TURNED):
            return values
        heads = values.reshape(-1, self._width, *values.shape[1:])
        return np.concatenate((heads[:, ::2], heads[:, 1::2]), 1).reshape(values.shape)


def _matrix(name: str, kind: str, schemes: Schemes, shape: tuple[int, int]) -> PackedTensor:
    return PackedTensor(name, kind, (Matrix((Source(name, shape),), schemes.of(kind)),))


def _float(name: str, shape: tuple[int, ...]) -> PackedTensor:
    return PackedTensor(name, FLOAT_CLASS, floats=Source(name, shape))
