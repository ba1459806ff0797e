"""LFM3, as published: the config says that full attention turns whole heads, and means half of their pairs."""

from __future__ import annotations

from typing import Any

MODELS: dict[str, dict[str, Any]] = {
    "lfm3-1.7b": {
        "architectures": ["Lfm3ForCausalLM"],
        "model_type": "lfm3",
        "vocab_size": 128000,
        "hidden_size": 2048,
        "intermediate_size": 7680,
        "num_hidden_layers": 24,
        "layer_types": [
            "full_attention" if n % 4 == 2 else "sliding_attention" if n % 4 == 0 and n else "conv" for n in range(24)
        ],
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "conv_L_cache": 7,
        "conv_bias": False,
        "sliding_window": 256,
        "norm_eps": 1e-5,
        "rope_parameters": {
            "full_attention": {"partial_rotary_factor": 0.5, "rope_theta": 1e6, "rope_type": "default"},
            "sliding_attention": {"rope_theta": 1e4, "rope_type": "default"},
        },
        "max_position_embeddings": 262144,
        "tie_word_embeddings": True,
        "bos_token_id": 124894,
        "eos_token_id": 124900,
        "pad_token_id": 124893,
    },
}
