"""Make the golden logits of tests/data/goldens.npz with transformers: tiny random models of every variant.

    python -m venv .golden && .golden/bin/pip install "torch>=2.6" "transformers>=5.0" numpy
    .golden/bin/python tools/make_goldens.py

Each case is a configuration, seeded float32 weights that the tests draw again by the same rule
(`random_weights`, by the hub's names), token ids, and the logits of its class in transformers. Imports
nothing of edge-lfm: the goldens are an independent oracle.
"""

from __future__ import annotations

import json
import re
import zlib
from pathlib import Path

import numpy as np

OUT = Path(__file__).parent.parent / "tests" / "data"
BASE = {
    "vocab_size": 160,
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "layer_types": ["conv", "full_attention", "conv", "full_attention"],
    "conv_L_cache": 3,
    "conv_bias": False,
    "norm_eps": 1e-5,
    "max_position_embeddings": 256,
    "tie_word_embeddings": True,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 7,
    "rope_parameters": {"rope_theta": 1000000.0, "rope_type": "default"},
}
DENSE = BASE | {"model_type": "lfm2", "intermediate_size": 96, "block_auto_adjust_ff_dim": False}
MOE = BASE | {
    "model_type": "lfm2_moe",
    "intermediate_size": 96,
    "moe_intermediate_size": 32,
    "num_dense_layers": 1,
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "norm_topk_prob": True,
    "use_expert_bias": True,
    "routed_scaling_factor": 1.0,
}
PLAIN = {
    "vocab_size": 160,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": 7,
    "rope_parameters": {"rope_theta": 1e6, "rope_type": "default"},
}
QWEN2 = PLAIN | {"model_type": "qwen2", "use_sliding_window": False}
QWEN3 = PLAIN | {"model_type": "qwen3", "head_dim": 64}
QWEN3_MOE = PLAIN | {
    "model_type": "qwen3_moe",
    "head_dim": 64,
    "num_hidden_layers": 2,
    "moe_intermediate_size": 32,
    "num_experts": 20,
    "num_experts_per_tok": 4,
    "norm_topk_prob": True,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
}
OLMOE = PLAIN | {
    "model_type": "olmoe",
    "rms_norm_eps": 1e-5,
    "num_key_value_heads": 2,
    "intermediate_size": 32,
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "norm_topk_prob": False,
    "clip_qkv": None,
    "rope_parameters": {"rope_theta": 1e4, "rope_type": "default"},
}
MINIMAX = PLAIN | {
    "model_type": "minimax_m2",
    "num_hidden_layers": 2,
    "intermediate_size": 32,
    "head_dim": 64,
    "rotary_dim": 32,
    "num_local_experts": 8,
    "num_experts_per_tok": 3,
    "scoring_func": "sigmoid",
    "use_qk_norm": True,
    "rope_parameters": {"rope_theta": 5e6, "rope_type": "default", "partial_rotary_factor": 0.5},
}
AFMOE = PLAIN | {
    "model_type": "afmoe",
    "num_hidden_layers": 5,
    "head_dim": 64,
    "rms_norm_eps": 1e-5,
    "moe_intermediate_size": 32,
    "num_dense_layers": 1,
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "num_shared_experts": 1,
    "route_scale": 2.826,
    "global_attn_every_n_layers": 4,
    "sliding_window": 11,
    "mup_enabled": True,
    "rope_parameters": {"rope_theta": 1e4, "rope_type": "default"},
}
_YARN = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 64}
_SLIDING = {"rope_theta": 1e4, "rope_type": "default"}
_FULL = {"rope_theta": 1e6, "rope_type": "proportional", "partial_rotary_factor": 0.5}
LFM3 = {key: value for key, value in BASE.items() if key != "rope_parameters"} | {
    "model_type": "lfm3",
    "intermediate_size": 96,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "layer_types": ["conv", "conv", "full_attention", "conv", "sliding_attention", "conv"],
    "conv_L_cache": 7,
    "sliding_window": 11,
    "rope_parameters": {"full_attention": _FULL, "sliding_attention": _SLIDING},
}
GPT_OSS = PLAIN | {
    "model_type": "gpt_oss",
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "intermediate_size": 32,
    "num_local_experts": 8,
    "num_experts_per_tok": 3,
    "sliding_window": 11,
    "swiglu_alpha": 1.702,
    "swiglu_limit": 0.8,
    "rms_norm_eps": 1e-5,
    "attention_bias": True,
    "rope_parameters": _YARN | {"rope_theta": 150000.0, "factor": 32.0, "truncate": False},
}
GLM = {key: value for key, value in PLAIN.items() if key != "num_key_value_heads"} | {
    "model_type": "glm4_moe_lite",
    "rms_norm_eps": 1e-5,
    "moe_intermediate_size": 32,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "num_experts_per_tok": 3,
    "routed_scaling_factor": 1.8,
    "norm_topk_prob": True,
    "n_group": 1,
    "topk_group": 1,
    "num_key_value_heads": 2,
    "q_lora_rank": 96,
    "kv_lora_rank": 64,
    "qk_nope_head_dim": 64,
    "qk_rope_head_dim": 32,
    "v_head_dim": 96,
    "rope_interleave": True,
    "attention_bias": False,
}
DEEPSEEK = GLM | {
    "model_type": "deepseek_v3",
    "rms_norm_eps": 1e-6,
    "first_k_dense_replace": 1,
    "n_routed_experts": 32,
    "num_experts_per_tok": 4,
    "n_group": 8,
    "topk_group": 3,
    "routed_scaling_factor": 2.5,
    "v_head_dim": 64,
    "rope_parameters": _YARN | {"rope_theta": 1e4, "factor": 40.0, "mscale": 1.0, "mscale_all_dim": 1.0},
}
HUNYUAN = PLAIN | {
    "model_type": "hunyuan_v1_moe",
    "num_hidden_layers": 2,
    "head_dim": 64,
    "rms_norm_eps": 1e-5,
    "intermediate_size": 32,
    "moe_intermediate_size": [32, 32],
    "num_experts": 8,
    "moe_topk": [3, 3],
    "num_shared_expert": [1, 1],
    "use_qk_norm": True,
    "use_mixed_mlp_moe": True,
    "use_cla": False,
    "tie_word_embeddings": True,
    "rope_parameters": {"rope_theta": 1e4, "rope_type": "dynamic", "alpha": 1000.0, "factor": 1.0},
}
CASES = {
    "dense": DENSE,
    "dense-adjusted-width": DENSE
    | {
        "intermediate_size": 100,
        "block_auto_adjust_ff_dim": True,
        "block_ffn_dim_multiplier": 1.5,
        "block_multiple_of": 32,
    },
    "dense-group3": DENSE | {"hidden_size": 96, "num_attention_heads": 3, "num_key_value_heads": 1},
    "dense-group4-conv4": DENSE
    | {"hidden_size": 128, "num_attention_heads": 4, "num_key_value_heads": 1, "conv_L_cache": 4},
    "dense-conv-bias": DENSE | {"conv_bias": True},
    "dense-untied": DENSE | {"tie_word_embeddings": False},
    "dense-theta": DENSE | {"rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}},
    "moe": MOE,
    "moe-no-bias": MOE | {"use_expert_bias": False},
    "moe-not-normalized": MOE | {"norm_topk_prob": False},
    "moe-scaled": MOE | {"routed_scaling_factor": 2.5},
    "moe-all-sparse": MOE | {"num_dense_layers": 0, "num_experts": 20, "num_experts_per_tok": 4},
    "moe-group3-conv-bias": MOE
    | {"hidden_size": 96, "num_attention_heads": 3, "num_key_value_heads": 1, "conv_bias": True},
    "moe-untied-conv4": MOE | {"tie_word_embeddings": False, "conv_L_cache": 4},
    "moe-theta": MOE | {"rope_parameters": {"rope_theta": 5e6, "rope_type": "default"}, "eos_token_id": [7, 2]},
    "moe-top1": MOE | {"num_experts_per_tok": 1},
    "qwen2": QWEN2,
    "qwen2-tied-group3": QWEN2
    | {
        "hidden_size": 96,
        "num_attention_heads": 3,
        "tie_word_embeddings": True,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_theta": 1e4, "rope_type": "default"},
    },
    "qwen2-yarn": QWEN2 | {"rope_parameters": _YARN | {"rope_theta": 1e4}},
    "qwen3-yarn-not-truncated": QWEN3
    | {"rope_parameters": _YARN | {"truncate": False, "beta_fast": 4, "beta_slow": 0.5, "attention_factor": 1.25}},
    "qwen3": QWEN3,
    "qwen3-tied-narrow-heads": QWEN3 | {"hidden_size": 128, "head_dim": 32, "tie_word_embeddings": True},
    "qwen3-group3": QWEN3 | {"hidden_size": 96, "num_attention_heads": 6, "num_key_value_heads": 2},
    "qwen3_moe": QWEN3_MOE,
    "qwen3_moe-yarn-mscale": QWEN3_MOE | {"rope_parameters": _YARN | {"mscale": 1.0, "mscale_all_dim": 0.5}},
    "qwen3_moe-128-experts": QWEN3_MOE | {"num_hidden_layers": 1, "num_experts": 128, "num_experts_per_tok": 8},
    "qwen3_moe-256-experts": QWEN3_MOE | {"num_hidden_layers": 1, "num_experts": 256, "num_experts_per_tok": 8},
    "qwen3_moe-not-normalized": QWEN3_MOE | {"norm_topk_prob": False, "tie_word_embeddings": True},
    "qwen3_moe-dense-between": QWEN3_MOE
    | {"num_hidden_layers": 5, "num_experts": 8, "decoder_sparse_step": 2, "mlp_only_layers": [3]},
    "lfm3": LFM3,
    "lfm3-group3-wide-heads": LFM3
    | {"hidden_size": 96, "num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 64, "sliding_window": 16},
    "lfm3-window-beyond-the-prompt": LFM3 | {"sliding_window": 64, "tie_word_embeddings": False},
    "lfm3-window-of-one": LFM3 | {"sliding_window": 1, "num_key_value_heads": 4},
    "lfm3-no-sandwich": LFM3 | {"use_sandwich_norm": False, "conv_bias": True},
    "lfm3-no-gate": LFM3 | {"use_attention_gate": False, "conv_L_cache": 4},
    "lfm3-quarter-turned": LFM3
    | {"rope_parameters": {"full_attention": _FULL | {"partial_rotary_factor": 0.25}, "sliding_attention": _SLIDING}},
    "lfm3-all-turned": LFM3
    | {"rope_parameters": {"full_attention": _SLIDING, "sliding_attention": _SLIDING | {"rope_theta": 5e4}}},
    "lfm3-attention-only": LFM3 | {"layer_types": ["sliding_attention", "full_attention"] * 3, "sliding_window": 19},
    "olmoe": OLMOE,
    "olmoe-normalized-group3": OLMOE
    | {"hidden_size": 96, "num_attention_heads": 3, "num_key_value_heads": 1, "norm_topk_prob": True},
    "afmoe": AFMOE,
    "afmoe-two-shared-group3": AFMOE
    | {"hidden_size": 96, "num_attention_heads": 3, "num_shared_experts": 2, "num_dense_layers": 2},
    "afmoe-tied-full-first": AFMOE
    | {
        "num_hidden_layers": 2,
        "layer_types": ["full_attention", "sliding_attention"],
        "tie_word_embeddings": True,
        "mup_enabled": False,
        "num_dense_layers": 0,
        "sliding_window": 64,
    },
    "afmoe-128-experts": AFMOE | {"num_hidden_layers": 2, "num_experts": 128, "num_experts_per_tok": 8},
    "minimax_m2": MINIMAX,
    "minimax_m2-256-experts": MINIMAX | {"num_hidden_layers": 1, "num_local_experts": 256, "num_experts_per_tok": 8},
    "minimax_m2-group3-whole-heads": MINIMAX
    | {
        "hidden_size": 96,
        "num_attention_heads": 3,
        "rotary_dim": 64,
        "num_experts_per_tok": 1,
        "rope_parameters": {"rope_theta": 1e4, "rope_type": "default", "partial_rotary_factor": 1.0},
    },
    "gpt_oss": GPT_OSS,
    "gpt_oss-group3-top1": GPT_OSS
    | {"hidden_size": 96, "num_attention_heads": 3, "num_key_value_heads": 1, "num_experts_per_tok": 1},
    "hunyuan": HUNYUAN,
    "hunyuan-group3-untied": HUNYUAN
    | {
        "hidden_size": 96,
        "num_attention_heads": 3,
        "tie_word_embeddings": False,
        "rope_parameters": {"rope_theta": 1e4, "rope_type": "default"},
    },
    "hunyuan-64-experts": HUNYUAN
    | {"num_key_value_heads": 2, "head_dim": 32, "num_experts": 64, "moe_topk": 8, "moe_intermediate_size": 32},
    "glm4_moe_lite": GLM,
    "glm4_moe_lite-one-head": GLM | {"num_attention_heads": 1, "num_key_value_heads": 1, "n_shared_experts": 2},
    "glm4_moe_lite-20-heads": GLM | {"num_attention_heads": 20, "num_key_value_heads": 20, "num_hidden_layers": 2},
    "glm4_moe_lite-no-query-rank": GLM
    | {"q_lora_rank": None, "mlp_layer_types": ["sparse", "dense"], "num_hidden_layers": 2, "v_head_dim": 32},
    "deepseek_v3": DEEPSEEK,
    "deepseek_v3-halves": DEEPSEEK | {"rope_interleave": False, "first_k_dense_replace": 2, "norm_topk_prob": False},
    "deepseek_v3-256-experts": DEEPSEEK
    | {"num_hidden_layers": 2, "n_routed_experts": 256, "num_experts_per_tok": 8, "topk_group": 4},
    "gpt_oss-window-beyond-the-prompt": GPT_OSS | {"sliding_window": 64, "swiglu_limit": 7.0},
}
LLAMA_CASES = {
    "gpt_oss-whole-pairs": GPT_OSS
    | {"swiglu_limit": 7.0, "rope_parameters": GPT_OSS["rope_parameters"] | {"rope_theta": 237694.0}},
    "glm4_moe_lite-no-query-rank-dense-first": GLM | {"q_lora_rank": None, "num_hidden_layers": 2, "v_head_dim": 32},
    "deepseek_v3-mscale": DEEPSEEK
    | {"rope_parameters": DEEPSEEK["rope_parameters"] | {"mscale": 0.707, "mscale_all_dim": 0.707}},
}
"""Of llama.cpp only. It rounds the ends of YaRN's ramp, which lie at pairs 0 and 3 of the first but for 1e-5."""
TOKENS = 37
LONG_CASES = ("lfm3", "lfm3-attention-only")
LONG_TOKENS = 600
LONG_ROWS = np.r_[250:262, 506:518, 588:600]
"""Around two multiples of the shortest ring of keys, and the end."""


def random_weights(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The weights of a tensor, from a seed that is its name: norms near 1, a large selection bias."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    values = rng.standard_normal(shape).astype(np.float32)
    if name.endswith("norm.weight"):
        return 1 + np.float32(0.3) * values
    if name.endswith(("expert_bias", "e_score_correction_bias")):
        return np.float32(0.3) * values
    if name.endswith(("gate.weight", "gate_proj.weight")) and "self_attn" in name:
        return 2 * values * np.float32(shape[-1] ** -0.5)
    if name.endswith(("gate.weight", "gate.wg.weight")):
        return np.float32(0.5) * values
    if name.endswith("sinks"):
        return 3 * values  # some dominate
    return values * np.float32(shape[-1] ** -0.5 if len(shape) == 2 else 0.5)


_OF_AN_EXPERT = re.compile(r"(.*\.mlp\.experts)\.(\d+)\.(gate|up|down)_proj\.(weight|bias)")


def stored_shapes(config: dict, shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """The shapes of a checkpoint's tensors, from those of each canonical one.

    gpt-oss stores all experts of a layer together, and latent attention what makes plain keys and values."""
    if config["model_type"] in ("glm4_moe_lite", "deepseek_v3"):
        rows = config["num_attention_heads"] * (config["qk_nope_head_dim"] + config["v_head_dim"])
        both = (rows, config["kv_lora_rank"])
        return {name: both if name.endswith("kv_b_proj.weight") else shape for name, shape in shapes.items()}
    if config["model_type"] != "gpt_oss":
        return shapes
    stored, experts = {}, config.get("num_experts", config["num_local_experts"])
    for name, shape in shapes.items():
        match = _OF_AN_EXPERT.fullmatch(name)
        if match is None:
            stored[name] = shape
            continue
        base, _, part, last = match.groups()
        rows = shape[0] if part == "down" else 2 * shape[0]  # those of both matrices, in turn
        fused = f"{base}.{'down_proj' if part == 'down' else 'gate_up_proj'}"
        stored[fused if last == "weight" else f"{fused}_bias"] = (experts, *shape[1:], rows)
    return stored


def token_ids(case: str, count: int = TOKENS) -> np.ndarray:
    return np.random.default_rng(zlib.crc32(case.encode())).integers(0, BASE["vocab_size"], count)


def logits_of(config: dict, ids: np.ndarray) -> np.ndarray:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.set_grad_enabled(False)
    settings = {k: v for k, v in config.items() if k != "model_type"}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(config["model_type"], **settings)).float().eval()
    state = model.state_dict()
    moved = ".block_sparse_moe." if config["model_type"] == "minimax_m2" else None  # what transformers calls mlp
    for name, tensor in state.items():
        name = name.replace(".mlp.", moved) if moved else name
        if name != "lm_head.weight" or not config["tie_word_embeddings"]:  # a tied head is the embedding itself
            weights = random_weights if config["model_type"] == "gpt_oss" else _weights_in_memory  # fused on the hub
            tensor.copy_(torch.from_numpy(weights(name, tuple(tensor.shape))))
    return model(torch.from_numpy(ids)[None]).logits[0].numpy()


def _weights_in_memory(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """transformers 5 fuses experts in memory; the goldens use the hub's per-expert tensors."""
    base, _, last = name.rpartition(".")
    short = ".feed_forward." in name or ".block_sparse_moe." in name
    parts = ("w1", "w3", "w2") if short else ("gate_proj", "up_proj", "down_proj")
    if last == "gate_up_proj":
        half = (shape[1] // 2, shape[2])
        each = [[random_weights(f"{base}.{e}.{part}.weight", half) for part in parts[:2]] for e in range(shape[0])]
        return np.stack([np.concatenate(both) for both in each])
    if last == "down_proj":
        return np.stack([random_weights(f"{base}.{e}.{parts[2]}.weight", shape[1:]) for e in range(shape[0])])
    return random_weights(name.replace("self_attn.g_proj", "self_attn.gate_proj"), shape)


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    arrays = {case: logits_of(config, token_ids(case)) for case, config in CASES.items()}
    np.savez_compressed(OUT / "goldens.npz", **arrays)
    (OUT / "goldens.json").write_text(json.dumps(CASES, indent=1) + "\n", encoding="utf-8")
    long = {case: logits_of(CASES[case], token_ids(case, LONG_TOKENS))[LONG_ROWS] for case in LONG_CASES}
    np.savez_compressed(OUT / "long_goldens.npz", **long)
    for case, logits in arrays.items():
        print(f"{case:24} logits {logits.shape}, spread {logits.std():.3f}")


if __name__ == "__main__":
    main()
