"""LFM2 and LFM2.5, as published."""

from __future__ import annotations

from typing import Any

_COMMON = {
    "vocab_size": 65536,
    "conv_L_cache": 3,
    "conv_bias": False,
    "norm_eps": 1e-5,
    "rope_theta": 1e6,
    "max_position_embeddings": 128000,
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 7,
    "pad_token_id": 0,
    "num_key_value_heads": 8,
}
_MOE = _COMMON | {
    "architectures": ["Lfm2MoeForCausalLM"],
    "model_type": "lfm2_moe",
    "hidden_size": 2048,
    "num_attention_heads": 32,
    "num_dense_layers": 2,
    "num_experts_per_tok": 4,
    "norm_topk_prob": True,
    "use_expert_bias": True,
    "routed_scaling_factor": 1.0,
}
_DENSE = _COMMON | {
    "architectures": ["Lfm2ForCausalLM"],
    "model_type": "lfm2",
    "block_auto_adjust_ff_dim": True,
    "block_ffn_dim_multiplier": 1.0,
    "block_multiple_of": 256,
}
_SMALL_ATTENTION = [2, 5, 8, 10, 12, 14]


def _layer_types(layers: int, attention: list[int]) -> list[str]:
    return ["full_attention" if n in attention else "conv" for n in range(layers)]


_SHAPES: dict[str, dict[str, Any]] = {
    "lfm2-24b-a2b": _MOE
    | {
        "num_hidden_layers": 40,
        "layer_types": _layer_types(40, list(range(2, 40, 4))),
        "intermediate_size": 11776,
        "moe_intermediate_size": 1536,
        "num_experts": 64,
    },
    "lfm2-8b-a1b": _MOE
    | {
        "num_hidden_layers": 24,
        "layer_types": _layer_types(24, [2, 6, 10, 14, 18, 21]),
        "intermediate_size": 7168,
        "moe_intermediate_size": 1792,
        "num_experts": 32,
    },
    "lfm2-350m": _DENSE
    | {
        "hidden_size": 1024,
        "num_hidden_layers": 16,
        "num_attention_heads": 16,
        "block_ff_dim": 6656,
        "full_attn_idxs": _SMALL_ATTENTION,
    },
    "lfm2-700m": _DENSE
    | {
        "hidden_size": 1536,
        "num_hidden_layers": 16,
        "num_attention_heads": 24,
        "block_ff_dim": 10240,
        "full_attn_idxs": _SMALL_ATTENTION,
    },
    "lfm2-1.2b": _DENSE
    | {
        "hidden_size": 2048,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "block_ff_dim": 12288,
        "full_attn_idxs": _SMALL_ATTENTION,
    },
    "lfm2-2.6b": _DENSE
    | {
        "hidden_size": 2048,
        "num_hidden_layers": 30,
        "num_attention_heads": 32,
        "block_ff_dim": 10752,
        "block_auto_adjust_ff_dim": False,
        "full_attn_idxs": [2, 5, 9, 13, 17, 21, 24, 27],
    },
}

_128K = {"vocab_size": 128000, "pad_token_id": 124893, "bos_token_id": 124894, "eos_token_id": 124900}
"""The newer vocabulary."""


def _newer(name: str, theta: float) -> dict[str, Any]:
    """LFM2.5 in an LFM2's shape: configs of transformers 5 state theta in `rope_parameters` only."""
    older = {key: value for key, value in _SHAPES[name].items() if key != "rope_theta"}
    return older | _128K | {"rope_parameters": {"rope_theta": theta, "rope_type": "default"}}


MODELS = _SHAPES | {
    "lfm2.5-24b-a2b": _newer("lfm2-24b-a2b", 5e6),  # theta: as in the 8B; nobody has printed the 24B's
    "lfm2.5-8b-a1b": _newer("lfm2-8b-a1b", 5e6),
    "lfm2.5-2.6b": _newer("lfm2-2.6b", 1e7),
    "lfm2.5-1.2b": _SHAPES["lfm2-1.2b"],
}
