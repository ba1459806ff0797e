"""How GGUF files of the family spell what the hub's checkpoints say: names of tensors, keys of the config.

Source: llama.cpp's `conversion/lfm2.py` and `gguf.MODEL_ARCH.LFM2MOE` (facts of LFM2, 1.3). Knows no files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from edge_lfm.config import ATTENTION, CONV, ModelConfig
from edge_lfm.errors import UnsupportedModelError

ARCHITECTURES = {"lfm2": "lfm2", "lfm2moe": "lfm2_moe"}
SIGMOID = 2
"""ggml's number of the gating function of the family's routers."""

_WHOLE = {
    "token_embd.weight": "model.embed_tokens.weight",
    "token_embd_norm.weight": "model.embedding_norm.weight",
    "output.weight": "lm_head.weight",
}
_LAYER = {
    "attn_norm.weight": "operator_norm.weight",
    "ffn_norm.weight": "ffn_norm.weight",
    "shortconv.conv.weight": "conv.conv.weight",
    "shortconv.in_proj.weight": "conv.in_proj.weight",
    "shortconv.out_proj.weight": "conv.out_proj.weight",
    "attn_q.weight": "self_attn.q_proj.weight",
    "attn_k.weight": "self_attn.k_proj.weight",
    "attn_v.weight": "self_attn.v_proj.weight",
    "attn_output.weight": "self_attn.out_proj.weight",
    "attn_q_norm.weight": "self_attn.q_layernorm.weight",
    "attn_k_norm.weight": "self_attn.k_layernorm.weight",
    "ffn_gate.weight": "feed_forward.w1.weight",
    "ffn_up.weight": "feed_forward.w3.weight",
    "ffn_down.weight": "feed_forward.w2.weight",
    "ffn_gate_inp.weight": "feed_forward.gate.weight",
    "exp_probs_b.bias": "feed_forward.expert_bias",
}
_EXPERTS = {"ffn_gate_exps.weight": "w1", "ffn_up_exps.weight": "w3", "ffn_down_exps.weight": "w2"}


def hub_names(name: str, experts: int) -> list[str]:
    """The hub's names of what a GGUF tensor holds: one, or one for each expert; unknown names stay as they are."""
    if name in _WHOLE:
        return [_WHOLE[name]]
    parts = name.split(".", 2)
    if len(parts) == 3 and parts[0] == "blk" and parts[1].isdecimal():
        at = f"model.layers.{int(parts[1])}"
        if parts[2] in _LAYER:
            return [f"{at}.{_LAYER[parts[2]]}"]
        if parts[2] in _EXPERTS:
            return [f"{at}.feed_forward.experts.{e}.{_EXPERTS[parts[2]]}.weight" for e in range(experts)]
    return [name]


def tensors_of(config: ModelConfig) -> Iterator[tuple[str, tuple[int, ...], list[str]]]:
    """Every tensor of a GGUF file: its name, its shape, and the hub's names of what it holds."""
    hidden, width = config.hidden_size, config.head_dim
    kv = config.num_key_value_heads * width
    yield "token_embd.weight", (config.vocab_size, hidden), ["model.embed_tokens.weight"]
    yield "token_embd_norm.weight", (hidden,), ["model.embedding_norm.weight"]
    if not config.tie_word_embeddings:
        yield "output.weight", (config.vocab_size, hidden), ["lm_head.weight"]
    attention: dict[str, tuple[int, ...]] = {
        "attn_q.weight": (hidden, hidden),
        "attn_k.weight": (kv, hidden),
        "attn_v.weight": (kv, hidden),
        "attn_output.weight": (hidden, hidden),
        "attn_q_norm.weight": (width,),
        "attn_k_norm.weight": (width,),
    }
    conv: dict[str, tuple[int, ...]] = {
        "shortconv.in_proj.weight": (3 * hidden, hidden),
        "shortconv.out_proj.weight": (hidden, hidden),
        "shortconv.conv.weight": (hidden, config.conv_L_cache),
    }
    for n in range(config.num_hidden_layers):
        shapes: dict[str, tuple[int, ...]] = {"attn_norm.weight": (hidden,), "ffn_norm.weight": (hidden,)}
        shapes |= (attention if config.is_attention(n) else conv) | _ffn_shapes(config, n)
        for name, shape in shapes.items():
            yield f"blk.{n}.{name}", shape, hub_names(f"blk.{n}.{name}", config.num_experts)


