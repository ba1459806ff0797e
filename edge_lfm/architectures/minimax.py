"""The family MiniMax-M2 (also M2.1, M2.5 and M2.7, which have its shape): configs, and names.

All queries of a token are normed as one row, and so are its keys; the first part of each head turns. Every layer has
experts, chosen by a sigmoid and a stored bias.

Source: transformers 5.24, `configuration_minimax_m2.py`, `modeling_minimax_m2.py`; llama.cpp's `conversion/minimax.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from edge_lfm.architectures import decoder, decoder_gguf
from edge_lfm.architectures.family import Family, GgufKeys, GgufSpelling
from edge_lfm.architectures.reader import ConfigReader
from edge_lfm.errors import UnsupportedModelError
from edge_lfm.shape import Attention, Ffn, Layer, Router, Shape

MODEL_TYPE = "minimax_m2"
NAMES: Mapping[str, str] = {name: hub for name, hub in decoder.NAMES.items() if not name.startswith("feed_forward")} | {
    "feed_forward.gate.weight": "block_sparse_moe.gate.weight",
    "feed_forward.expert_bias": "block_sparse_moe.e_score_correction_bias",
    "feed_forward.experts.{e}.w1.weight": "block_sparse_moe.experts.{e}.w1.weight",
    "feed_forward.experts.{e}.w3.weight": "block_sparse_moe.experts.{e}.w3.weight",
    "feed_forward.experts.{e}.w2.weight": "block_sparse_moe.experts.{e}.w2.weight",
}
"""Canonical name -> the hub's, as `Family.names`."""
_HEAD_WIDTH = 128
"""Where the config does not say."""
_ONLY: Mapping[str, tuple[object, ...]] = {
    "scoring_func": ("sigmoid",),
    "use_routing_bias": (True,),
    "use_qk_norm": (True,),
    "qk_norm_type": ("per_layer",),
    "shared_intermediate_size": (0,),
    "sliding_window": (),
    "layernorm_full_attention_alpha": (1,),
    "layernorm_full_attention_beta": (1,),
    "layernorm_linear_attention_alpha": (1,),
    "layernorm_linear_attention_beta": (1,),
    "layernorm_mlp_alpha": (1,),
    "layernorm_mlp_beta": (1,),
}
"""Keys of published files that have one meaning here; null is none."""
_FULL = 1
"""Of `attn_type_list`: attention over all positions; 0 would be the linear attention of an older family."""


def read(config: ConfigReader) -> Shape:
    """The shape that a config describes.

    Raises:
        UnsupportedModelError: a value asks for something that is not implemented.
    """
    decoder.check_activation(config, "hidden_act")
    decoder.check_false(config, "attention_bias")
    decoder.check_only(config, _ONLY)
    count = config.number("num_hidden_layers")
    _check_attention(config, count)
    heads, kv_heads, width = decoder.read_heads(config, _HEAD_WIDTH)
    turned = config.number("rotary_dim", default=_stated_turned(config, width), least=2, greatest=width)
    attention = Attention(heads, kv_heads, width, decoder.read_rope(config, turned, of=width), "all")
    layer = Layer(attention, Ffn(config.number("intermediate_size"), _router(config)))
    return decoder.describe(config, [layer] * count, eps_default=1e-6, context_default=196608)


def _check_attention(config: ConfigReader, count: int) -> None:
    types = config.raw.get("attn_type_list")
    if types is not None and types != [_FULL] * count:
        raise config.refuse(f"attn_type_list {types!r:.80} is not implemented, only {count} times {_FULL}")
    decoder.check_full_attention(config)


def _stated_turned(config: ConfigReader, width: int) -> int:
    """The values of a head that turn, as transformers 5 writes them: a part of its width."""
    parameters = config.rope_section()
    share = parameters.get("partial_rotary_factor")
    return width if share is None else int(config.positive("partial_rotary_factor", share) * width)


def _router(config: ConfigReader) -> Router:
    experts = config.number("num_experts", "num_local_experts")
    top_k = decoder.read_top_k(config, experts)
    return Router(experts, top_k, "sigmoid", selection_bias=True, normalize=True, guard=0.0, scale=1.0)


def read_gguf(file: GgufKeys) -> dict[str, Any]:
    """A file's `config.json`.

    Raises:
        UnsupportedModelError: something that is not implemented, or a key that is missing.
    """
    decoder_gguf.check_sigmoid(file)
    if file.get("expert_weights_scale") not in (None, 0, 1):
        what = f"{file.architecture}.expert_weights_scale {file.get('expert_weights_scale')!r:.40} is not implemented"
        raise UnsupportedModelError(f"{file.where}: {what}", hint="use another file")
    turned = file.get("rope.dimension_count")
    config = decoder_gguf.config_of(file, MODEL_TYPE, "MiniMaxM2ForCausalLM", turned=turned)
    width = config.pop("moe_intermediate_size", None)  # the family has one width, and calls it so
    return config | {"rotary_dim": turned} | ({} if width is None else {"intermediate_size": width})


def keys(shape: Shape) -> dict[str, Any]:
    """A shape as a file's metadata, in the order of a file."""
    return decoder_gguf.keys_of(shape) | {"expert_gating_func": decoder_gguf.SIGMOID}


def refusals(shape: Shape) -> Iterator[str]:
    """llama.cpp's code has no tied head."""
    if shape.tied:
        yield "tie_word_embeddings is true"


GGUF = GgufSpelling(
    model_types={"minimax-m2": MODEL_TYPE},
    whole=decoder_gguf.WHOLE,
    layer={**decoder_gguf.LAYER, "exp_probs_b.bias": "feed_forward.expert_bias"},
    experts=decoder_gguf.EXPERTS,
    splitters=("minimax-m2",),
    split=(decoder_gguf.O200K,),
    composes=False,
    adds_bos=False,
    read=read_gguf,
    keys=keys,
    refusals=refusals,
)

FAMILY = Family(model_types=(MODEL_TYPE,), read=read, gguf=GGUF, names=NAMES)
