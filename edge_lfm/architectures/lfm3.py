"""The family LFM3: short convolutions, attention over all positions and over a window, norms behind both branches.

Source: transformers 5.24, `configuration_lfm3.py`, `modeling_lfm3.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edge_lfm.architectures import decoder
from edge_lfm.architectures.family import Family
from edge_lfm.architectures.lfm3_gguf import CONV, FULL, GGUF, MODEL_TYPE, SLIDING
from edge_lfm.architectures.reader import ConfigReader
from edge_lfm.shape import Attention, Ffn, Layer, Rope, Shape, ShortConv

_HEAD_WIDTH = 128
"""Where the config does not say."""
NAMES: Mapping[str, str] = {
    "self_attn.out_proj.weight": "self_attn.o_proj.weight",
    "self_attn.q_layernorm.weight": "self_attn.q_norm.weight",
    "self_attn.k_layernorm.weight": "self_attn.k_norm.weight",
}
"""Canonical name -> the hub's, as `Family.names`; all others are LFM2's."""


def read(config: ConfigReader) -> Shape:
    """The shape that a config describes.

    Raises:
        UnsupportedModelError: a value asks for something that is not implemented.
    """
    decoder.check_activation(config, "hidden_act")
    decoder.check_false(config, "attention_bias")
    _check_generates(config)
    count = config.number("num_hidden_layers")
    conv = ShortConv(config.number("conv_L_cache", default=7, greatest=64), config.flag("conv_bias", default=False))
    types = _layer_types(config, count)
    operators = {CONV: conv} | {kind: _attention(config, kind) for kind in {*types} - {CONV}}
    ffn, post_norms = Ffn(config.number("intermediate_size")), config.flag("use_sandwich_norm", default=True)
    bos = config.ids("bos_token_id")
    return Shape(
        vocab=config.number("vocab_size"),
        hidden=config.number("hidden_size"),
        eps=config.real("norm_eps", "rms_norm_eps", default=1e-5),
        layers=tuple(Layer(operators[kind], ffn, post_norms) for kind in types),
        tied=config.flag("tie_word_embeddings", default=True),
        context=config.number("max_position_embeddings", default=128_000),
        bos=bos[0] if bos else None,
        eos=config.ids("eos_token_id"),
    )


def _check_generates(config: ConfigReader) -> None:
    """Refuse a decision model: it answers with scores of options and reads its prompt in both directions."""
    for name in config.raw:
        if name.startswith("decision"):
            raise config.refuse(f"{name} is set: a decision model, which generates no text, is not implemented")
    for name in ("is_causal", "causal"):
        if not config.flag(name, default=True):
            raise config.refuse(f"{name} false is not implemented: attention reads the prompt in one direction")


def _layer_types(config: ConfigReader, count: int) -> list[str]:
    types = config.raw.get("layer_types")
    if types is None:  # the rule of Lfm3Config
        return [FULL if n % 4 == 2 else SLIDING if n % 4 == 0 and n else CONV for n in range(count)]
    if not isinstance(types, list) or len(types) != count:
        raise config.refuse(f"layer_types must be a list of num_hidden_layers = {count} names")
    for name in types:
        if name not in (CONV, FULL, SLIDING):
            raise config.refuse(f"layer type {name!r:.40} is not implemented, only {CONV}, {FULL} and {SLIDING}")
    return types


def _attention(config: ConfigReader, kind: str) -> Attention:
    heads, kv_heads, width = decoder.read_heads(config, _HEAD_WIDTH)
    gated = config.flag("use_attention_gate", default=True)
    return Attention(
        heads,
        kv_heads,
        width,
        _rope(config, kind, width),
        qk_norm="head",
        window=config.number("sliding_window") if kind == SLIDING else None,
        gate="head" if gated else "none",
    )


def _rope(config: ConfigReader, kind: str, width: int) -> Rope:
    """Positions of a kind of layers; each has parameters of its own.

    Of full attention only the first part of the pairs turns, even where rope_type says "default", as published files
    do: the models were trained so (NVIDIA NeMo AutoModel's documentation of lfm3 says it in words).
    """
    parameters = _rope_parameters(config, kind)
    rope_type, factor = parameters.get("rope_type", "default"), parameters.get("factor", 1)
    if rope_type not in ("default", "proportional") or factor != 1:
        raise config.refuse(f"rope_type {rope_type!r:.40} with the factor {factor!r:.40} is not implemented for {kind}")
    share = parameters.get("partial_rotary_factor", 1)
    share = config.positive("partial_rotary_factor", 1 if share is None else share)
    if share > 1 or (share < 1 and kind == SLIDING):
        raise config.refuse(f"partial_rotary_factor {share} is not implemented for {kind}")
    theta = parameters.get("rope_theta")
    if theta is None:
        raise config.refuse(f"rope_theta is missing, in rope_parameters of {kind}")
    return Rope(config.positive("rope_theta", theta), width, None if share == 1 else int(share * width // 2))


def _rope_parameters(config: ConfigReader, kind: str) -> Mapping[str, Any]:
    parameters = config.rope_section().get(kind)
    if not isinstance(parameters, Mapping):
        raise config.refuse(f"rope_parameters has no {kind}")
    return parameters


FAMILY = Family(model_types=(MODEL_TYPE,), read=read, gguf=GGUF, names=NAMES)
