"""Arcee's Trinity, as published."""

from __future__ import annotations

from typing import Any

_COMMON = {
    "architectures": ["AfmoeForCausalLM"],
    "model_type": "afmoe",
    "vocab_size": 200192,
    "head_dim": 128,
    "num_experts_per_tok": 8,
    "num_experts": 128,
    "num_shared_experts": 1,
    "num_dense_layers": 2,
    "score_func": "sigmoid",
    "route_norm": True,
    "route_scale": 2.826,
    "global_attn_every_n_layers": 4,
    "sliding_window": 2048,
    "mup_enabled": True,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e4,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 3,
    "pad_token_id": 12,
}


def _of(hidden: int, layers: int, heads: int, kv_heads: int, dense: int, width: int) -> dict[str, Any]:
    return {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": dense,
        "moe_intermediate_size": width,
    }


MODELS: dict[str, dict[str, Any]] = {
    "trinity-nano": _COMMON | _of(1024, 56, 8, 2, 3072, 256),
    "trinity-mini": _COMMON | _of(2048, 32, 32, 4, 6144, 1024),
    "trinity-large": _COMMON
    | _of(3072, 60, 48, 8, 12288, 3072)
    | {
        "num_experts": 256,
        "num_experts_per_tok": 4,
        "num_dense_layers": 6,
        "sliding_window": 4096,
        "max_position_embeddings": 524288,
    },
}
