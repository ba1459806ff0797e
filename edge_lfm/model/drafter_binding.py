"""A packed drafter as the records that compiled kernels read; embedding and head are its target's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_lfm.kernels.spec.schemes import SCHEMES
from edge_lfm.model import drafter_plan as names
from edge_lfm.model.binding import Binder, Binding
from edge_lfm.model.packed_drafter import PackedDrafter
from edge_lfm.model.rotary import RotaryTables


@dataclass(frozen=True)
class DrafterBinding:
    """`binding`: as of a model, for blocks of drafts. Others are MATRIX records [1], and hidden_norm float32 [H].

    keys_values: of each layer, the rows of its first matrix that make keys and values.
    reading: the layers again, without queries: what of a token is kept.
    """

    binding: Binding
    reading: NDArray[Any]
    keys_values: list[NDArray[Any]]
    fc: NDArray[Any]
    hidden_norm: NDArray[np.float32]
    markov_in: NDArray[Any]
    markov_out: NDArray[Any]


def bind_drafter(packed: PackedDrafter, target: Binding) -> DrafterBinding:
    """The records of a drafter for the model that `target` is of."""
    binder, shape = Binder(packed), packed.shape
    layers = binder.bind_layers()
    ropes = {n: attention.rope for n, attention in shape.attentions.items() if attention.rope is not None}
    binding = Binding(
        layers,
        target.embedding,
        target.head,
        packed.floats(names.NORM),
        binder.keep,
        binder.tables,
        RotaryTables(layers, ropes),
    )
    reading, keys_values = layers.copy(), []
    reading["heads"] = 0
    for n, attention in shape.attentions.items():
        name = f"model.layers.{n}.self_attn.qkv_proj.weight"
        matrix, scheme = binder.matrix(name), SCHEMES[packed.tensors[name].matrices[0].scheme]
        skipped = attention.heads * attention.width
        matrix["address"] += scheme.matrix_bytes(skipped, shape.hidden)
        matrix["rows"] -= skipped
        keys_values.append(matrix)
    fc, markov_in, markov_out = (binder.matrix(name) for name in (names.FC, names.MARKOV_IN, names.MARKOV_OUT))
    return DrafterBinding(binding, reading, keys_values, fc, packed.floats(names.HIDDEN_NORM), markov_in, markov_out)
