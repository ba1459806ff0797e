"""The family Hunyuan, Tencent's sparse models: what its `config.json` means, and names.

Queries and keys are normed after they are turned; every layer has experts, chosen by a softmax, beside a dense FFN.
Configs state a number for each layer where others state one for all.

Source: transformers 5.24, `configuration_hunyuan_v1_moe.py`, `modeling_hunyuan_v1_moe.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from edge_lfm.architectures import decoder
from edge_lfm.architectures.family import Family, TiktokenFile
from edge_lfm.architectures.hunyuan_gguf import CLASS, FIRST_TYPE, GGUF, MODEL_TYPE
from edge_lfm.architectures.reader import ConfigReader
from edge_lfm.shape import Attention, Ffn, Layer, Rope, Router, Shape

NAMES: Mapping[str, str] = {
    **decoder.NAMES,
    "self_attn.q_layernorm.weight": "self_attn.query_layernorm.weight",
    "self_attn.k_layernorm.weight": "self_attn.key_layernorm.weight",
    "feed_forward.gate.weight": "mlp.gate.wg.weight",
    "feed_forward.shared.w1.weight": "mlp.shared_mlp.gate_proj.weight",
    "feed_forward.shared.w3.weight": "mlp.shared_mlp.up_proj.weight",
    "feed_forward.shared.w2.weight": "mlp.shared_mlp.down_proj.weight",
}
"""Canonical name -> the hub's, as `Family.names`."""
_ONLY: Mapping[str, tuple[object, ...]] = {
    "use_qk_norm": (True,),
    "use_rotary_pos_emb": (True,),
    "use_mixed_mlp_moe": (True,),
    "norm_topk_prob": (True,),
    "routed_scaling_factor": (1,),
    "moe_layer_num_skipped": (0,),
}
"""Keys of published files that have one meaning here; null is none."""
_OFF = ("attention_bias", "mlp_bias", "use_cla", "use_mla", "group_limited_greedy", "position_embedding_xdrope")
_NTK = "dynamic"
"""What published files call a base that is multiplied once, whatever the length of a text."""
_MAX_ALPHA = 1e6
"""Far above any published one, and far below what a power of it may overflow."""
_UNUSED = {"factor": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0}
"""Keys beside `alpha` that transformers does not read, and the only values that published files give them."""
_NAMED = ("endoftext", "startoftext", "bos", "eos", "pad")
_TIKTOKEN = TiktokenFile("hy.tiktoken", tuple(f"<|{name}|>" for name in (*_NAMED, *(f"extra_{n}" for n in range(205)))))


def read(config: ConfigReader) -> Shape:
    """The shape that a config describes.

    Raises:
        UnsupportedModelError: a value asks for something that is not implemented.
    """
    decoder.check_activation(config, "hidden_act")
    decoder.check_false(config, *_OFF)
    decoder.check_only(config, _ONLY)
    decoder.check_full_attention(config)
    attention = _attention(config)
    layers = [Layer(attention, ffn) for ffn in _ffns(config, config.number("num_hidden_layers"))]
    return decoder.describe(config, layers, eps_default=1e-5, context_default=2048)


def _attention(config: ConfigReader) -> Attention:
    names = ("head_dim", "attention_head_dim")
    stated = {config.number(name) for name in names if config.raw.get(name) is not None}
    if len(stated) > 1:
        raise config.refuse("head_dim {head_dim} is not attention_head_dim {attention_head_dim}".format(**config.raw))
    heads, kv_heads, width = decoder.read_heads(config, max(stated, default=None))
    return Attention(heads, kv_heads, width, _rope(config, width), "head", norm_after_rope=True)


def _rope(config: ConfigReader, width: int) -> Rope:
    """Rotary positions; theta times alpha**(width / (width - 2)), as `compute_ntk_alpha_rope_parameters` has it."""
    parameters = config.rope_section()
    if parameters.get("rope_type", parameters.get("type")) != _NTK:
        return decoder.read_rope(config, width)
    if parameters.get("alpha") is None:
        raise config.refuse(f"rope_type {_NTK!r} without alpha is not implemented")
    for name, only in _UNUSED.items():
        if parameters.get(name) not in (None, only):
            raise config.refuse(f"{name} {parameters[name]!r:.40} beside alpha is not implemented, only {only:g}")
    plain = {"rope_theta": parameters.get("rope_theta", config.raw.get("rope_theta"))}
    known = {name: value for name, value in config.raw.items() if name != "rope_scaling"} | {"rope_parameters": plain}
    rope = decoder.read_rope(ConfigReader(known, config.where, config.hint), width)
    alpha = config.positive("alpha", parameters["alpha"])
    if alpha > _MAX_ALPHA or width < 4:
        raise config.refuse(f"alpha {alpha:g} for heads of {width} values is not implemented")
    return replace(rope, theta=config.positive("rope_theta", rope.theta * alpha ** (width / (width - 2))))


def _ffns(config: ConfigReader, count: int) -> list[Ffn]:
    """The FFN of each layer."""
    dense = config.number("intermediate_size")
    widths = _each(config, "moe_intermediate_size", count, default=dense)
    shared = _each(config, "num_shared_expert", count, default=1)
    experts, chosen = _each(config, "num_experts", count), _each(config, "moe_topk", count)
    for n, (all_of_them, top_k) in enumerate(zip(experts, chosen, strict=True)):
        if top_k > all_of_them:
            raise config.refuse(f"moe_topk {top_k} is more than num_experts {all_of_them} in layer {n}")
    routers = [_router(all_of_them, top_k) for all_of_them, top_k in zip(experts, chosen, strict=True)]
    return [
        Ffn(width, router, shared=dense * many) for width, router, many in zip(widths, routers, shared, strict=True)
    ]


def _router(experts: int, top_k: int) -> Router:
    return Router(experts, top_k, "softmax", selection_bias=False, normalize=True, guard=0.0, scale=1.0)


def _each(config: ConfigReader, name: str, count: int, default: int | None = None) -> list[int]:
    """A number for each layer: a list says it of each, a number of all."""
    values = config.raw.get(name)
    if not isinstance(values, list):
        return [config.number(name, default=default)] * count
    if len(values) != count:
        raise config.refuse(f"{name} must be a number or a list of num_hidden_layers = {count} numbers")
    return [ConfigReader({name: value}, config.where, config.hint).number(name) for value in values]


FAMILY = Family(
    model_types=(MODEL_TYPE, FIRST_TYPE), read=read, gguf=GGUF, names=NAMES, class_name=CLASS, tiktoken=_TIKTOKEN
)
