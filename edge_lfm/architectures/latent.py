"""What families with latent attention have in common: keys of configs, names of tensors on the hub. Knows no family.

Source: transformers 5.24, `modeling_deepseek_v3.py`, which `modeling_glm4_moe_lite.py` is made from.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from edge_lfm.architectures import decoder
from edge_lfm.architectures.reader import ConfigReader
from edge_lfm.shape import Ffn, LatentAttention, Layer, Router, Shape

DRAFTING_LAYERS = "num_nextn_predict_layers"
"""How many layers of a checkpoint stand behind the last one and guess further tokens: they are left out."""
NAMES: Mapping[str, str] = {
    **decoder.NAMES,
    "self_attn.kv_a_proj.weight": "self_attn.kv_a_proj_with_mqa.weight",
    "self_attn.k_b_proj.weight": "self_attn.kv_b_proj.weight",
    "self_attn.v_b_proj.weight": "self_attn.kv_b_proj.weight",
    "feed_forward.expert_bias": "mlp.gate.e_score_correction_bias",
    "feed_forward.shared.w1.weight": "mlp.shared_experts.gate_proj.weight",
    "feed_forward.shared.w3.weight": "mlp.shared_experts.up_proj.weight",
    "feed_forward.shared.w2.weight": "mlp.shared_experts.down_proj.weight",
}
"""Canonical name -> the hub's, as `Family.names`; two canonical tensors are cut from one, kv_b_proj."""
LATENT_EPS = 1e-6
"""Of the norms of latents: their class's own, whatever the config says of the others."""
_GUARD = 1e-20
_ONLY: Mapping[str, tuple[object, ...]] = {
    "scoring_func": ("sigmoid",),
    "topk_method": ("noaux_tc",),
    "moe_layer_freq": (1,),
    "ep_size": (1,),
    "use_sliding_window": (False,),
    "sliding_window": (),
}
"""Keys of published files that have one meaning here; null is none."""


def read(config: ConfigReader, sparse: list[bool], *, eps_default: float, context_default: int) -> Shape:
    """The shape that a config describes; sparse: of each layer, whether it has experts.

    Raises:
        UnsupportedModelError: a value asks for something that is not implemented.
    """
    decoder.check_activation(config, "hidden_act")
    decoder.check_false(config, "attention_bias")
    decoder.check_only(config, _ONLY)
    attention = _attention(config)
    dense = None if all(sparse) else Ffn(config.number("intermediate_size"))
    experts = _experts(config) if any(sparse) else None
    ffns = [experts if with_experts else dense for with_experts in sparse]
    layers = [Layer(attention, ffn) for ffn in ffns if ffn is not None]
    return decoder.describe(config, layers, eps_default=eps_default, context_default=context_default)


def _attention(config: ConfigReader) -> LatentAttention:
    heads, turned = config.number("num_attention_heads"), config.number("qk_rope_head_dim")
    plain, value = config.number("qk_nope_head_dim"), config.number("v_head_dim")
    if turned % 2:
        raise config.refuse(f"qk_rope_head_dim {turned} is odd, which RoPE cannot turn")
    for name, expected in (("num_key_value_heads", heads), ("head_dim", turned), ("qk_head_dim", plain + turned)):
        if config.raw.get(name) not in (None, expected):
            raise config.refuse(f"{name} {config.raw[name]!r:.40} is not implemented, only {expected}")
    if "q_lora_rank" not in config.raw:
        raise config.refuse("q_lora_rank is missing; null: queries are made of the layer's input")
    return LatentAttention(
        heads,
        None if config.raw["q_lora_rank"] is None else config.number("q_lora_rank"),
        config.number("kv_lora_rank"),
        plain,
        value,
        decoder.read_rope(config, turned),
        LATENT_EPS,
        _scale(config, plain + turned),
        interleaved=config.flag("rope_interleave", default=True),
    )


def _scale(config: ConfigReader, width: int) -> float:
    """Of scores: the root of a query's width, and the square of what YaRN multiplies all dimensions by."""
    parameters = config.rope_section()
    scale, all_dims = 1 / math.sqrt(width), parameters.get("mscale_all_dim")
    if parameters.get("rope_type", parameters.get("type", "default")) == "default" or not all_dims:
        return scale
    factor = config.positive("factor", parameters.get("factor"))
    grown = 1.0 if factor <= 1 else 0.1 * config.positive("mscale_all_dim", all_dims) * math.log(factor) + 1.0
    return scale * grown * grown


def _experts(config: ConfigReader) -> Ffn:
    width, shared = config.number("moe_intermediate_size"), config.number("n_shared_experts", least=0)
    return Ffn(width, _router(config), shared=shared * width)


def _router(config: ConfigReader) -> Router:
    experts = config.number("n_routed_experts", "num_experts", "num_local_experts")
    top_k = decoder.read_top_k(config, experts)
    groups, kept = config.number("n_group", default=1), config.number("topk_group", default=1)
    if experts % groups or experts // groups < (1 if groups == 1 else 2):
        raise config.refuse(f"n_group {groups} does not divide {experts} experts into groups of two or more")
    if kept > groups or top_k > kept * (experts // groups):
        raise config.refuse(f"topk_group {kept} of n_group {groups} cannot give num_experts_per_tok {top_k}")
    if config.raw.get("routed_scaling_factor") is None:
        raise config.refuse("routed_scaling_factor is missing")
    return Router(
        experts,
        top_k,
        score="sigmoid",
        selection_bias=True,
        normalize=config.flag("norm_topk_prob", default=True),
        guard=_GUARD,
        scale=config.real("routed_scaling_factor", default=1.0),
        groups=groups,
        kept_groups=kept,
    )
