"""The family gpt-oss: what its `config.json` means, and names.

Every second layer attends to a window; each head has a sink, a logit that takes its share of the softmax and carries no
value; all projections, routers and experts add biases; the experts' gate is clamped.

Source: transformers 5.24, `configuration_gpt_oss.py`, `modeling_gpt_oss.py`.
"""

from __future__ import annotations

from collections.abc import Mapping

from edge_lfm.architectures import decoder
from edge_lfm.architectures.family import Family
from edge_lfm.architectures.gpt_oss_gguf import FULL, GATED, GGUF, MODEL_TYPE, SLIDING
from edge_lfm.architectures.reader import ConfigReader
from edge_lfm.shape import Attention, Ffn, Gated, Layer, Router, Shape

_HEAD_WIDTH = 64
"""Where the config does not say."""
_ONLY: Mapping[str, tuple[object, ...]] = {"hidden_act": ("silu",), "attention_bias": (True,)}
"""Keys that have one meaning here; null is none."""
NAMES: Mapping[str, str] = {
    **decoder.NAMES,
    "self_attn.out_proj.bias": "self_attn.o_proj.bias",
    "feed_forward.gate.weight": "mlp.router.weight",
    "feed_forward.gate.bias": "mlp.router.bias",
    "feed_forward.experts.{e}.w1.bias": "mlp.experts.{e}.gate_proj.bias",
    "feed_forward.experts.{e}.w3.bias": "mlp.experts.{e}.up_proj.bias",
    "feed_forward.experts.{e}.w2.bias": "mlp.experts.{e}.down_proj.bias",
}
"""Canonical name -> the hub's, as `Family.names`; checkpoints have all experts of a layer together."""


def read(config: ConfigReader) -> Shape:
    """The shape that a config describes.

    Raises:
        UnsupportedModelError: a value asks for something that is not implemented.
    """
    decoder.check_only(config, _ONLY)
    types = _layer_types(config, config.number("num_hidden_layers"))
    operators = {kind: _attention(config, kind) for kind in dict.fromkeys(types)}
    layers = [Layer(operators[kind], _ffn(config)) for kind in types]
    return decoder.describe(config, layers, eps_default=1e-5, context_default=131072)


def _layer_types(config: ConfigReader, count: int) -> list[str]:
    types = config.raw.get("layer_types")
    if types is None:  # the rule of GptOssConfig
        return [FULL if n % 2 else SLIDING for n in range(count)]
    return decoder.check_layer_types(config, types, count, (FULL, SLIDING))


def _attention(config: ConfigReader, kind: str) -> Attention:
    heads, kv_heads, width = decoder.read_heads(config, _HEAD_WIDTH)
    return Attention(
        heads,
        kv_heads,
        width,
        decoder.read_rope(config, width),
        qk_norm="none",
        window=config.number("sliding_window") if kind == SLIDING else None,
        bias=True,
        out_bias=True,
        sinks=True,
    )


def _ffn(config: ConfigReader) -> Ffn:
    """Experts weighed by a softmax of the chosen ones' logits: the softmax of all, divided by the sum of theirs."""
    alpha, limit = config.real("swiglu_alpha", default=GATED.alpha), config.real("swiglu_limit", default=7.0)
    experts = config.number("num_experts", "num_local_experts")
    router = Router(
        experts,
        decoder.read_top_k(config, experts),
        score="softmax",
        selection_bias=False,
        normalize=True,
        guard=0.0,
        scale=1.0,
        bias=True,
    )
    return Ffn(config.number("intermediate_size"), router, gated=Gated(alpha, limit, GATED.plus), bias=True)


FAMILY = Family(model_types=(MODEL_TYPE,), read=read, gguf=GGUF, names=NAMES, rows_in_turn=True)
