"""What many families have in common: keys of configs, and names of tensors on the hub.

A family's file takes from here what its models share, and says the rest. Knows no family.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from edge_lfm.architectures.reader import MAX_VALUES, ConfigReader
from edge_lfm.shape import Attention, Layer, Rope, Router, Shape, Yarn

FULL_ATTENTION = "full_attention"
_ACTIVATIONS = ("silu", "swish")

NAMES: Mapping[str, str] = {
    "model.embedding_norm.weight": "model.norm.weight",
    "operator_norm.weight": "input_layernorm.weight",
    "self_attn.out_proj.weight": "self_attn.o_proj.weight",
    "self_attn.q_layernorm.weight": "self_attn.q_norm.weight",
    "self_attn.k_layernorm.weight": "self_attn.k_norm.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
    "feed_forward.w1.weight": "mlp.gate_proj.weight",
    "feed_forward.w3.weight": "mlp.up_proj.weight",
    "feed_forward.w2.weight": "mlp.down_proj.weight",
    "feed_forward.gate.weight": "mlp.gate.weight",
    "feed_forward.experts.{e}.w1.weight": "mlp.experts.{e}.gate_proj.weight",
    "feed_forward.experts.{e}.w3.weight": "mlp.experts.{e}.up_proj.weight",
    "feed_forward.experts.{e}.w2.weight": "mlp.experts.{e}.down_proj.weight",
}
"""Canonical name -> the hub's, as `Family.names`."""


def describe(
    config: ConfigReader, layers: list[Layer], *, eps_default: float, context_default: int, embed_scale: float = 1.0
) -> Shape:
    """The shape of a model with these layers; the config says the rest."""
    bos = config.ids("bos_token_id")
    return Shape(
        vocab=config.number("vocab_size"),
        hidden=config.number("hidden_size"),
        eps=config.real("rms_norm_eps", default=eps_default),
        layers=tuple(layers),
        tied=config.flag("tie_word_embeddings", default=False),
        context=config.number("max_position_embeddings", default=context_default),
        bos=bos[0] if bos else None,
        eos=config.ids("eos_token_id"),
        embed_scale=embed_scale,
    )


def read_attention(
    config: ConfigReader, width: int | None, *, qk_norm: Literal["none", "head", "all"], bias: bool = False
) -> Attention:
    """Attention of every layer over all positions. width: of a head where no head_dim is stated; None: the share of
    the hidden size."""
    heads, kv_heads, width = read_heads(config, width)
    check_full_attention(config)
    return Attention(heads, kv_heads, width, read_rope(config, width), qk_norm, bias=bias)


