"""Qwen2.5, Qwen3 and DeepSeek's distills of Qwen, as published."""

from __future__ import annotations

from typing import Any

_COMMON = {
    "vocab_size": 151936,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "use_sliding_window": False,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
}
_QWEN2 = _COMMON | {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "max_position_embeddings": 32768,
    "tie_word_embeddings": False,
}
_DISTILL = _QWEN2 | {"vocab_size": 152064, "max_position_embeddings": 131072, "eos_token_id": 151643}
_QWEN3 = _COMMON | {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "head_dim": 128,
    "attention_bias": False,
    "max_position_embeddings": 40960,
    "tie_word_embeddings": False,
}
_SPARSE = _QWEN3 | {
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "norm_topk_prob": True,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
}


def _of(hidden: int, layers: int, heads: int, kv_heads: int, width: int, *, tied: bool = False) -> dict[str, Any]:
    return {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": width,
        "tie_word_embeddings": tied,
    }


_LARGE = {"rms_norm_eps": 1e-5}
_LONG = {"rope_theta": 1e7, "max_position_embeddings": 262144}
"""Of the generation 2507 and the coders."""

MODELS: dict[str, dict[str, Any]] = {
    "qwen3-30b-a3b": _SPARSE | _of(2048, 48, 32, 4, 6144) | {"moe_intermediate_size": 768},
    "qwen3-30b-a3b-2507": _SPARSE | _of(2048, 48, 32, 4, 6144) | {"moe_intermediate_size": 768} | _LONG,
    "qwen3-coder-30b-a3b": _SPARSE | _of(2048, 48, 32, 4, 5472) | {"moe_intermediate_size": 768} | _LONG,
    "qwen3-235b-a22b": _SPARSE | _of(4096, 94, 64, 4, 12288) | {"moe_intermediate_size": 1536},
    "qwen3-0.6b": _QWEN3 | _of(1024, 28, 16, 8, 3072, tied=True),
    "qwen3-1.7b": _QWEN3 | _of(2048, 28, 16, 8, 6144, tied=True),
    "qwen3-4b": _QWEN3 | _of(2560, 36, 32, 8, 9728, tied=True),
    "qwen3-8b": _QWEN3 | _of(4096, 36, 32, 8, 12288),
    "qwen3-14b": _QWEN3 | _of(5120, 40, 40, 8, 17408),
    "qwen3-32b": _QWEN3 | _of(5120, 64, 64, 8, 25600),
    "qwen2.5-0.5b": _QWEN2 | _of(896, 24, 14, 2, 4864, tied=True),
    "qwen2.5-1.5b": _QWEN2 | _of(1536, 28, 12, 2, 8960, tied=True),
    "qwen2.5-3b": _QWEN2 | _of(2048, 36, 16, 2, 11008, tied=True),
    "qwen2.5-7b": _QWEN2 | _of(3584, 28, 28, 4, 18944) | {"vocab_size": 152064},
    "r1-distill-qwen-1.5b": _DISTILL | _of(1536, 28, 12, 2, 8960) | {"vocab_size": 151936, "rope_theta": 1e4},
    "r1-distill-qwen-7b": _DISTILL | _of(3584, 28, 28, 4, 18944) | {"rope_theta": 1e4},
    "r1-distill-qwen-14b": _DISTILL | _of(5120, 48, 40, 8, 13824) | _LARGE,
    "r1-distill-qwen-32b": _DISTILL | _of(5120, 64, 40, 8, 27648) | _LARGE,
}
