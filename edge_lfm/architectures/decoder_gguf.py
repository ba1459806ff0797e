"""What GGUF files of many families have in common: names of tensors, keys of the metadata.

Source: the package gguf's `constants.py` and llama.cpp's `conversion/`. Knows no family.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edge_lfm.architectures.family import GgufKeys
from edge_lfm.errors import UnsupportedModelError
from edge_lfm.shape import Rope, Shape

SIGMOID = 2
"""ggml's number of the gating function of a router that scores by sigmoids."""
_LETTERS = r"[^\r\n\p{L}\p{N}]?"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_SHORTENED = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
O200K = (
    rf"{_LETTERS}{_UPPER}*{_LOWER}+{_SHORTENED}|{_LETTERS}{_UPPER}+{_LOWER}*{_SHORTENED}"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""What the vocabulary o200k and those after it split a text by."""
WHOLE: dict[str, str] = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.embedding_norm.weight",
    "output.weight": "lm_head.weight",
}
LAYER: Mapping[str, str] = {
    "attn_norm.weight": "operator_norm.weight",
    "attn_q.weight": "self_attn.q_proj.weight",
    "attn_q.bias": "self_attn.q_proj.bias",
    "attn_k.weight": "self_attn.k_proj.weight",
    "attn_k.bias": "self_attn.k_proj.bias",
    "attn_v.weight": "self_attn.v_proj.weight",
    "attn_v.bias": "self_attn.v_proj.bias",
    "attn_output.weight": "self_attn.out_proj.weight",
    "attn_q_norm.weight": "self_attn.q_layernorm.weight",
    "attn_k_norm.weight": "self_attn.k_layernorm.weight",
    "ffn_norm.weight": "ffn_norm.weight",
    "ffn_gate.weight": "feed_forward.w1.weight",
    "ffn_up.weight": "feed_forward.w3.weight",
    "ffn_down.weight": "feed_forward.w2.weight",
    "ffn_gate_inp.weight": "feed_forward.gate.weight",
}
EXPERTS: Mapping[str, str] = {
    "ffn_gate_exps.weight": "feed_forward.experts.{e}.w1.weight",
    "ffn_up_exps.weight": "feed_forward.experts.{e}.w3.weight",
    "ffn_down_exps.weight": "feed_forward.experts.{e}.w2.weight",
}


def config_of(file: GgufKeys, model_type: str, architecture: str, turned: Any = None) -> dict[str, Any]:
    """A `config.json` from a GGUF file's metadata; reading that one checks the values.

    turned: the values of a head that turn, where that may be a part of them.

    Raises:
        UnsupportedModelError: something that is not implemented, or a key that is missing.
    """
    check_positions(file)
    return read_keys(file, model_type, architecture, turned)


def read_keys(file: GgufKeys, model_type: str, architecture: str, turned: Any = None) -> dict[str, Any]:
    """As `config_of`, of a file that may attend to windows, and whose positions have been checked."""
    get, width = file.get, file.get("attention.key_length")
    check_present(file, "attention.layer_norm_rms_epsilon")
    for key in ("rope.dimension_count", "attention.value_length"):
        expected = (None, width, turned) if key == "rope.dimension_count" else (None, width)
        if width is not None and get(key) not in expected:
            what = f"{file.architecture}.{key} {get(key)!r:.40} is not implemented, only a head's {width!r:.40}"
            raise UnsupportedModelError(f"{file.where}: {what}", hint="use another file")
    return stated(file, model_type, architecture)


def stated(file: GgufKeys, model_type: str, architecture: str) -> dict[str, Any]:
    """What the keys that all families share say, as they stand there."""
    get = file.get
    config = {
        "architectures": [architecture],
        "model_type": model_type,
        "vocab_size": file.vocab,
        "hidden_size": get("embedding_length"),
        "intermediate_size": get("feed_forward_length"),
        "num_hidden_layers": get("block_count"),
        "num_attention_heads": get("attention.head_count"),
        "num_key_value_heads": get("attention.head_count_kv"),
        "head_dim": get("attention.key_length"),
        "rms_norm_eps": get("attention.layer_norm_rms_epsilon"),
        "rope_parameters": {"rope_theta": get("rope.freq_base"), "rope_type": "default"},
        "max_position_embeddings": get("context_length"),
        "tie_word_embeddings": "output.weight" not in file.names,
        "bos_token_id": file.metadata.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": file.metadata.get("tokenizer.ggml.eos_token_id"),
        "num_experts": get("expert_count"),
        "num_experts_per_tok": get("expert_used_count"),
        "moe_intermediate_size": get("expert_feed_forward_length"),
    }
    return {key: value for key, value in config.items() if value is not None}


def check_positions(file: GgufKeys) -> None:
    """Refuse a file that scales rotary positions, attends to a window, or does not state theta.

    Raises:
        UnsupportedModelError: it does.
    """
    check_scaling(file)
    if file.get("attention.sliding_window"):
        raise UnsupportedModelError(
            f"{file.where}: sliding-window attention is not implemented", hint="use another file"
        )
    check_present(file, "rope.freq_base")


def check_scaling(file: GgufKeys) -> None:
    """Refuse a file that scales rotary positions.

    Raises:
        UnsupportedModelError: it does.
    """
    scaling = file.get("rope.scaling.type")
    if scaling not in (None, "none"):
        raise UnsupportedModelError(
            f"{file.where}: rope scaling {scaling!r:.40} is not implemented", hint="use another file"
        )


def check_present(file: GgufKeys, key: str) -> None:
    """Refuse a file without a number that nobody can guess.

    Raises:
        UnsupportedModelError: it has none.
    """
    if file.get(key) is None:
        raise UnsupportedModelError(
            f"{file.where}: {file.architecture}.{key} is missing",
            hint="convert the model again with a current llama.cpp",
        )


def check_sigmoid(file: GgufKeys) -> None:
    """Refuse a file whose routers score otherwise than by sigmoids.

    Raises:
        UnsupportedModelError: they do.
    """
    if file.get("expert_gating_func") not in (None, SIGMOID):
        what = f"expert_gating_func {file.get('expert_gating_func')!r:.40} is not implemented, only sigmoid"
        raise UnsupportedModelError(f"{file.where}: {what}", hint="use another file")


def keys_of(shape: Shape) -> dict[str, Any]:
    """A shape as a GGUF file's metadata, in the order of a file; all layers have the same attention."""
    attention = next(iter(shape.attentions.values()))
    return keys_with(shape, attention.heads, attention.kv_heads, (attention.width, attention.width), attention.rope)


def keys_with(shape: Shape, heads: int, kv_heads: int, widths: tuple[int, int], rope: Rope | None) -> dict[str, Any]:
    """As `keys_of`, of whatever attention. widths: of a key and of a value."""
    dense = [layer.ffn.width for layer in shape.layers if layer.ffn.router is None]
    sparse = [layer.ffn.width for layer in shape.layers if layer.ffn.router is not None]
    metadata: dict[str, Any] = {
        "block_count": len(shape.layers),
        "context_length": shape.context,
        "embedding_length": shape.hidden,
        "feed_forward_length": (dense or sparse)[0],
        "attention.head_count": heads,
        "attention.head_count_kv": kv_heads,
        "attention.key_length": widths[0],
        "attention.value_length": widths[1],
        "attention.layer_norm_rms_epsilon": shape.eps,
        "vocab_size": shape.vocab,
    }
    if rope is not None:
        metadata |= {"rope.freq_base": rope.theta, "rope.dimension_count": rope.width}
    if sparse:
        metadata |= {
            "expert_count": shape.experts,
            "expert_used_count": shape.top_k,
            "expert_feed_forward_length": sparse[0],
        }
    return metadata