def read_heads(config: ConfigReader, width: int | None) -> tuple[int, int, int]:
    """Heads, heads of keys and values, and a head's width; `width` as in `read_attention`."""
    heads, kv_heads = config.number("num_attention_heads"), config.number("num_key_value_heads")
    hidden = config.number("hidden_size")
    width = config.number("head_dim", default=width or max(1, hidden // heads))
    if heads % kv_heads:
        raise config.refuse(f"num_attention_heads {heads} is no multiple of num_key_value_heads {kv_heads}")
    if width % 2:
        raise config.refuse(f"head_dim {width} is odd, which RoPE cannot turn")
    return heads, kv_heads, width


def read_rope(config: ConfigReader, width: int, of: int | None = None) -> Rope:
    """Rotary positions; configs of transformers 5 state theta in `rope_parameters` only.

    width: values of a head that turn, the first ones. of: the head's width; None: whole heads turn.
    """
    parameters = config.rope_section()
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    if kind not in ("default", "yarn"):
        raise config.refuse(f"rope_type {kind!r} is not implemented, only default and yarn")
    expected = width / (of or width)
    share = parameters.get("partial_rotary_factor", config.raw.get("partial_rotary_factor"))
    if share not in (None, expected):
        raise config.refuse(f"partial_rotary_factor {share!r} is not implemented, only {expected:g}")
    theta = parameters.get("rope_theta", config.raw.get("rope_theta", config.raw.get("theta")))
    if theta is None:  # 1e4, 1e6, 5e6 and 1e7 are published: a guess would answer in plausible nonsense
        raise config.refuse("rope_theta is missing, in rope_parameters and outside")
    rope = Rope(config.positive("rope_theta", theta), width)
    if kind == "default":
        return rope
    return replace(rope, scaling=_read_yarn(config, parameters), magnitude=_magnitude(config, parameters))


def _read_yarn(config: ConfigReader, parameters: Mapping[str, Any]) -> Yarn:
    """The scaling that rope parameters of the type yarn ask for."""
    for name in ("factor", "original_max_position_embeddings"):
        if parameters.get(name) is None:
            raise config.refuse(f"{name} is missing beside rope_type 'yarn'")
    original, truncate = parameters["original_max_position_embeddings"], parameters.get("truncate", True)
    if type(original) is not int or not 1 <= original <= MAX_VALUES["max_position_embeddings"]:
        raise config.refuse(f"original_max_position_embeddings is {original!r:.40}, expected a number of positions")
    if type(truncate) is not bool:
        raise config.refuse(f"truncate is {truncate!r:.40}, expected true or false")
    fast, slow = (parameters.get(name) or value for name, value in (("beta_fast", 32.0), ("beta_slow", 1.0)))
    return Yarn(
        config.positive("factor", parameters["factor"]),
        original,
        config.positive("beta_fast", fast),
        config.positive("beta_slow", slow),
        truncate,
    )


def _magnitude(config: ConfigReader, parameters: Mapping[str, Any]) -> float:
    """What YaRN multiplies cosines and sines by: stated, or from the factor."""
    if parameters.get("attention_factor") is not None:
        return config.positive("attention_factor", parameters["attention_factor"])
    factor = config.positive("factor", parameters["factor"])
    each, all_dims = parameters.get("mscale"), parameters.get("mscale_all_dim")
    if not each or not all_dims:
        return _grown(factor, 1.0)
    return _grown(factor, config.positive("mscale", each)) / _grown(factor, config.positive("mscale_all_dim", all_dims))


def _grown(factor: float, scale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0


def read_router(config: ConfigReader) -> Router:
    """A softmax over all experts; the weights of the chosen are divided by their sum if `norm_topk_prob` says so."""
    experts = config.number("num_experts", "num_local_experts")
    return Router(
        experts,
        read_top_k(config, experts),
        score="softmax",
        selection_bias=False,
        normalize=config.flag("norm_topk_prob", default=False),
        guard=0.0,
        scale=1.0,
    )


def read_top_k(config: ConfigReader, experts: int) -> int:
    """Experts that a token goes to, of so many."""
    top_k = config.number("num_experts_per_tok")
    if top_k > experts:
        raise config.refuse(f"num_experts_per_tok {top_k} is more than num_experts {experts}")
    return top_k


def check_activation(config: ConfigReader, *names: str) -> None:
    """Refuse a model whose FFN is not gated by silu."""
    for name in names:
        activation = config.raw.get(name)
        if activation is not None and activation not in _ACTIVATIONS:
            raise config.refuse(f"{name} {activation!r} is not implemented, only silu")


def check_full_attention(config: ConfigReader) -> None:
    """Refuse a model in which a layer attends to a window."""
    if config.flag("use_sliding_window", default=False):
        raise config.refuse("use_sliding_window true is not implemented")
    types = config.raw.get("layer_types") or []
    if not isinstance(types, list):
        raise config.refuse(f"layer_types is {types!r:.40}, expected a list")
    for kind in types:
        if kind != FULL_ATTENTION:
            raise config.refuse(f"layer type {kind!r} is not implemented, only {FULL_ATTENTION}")


def check_layer_types(config: ConfigReader, types: object, count: int, known: tuple[str, ...]) -> list[str]:
    """`layer_types`, if it is a list of `count` names that are known."""
    if not isinstance(types, list) or len(types) != count:
        raise config.refuse(f"layer_types must be a list of num_hidden_layers = {count} names")
    for name in types:
        if name not in known:
            raise config.refuse(f"layer type {name!r:.40} is not implemented, only {' and '.join(known)}")
    return types


def check_only(config: ConfigReader, only: Mapping[str, tuple[object, ...]]) -> None:
    """Refuse values other than those listed of each key; null and what is missing are no value."""
    for name, values in only.items():
        value = config.raw.get(name)
        if value is not None and value not in values:
            raise config.refuse(f"{name} {value!r:.40} is not implemented")


def check_false(config: ConfigReader, *names: str) -> None:
    """Refuse what is not implemented, and switched on."""
    for name in names:
        if config.flag(name, default=False):
            raise config.refuse(f"{name} true is not implemented")
