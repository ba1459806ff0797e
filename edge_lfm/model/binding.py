"""A packed model's tensors as the layer records that the compiled kernels read. Addresses, no copies.

Knows where each tensor goes in a layer. `keep` holds the arrays behind the addresses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_lfm.kernels.spec.layout import LAYER, MATRIX
from edge_lfm.kernels.spec.schemes import FLOAT32, SCHEMES
from edge_lfm.model.latent_binding import latent_record
from edge_lfm.model.packed_model import PackedModel
from edge_lfm.model.plan import dense_name, expert_name, head_name, shared_name
from edge_lfm.model.rotary import RotaryTables
from edge_lfm.shape import Attention, Ffn, Gated, LatentAttention


@dataclass(frozen=True)
class Screen:
    """A copy of the head in fewer bits: its MATRIX record [1].

    bounds: float32 [rows]; no logit is further from the head's than its row's bound times the norm of the activations.
    """

    matrix: NDArray[Any]
    bounds: NDArray[np.float32]


@dataclass(frozen=True)
class Binding:
    """`layers`: LAYER records [N]; `embedding` and `head`: MATRIX records [1]; `final_norm`: float32 [H]."""

    layers: NDArray[Any]
    embedding: NDArray[Any]
    head: NDArray[Any]
    final_norm: NDArray[np.float32]
    keep: list[NDArray[Any]]
    tables: dict[int, NDArray[np.int64]]
    """Of each layer that has experts, their addresses [E]; a pager changes them."""
    rotary: RotaryTables
    screen: Screen | None = None


def bind(model: PackedModel) -> Binding:
    """The records of every layer."""
    binder = Binder(model)
    layers = binder.bind_layers()
    embedding = binder.matrix("model.embed_tokens.weight")
    head = binder.matrix(head_name(model.shape))
    final_norm = model.floats("model.embedding_norm.weight")
    ropes = {n: attention.rope for n, attention in model.shape.keeping.items() if attention.rope is not None}
    rotary, screen = RotaryTables(layers, ropes), binder.screen(head_name(model.shape))
    return Binding(layers, embedding, head, final_norm, binder.keep, binder.tables, rotary, screen)


class Binder:
    """Makes records; `keep` and `tables` as of `Binding`."""

    def __init__(self, model: PackedModel) -> None:
        self.model = model
        self.keep: list[NDArray[Any]] = []
        self.tables: dict[int, NDArray[np.int64]] = {}

    def address(self, array: NDArray[Any]) -> int:
        self.keep.append(array)
        return array.ctypes.data

    def floats(self, name: str) -> int:
        """The address of a float32 tensor, or 0 if the model has none of that name."""
        return self.address(self.model.floats(name)) if self.model.has(name) else 0

    def padded(self, name: str) -> int:
        """The address of a copy of a float32 tensor that kernels read 16 numbers at a time."""
        numbers = self.model.floats(name)
        return self.address(np.pad(numbers, (0, -len(numbers) % 16)))

    def matrix(self, name: str, bias: str = "") -> NDArray[Any]:
        matrix = self.model.tensors[name].matrices[0]
        record = np.zeros(1, MATRIX)
        record["scheme"], record["rows"], record["cols"] = SCHEMES[matrix.scheme].id, matrix.rows, matrix.cols
        record["address"] = self.address(self.model.bytes_of(name))
        record["bias"] = self.floats(bias) if bias else 0
        return record

    def screen(self, name: str) -> Screen | None:
        """The screen of the head, if it has one."""
        tensor = self.model.tensors[name]
        if tensor.screen is None:
            return None
        head = tensor.matrices[0].nbytes
        behind = self.model.bytes_of(name)[head:]
        record = self.matrix(name)
        record["scheme"] = SCHEMES[tensor.screen.scheme].id
        record["address"] += head
        return Screen(record, behind[tensor.screen.nbytes :].view(np.float32))

    def bind_layers(self) -> NDArray[Any]:
        """LAYER records of all layers."""
        layers = np.zeros(len(self.model.shape.layers), LAYER)
        for n in range(len(layers)):
            self.bind_layer(layers[n : n + 1], n)
        return layers

    def bind_layer(self, layer: NDArray[Any], n: int) -> None:
        at = f"model.layers.{n}"
        layer["operator_norm"] = self.floats(f"{at}.operator_norm.weight")
        layer["ffn_norm"] = self.floats(f"{at}.ffn_norm.weight")
        layer["post_operator_norm"] = self.floats(f"{at}.post_operator_norm.weight")
        layer["post_ffn_norm"] = self.floats(f"{at}.post_ffn_norm.weight")
        operator = self.model.shape.layers[n].operator
        if isinstance(operator, Attention):
            layer["is_attention"] = 1
            layer["heads"], layer["kv_heads"], layer["head_dim"] = operator.heads, operator.kv_heads, operator.width
            layer["rope_width"] = operator.rope.width if operator.rope else 0
            layer["window"] = operator.window or 0
            layer["norm_all"], layer["norm_last"] = operator.qk_norm == "all", operator.norm_after_rope
            layer["in_proj"] = self.matrix(f"{at}.self_attn.qkv_proj.weight")
            if operator.bias:
                biases = np.concatenate([self.model.floats(f"{at}.self_attn.{p}_proj.bias") for p in "qkv"])
                layer["in_proj"]["bias"] = self.address(biases)
            layer["out_proj"] = self.matrix(f"{at}.self_attn.out_proj.weight", f"{at}.self_attn.out_proj.bias")
            if operator.sinks:
                layer["sinks"] = self.padded(f"{at}.self_attn.sinks")
            if operator.gate != "none":
                layer["gate"] = self.matrix(f"{at}.self_attn.gate_proj.weight")
            layer["q_norm"] = self.floats(f"{at}.self_attn.q_layernorm.weight")
            layer["k_norm"] = self.floats(f"{at}.self_attn.k_layernorm.weight")
        elif isinstance(operator, LatentAttention):
            layer["rope_width"] = operator.rope.width
            layer["in_proj"] = self.matrix(f"{at}.self_attn.in_proj.weight")
            layer["out_proj"] = self.matrix(f"{at}.self_attn.out_proj.weight")
            record = latent_record(operator, f"{at}.self_attn", self.matrix, self.floats)
            layer["latent"] = self.address(record)
        else:
            layer["in_proj"] = self.matrix(f"{at}.conv.in_proj.weight", f"{at}.conv.in_proj.bias")
            layer["out_proj"] = self.matrix(f"{at}.conv.out_proj.weight", f"{at}.conv.out_proj.bias")
            taps = np.ascontiguousarray(self.model.floats(f"{at}.conv.conv.weight")[:, 0].T)  # [L, H]
            layer["conv_width"], layer["taps"] = len(taps), self.address(taps)
            layer["taps_bias"] = self.floats(f"{at}.conv.conv.bias")
        self.bind_ffn(layer, n)

    def bind_ffn(self, layer: NDArray[Any], n: int) -> None:
        ffn, at = self.model.shape.layers[n].ffn, f"model.layers.{n}.feed_forward"
        router = ffn.router
        names = [dense_name(n)]
        if router is not None:
            names = [expert_name(n, e) for e in range(router.experts)]
            layer["is_moe"] = 1
            layer["router"] = self.matrix(f"{at}.gate.weight")
            assert layer["router"]["scheme"] == FLOAT32.id
            if router.bias:
                layer["router"]["bias"] = self.padded(f"{at}.gate.bias")
            if router.selection_bias:
                layer["router_bias"] = self.padded(f"{at}.expert_bias")
            layer["softmax"], layer["normalize"] = router.score == "softmax", router.normalize
            layer["groups"], layer["kept_groups"] = router.groups, router.kept_groups
            layer["guard"], layer["route_scale"] = router.guard, router.scale
        if ffn.shared:
            layer["shared"] = self.address(self.shared(layer, n))
        blocks = self.bind_blocks(layer, names, ffn)
        if router is not None:
            self.tables[n] = blocks

    def shared(self, layer: NDArray[Any], n: int) -> NDArray[Any]:
        """The LAYER record of the dense FFN beside a layer's experts, which adds to the same sum."""
        record = np.zeros(1, LAYER)
        record["post_ffn_norm"] = layer["post_ffn_norm"]
        self.bind_blocks(record, [shared_name(n)], self.model.shape.layers[n].ffn)
        return record

    def bind_blocks(self, layer: NDArray[Any], names: list[str], ffn: Ffn) -> NDArray[np.int64]:
        """Where the blocks of an FFN lie, one for each expert, and how they are laid out. Returns their addresses."""
        blocks = np.array([self.address(self.model.bytes_of(name)) for name in names], np.int64)
        layer["experts"] = self.address(blocks)
        gate_up, down = self.model.tensors[names[0]].matrices
        layer["gate_up_scheme"], layer["down_scheme"] = SCHEMES[gate_up.scheme].id, SCHEMES[down.scheme].id
        layer["expert_width"], layer["ffn_bias"], layer["clamped"] = down.cols, ffn.bias, ffn.gated != Gated()
        layer["gate_alpha"], layer["gate_plus"] = ffn.gated.alpha, ffn.gated.plus
        layer["gate_limit"] = np.inf if ffn.gated.limit is None else ffn.gated.limit
        return blocks