def _ffn_shapes(config: ModelConfig, n: int) -> dict[str, tuple[int, ...]]:
    hidden = config.hidden_size
    if not config.is_moe(n):
        dense = config.intermediate_size
        return {
            "ffn_gate.weight": (dense, hidden),
            "ffn_up.weight": (dense, hidden),
            "ffn_down.weight": (hidden, dense),
        }
    count, width = config.num_experts, config.moe_intermediate_size
    bias = {"exp_probs_b.bias": (count,)} if config.use_expert_bias else {}
    return {
        "ffn_gate_inp.weight": (count, hidden),
        **bias,
        "ffn_gate_exps.weight": (count, width, hidden),
        "ffn_up_exps.weight": (count, width, hidden),
        "ffn_down_exps.weight": (count, hidden, width),
    }


def hub_config(
    metadata: Mapping[str, Any], vocab_size: int, has_head: bool, has_bias: bool, where: str
) -> dict[str, Any]:
    """A `config.json` from a file's metadata; `ModelConfig` checks the values.

    Raises:
        UnsupportedModelError: another architecture, or something that is not implemented.
    """
    architecture = metadata.get("general.architecture")
    if architecture not in ARCHITECTURES:
        raise UnsupportedModelError(
            f"{where}: architecture {architecture!r:.40} is not implemented", hint="edge-lfm runs lfm2 and lfm2moe"
        )

    def get(key: str) -> Any:
        return metadata.get(f"{architecture}.{key}")

    scaling = get("rope.scaling.type")
    if scaling not in (None, "none"):
        raise UnsupportedModelError(
            f"{where}: rope scaling {scaling!r:.40} is not implemented", hint="use another file"
        )
    if get("attention.sliding_window"):
        raise UnsupportedModelError(f"{where}: sliding-window attention is not implemented", hint="use another file")
    per_layer = get("attention.head_count_kv")
    if not isinstance(per_layer, list) or not all(isinstance(n, int) for n in per_layer) or not any(per_layer):
        raise UnsupportedModelError(
            f"{where}: {architecture}.attention.head_count_kv must be a list with a number for each layer",
            hint="convert the model again with a current llama.cpp",
        )
    config = {
        "architectures": ["Lfm2MoeForCausalLM" if architecture == "lfm2moe" else "Lfm2ForCausalLM"],
        "model_type": ARCHITECTURES[architecture],
        "vocab_size": vocab_size,
        "hidden_size": get("embedding_length"),
        "intermediate_size": get("feed_forward_length"),
        "block_auto_adjust_ff_dim": False,  # the width in the file is the width of the weights
        "num_hidden_layers": get("block_count"),
        "layer_types": [ATTENTION if heads else CONV for heads in per_layer],
        "num_attention_heads": get("attention.head_count"),
        "num_key_value_heads": max(per_layer),
        "head_dim": get("attention.key_length"),
        "conv_L_cache": get("shortconv.l_cache"),
        "norm_eps": get("attention.layer_norm_rms_epsilon") or 1e-5,
        "rope_theta": get("rope.freq_base") or 1e6,
        "max_position_embeddings": get("context_length"),
        "tie_word_embeddings": not has_head,
        "bos_token_id": metadata.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": metadata.get("tokenizer.ggml.eos_token_id"),
    }
    if architecture == "lfm2moe":
        if get("expert_gating_func") not in (None, SIGMOID):
            raise UnsupportedModelError(
                f"{where}: expert_gating_func {get('expert_gating_func')!r:.40} is not implemented, only sigmoid",
                hint="edge-lfm runs lfm2 and lfm2moe",
            )
        norm = get("expert_weights_norm")
        config |= {
            "moe_intermediate_size": get("expert_feed_forward_length"),
            "num_dense_layers": get("leading_dense_block_count") or 0,
            "num_experts": get("expert_count"),
            "num_experts_per_tok": get("expert_used_count"),
            "routed_scaling_factor": get("expert_weights_scale") or 1.0,
            "norm_topk_prob": True if norm is None else norm,
            "use_expert_bias": has_bias,
        }
    return {key: value for key, value in config.items() if value is not None}
