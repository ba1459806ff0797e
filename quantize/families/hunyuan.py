"""Tencent's Hunyuan-A13B, as published."""

from __future__ import annotations

from typing import Any

_LAYERS = 32
MODELS: dict[str, dict[str, Any]] = {
    "hunyuan-a13b": {
        "architectures": ["HunYuanMoEV1ForCausalLM"],
        "model_type": "hunyuan_v1_moe",
        "vocab_size": 128167,
        "hidden_size": 4096,
        "intermediate_size": 3072,
        "moe_intermediate_size": [3072] * _LAYERS,
        "num_hidden_layers": _LAYERS,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "attention_head_dim": 128,
        "num_experts": 64,
        "moe_topk": [8] * _LAYERS,
        "num_shared_expert": [1] * _LAYERS,
        "moe_layer_num_skipped": 0,
        "norm_topk_prob": True,
        "routed_scaling_factor": 1.0,
        "group_limited_greedy": False,
        "use_qk_norm": True,
        "use_rotary_pos_emb": True,
        "use_mixed_mlp_moe": True,
        "use_cla": False,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 1e4,
        "rope_scaling": {
            "type": "dynamic",
            "alpha": 1000.0,
            "beta_fast": 32,
            "beta_slow": 1,
            "factor": 1.0,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
        },
        "max_position_embeddings": 32768,
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 127960,
        "pad_token_id": 127961,
    }
}
