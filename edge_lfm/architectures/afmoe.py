"""The family AFMoE, Arcee's Trinity: what its `config.json` means, and names.

Layers that attend to a window turn their heads; those that attend to all positions carry none. Every branch has a norm
before and one behind it, attention a gate for each value, sparse layers a dense FFN beside their experts.

Source: transformers 5.24, `configuration_afmoe.py`, `modeling_afmoe.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from edge_lfm.architectures import decoder
from edge_lfm.architectures.afmoe_gguf import FULL, GGUF, MODEL_TYPE, ROUTER_GUARD, SLIDING
from edge_lfm.architectures.family import Family
from edge_lfm.architectures.reader import ConfigReader
from edge_lfm.shape import Attention, Ffn, Layer, Router, Shape

_HEAD_WIDTH = 128
"""Where the config does not say."""
_SPARSE: Mapping[str, str] = {
    "feed_forward.gate.weight": "mlp.router.gate.weight",
    "feed_forward.expert_bias": "mlp.expert_bias",
    "feed_forward.shared.w1.weight": "mlp.shared_experts.gate_proj.weight",
    "feed_forward.shared.w3.weight": "mlp.shared_experts.up_proj.weight",
    "feed_forward.shared.w2.weight": "mlp.shared_experts.down_proj.weight",
}
_NORMS: Mapping[str, str] = {  # elsewhere `post_attention_layernorm` is the norm before the FFN
    "post_operator_norm.weight": "post_attention_layernorm.weight",
    "ffn_norm.weight": "pre_mlp_layernorm.weight",
    "post_ffn_norm.weight": "post_mlp_layernorm.weight",
}
NAMES: Mapping[str, str] = {**decoder.NAMES, **_SPARSE, **_NORMS}
"""Canonical name -> the hub's, as `Family.names`."""
_ONLY: Mapping[str, tuple[object, ...]] = {
    "score_func": ("sigmoid",),
    "route_norm": (True,),
    "n_group": (1,),
    "topk_group": (1,),
    "num_expert_groups": (1,),
    "num_limited_groups": (1,),
}
"""Keys of published files that have one meaning here; null is none."""


def read(config: ConfigReader) -> Shape:
    """The shape that a config describes.

    Raises:
        UnsupportedModelError: a value asks for something that is not implemented.
    """
    decoder.check_activation(config, "hidden_act")
    decoder.check_false(config, "attention_bias")
    decoder.check_only(config, _ONLY)
    count = config.number("num_hidden_layers")
    types = _layer_types(config, count)
    operators = {kind: _attention(config, kind) for kind in dict.fromkeys(types)}
    ffns = _ffns(config, count)
    layers = [Layer(operators[kind], ffn, post_norms=True) for kind, ffn in zip(types, ffns, strict=True)]
    scale = math.sqrt(config.number("hidden_size")) if config.flag("mup_enabled", default=False) else 1.0
    return decoder.describe(config, layers, eps_default=1e-5, context_default=16384, embed_scale=scale)


def _layer_types(config: ConfigReader, count: int) -> list[str]:
    types = config.raw.get("layer_types")
    if types is None:  # the rule of AfmoeConfig
        every = config.number("global_attn_every_n_layers", default=4)
        return [SLIDING if (n + 1) % every else FULL for n in range(count)]
    return decoder.check_layer_types(config, types, count, (FULL, SLIDING))


def _attention(config: ConfigReader, kind: str) -> Attention:
    """Of a kind of layers: positions belong to a window."""
    heads, kv_heads, width = decoder.read_heads(config, _HEAD_WIDTH)
    rope, window = None, None
    if kind == SLIDING:
        rope, window = decoder.read_rope(config, width), config.number("sliding_window")
    return Attention(heads, kv_heads, width, rope, qk_norm="head", window=window, gate="value")


def _ffns(config: ConfigReader, count: int) -> list[Ffn]:
    """The FFN of each layer: the first ones are dense."""
    dense = min(config.number("num_dense_layers", default=1, least=0), count)
    plain = [Ffn(config.number("intermediate_size"))] * dense
    if dense == count:
        return plain
    width, shared = config.number("moe_intermediate_size"), config.number("num_shared_experts", least=0)
    return plain + [Ffn(width, _router(config), shared=shared * width)] * (count - dense)


def _router(config: ConfigReader) -> Router:
    experts = config.number("num_experts")
    return Router(
        experts,
        decoder.read_top_k(config, experts),
        score="sigmoid",
        selection_bias=True,
        normalize=True,
        guard=ROUTER_GUARD,
        scale=config.real("route_scale", default=1.0),
    )


FAMILY = Family(model_types=(MODEL_TYPE,), read=read, gguf=GGUF, names=NAMES)
