"""LFM2 in GGUF files: names of tensors, keys of the metadata, what llama.cpp's code of the family cannot do.

Source: llama.cpp's `conversion/lfm2.py` and `gguf.MODEL_ARCH.LFM2MOE`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from edge_lfm.architectures.decoder_gguf import SIGMOID, check_positions, check_sigmoid
from edge_lfm.architectures.family import GgufKeys, GgufSpelling
from edge_lfm.errors import UnsupportedModelError
from edge_lfm.shape import Shape

CONV, ATTENTION = "conv", "full_attention"
SPARSE, DENSE = "lfm2_moe", "lfm2"
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""What `tokenizer.json` splits a text by."""


def read(file: GgufKeys) -> dict[str, Any]:
    """A `config.json` from a file's metadata; reading that one checks the values.

    Raises:
        UnsupportedModelError: something that is not implemented.
    """
    get, where = file.get, file.where
    per_layer = get("attention.head_count_kv")
    if not isinstance(per_layer, list) or not all(isinstance(n, int) for n in per_layer) or not any(per_layer):
        raise UnsupportedModelError(
            f"{where}: {file.architecture}.attention.head_count_kv must be a list with a number for each layer",
            hint="convert the model again with a current llama.cpp",
        )
    check_positions(file)
    sparse = GGUF.model_types[file.architecture] == SPARSE
    config = {
        "architectures": ["Lfm2MoeForCausalLM" if sparse else "Lfm2ForCausalLM"],
        "model_type": GGUF.model_types[file.architecture],
        "vocab_size": file.vocab,
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
        "rope_theta": get("rope.freq_base"),
        "max_position_embeddings": get("context_length"),
        "tie_word_embeddings": "output.weight" not in file.names,
        "bos_token_id": file.metadata.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": file.metadata.get("tokenizer.ggml.eos_token_id"),
    }
    config |= _read_experts(file) if sparse else {}
    return {key: value for key, value in config.items() if value is not None}


def _read_experts(file: GgufKeys) -> dict[str, Any]:
    get, normalize = file.get, file.get("expert_weights_norm")
    check_sigmoid(file)
    return {
        "moe_intermediate_size": get("expert_feed_forward_length"),
        "num_dense_layers": get("leading_dense_block_count") or 0,
        "num_experts": get("expert_count"),
        "num_experts_per_tok": get("expert_used_count"),
        "routed_scaling_factor": get("expert_weights_scale") or 1.0,
        "norm_topk_prob": True if normalize is None else normalize,
        "use_expert_bias": any(name.endswith("exp_probs_b.bias") for name in file.names),
    }


def keys(shape: Shape) -> dict[str, Any]:
    """A shape as a file's metadata, in the order of a file."""
    layers, attentions = range(len(shape.layers)), shape.attentions
    dense = [layer.ffn.width for layer in shape.layers if layer.ffn.router is None]
    sparse = [layer.ffn.width for layer in shape.layers if layer.ffn.router is not None]
    metadata: dict[str, Any] = {
        "block_count": len(shape.layers),
        "context_length": shape.context,
        "embedding_length": shape.hidden,
        "feed_forward_length": (dense or sparse)[0],
        "attention.head_count": max((attention.heads for attention in attentions.values()), default=0),
        "attention.head_count_kv": [attentions[n].kv_heads if n in attentions else 0 for n in layers],
        "attention.layer_norm_rms_epsilon": shape.eps,
        "rope.freq_base": next((a.rope.theta for a in attentions.values() if a.rope is not None), 1e6),
        "vocab_size": shape.vocab,
        "shortconv.l_cache": max((conv.taps for conv in shape.convs.values()), default=0),
    }
    if shape.routers:
        metadata |= {
            "expert_count": shape.experts,
            "expert_used_count": shape.top_k,
            "expert_feed_forward_length": sparse[0],
            "leading_dense_block_count": len(dense),
            "expert_gating_func": SIGMOID,
        }
    return metadata


def refusals(shape: Shape) -> Iterator[str]:
    """llama.cpp's code of the family has no biases, and one way of weighing experts."""
    if any(conv.bias for conv in shape.convs.values()):
        yield "conv_bias is set"
    for router in shape.routers.values():
        if not router.normalize:
            yield "norm_topk_prob is false"
        if router.scale != 1.0:
            yield f"routed_scaling_factor is {router.scale}"
        if not router.selection_bias:
            yield "use_expert_bias is false"


GGUF = GgufSpelling(
    model_types={"lfm2": DENSE, "lfm2moe": SPARSE},
    whole={
        "token_embd.weight": "model.embed_tokens.weight",
        "token_embd_norm.weight": "model.embedding_norm.weight",
        "output.weight": "lm_head.weight",
    },
    layer={
        "attn_norm.weight": "operator_norm.weight",
        "ffn_norm.weight": "ffn_norm.weight",
        "attn_q.weight": "self_attn.q_proj.weight",
        "attn_k.weight": "self_attn.k_proj.weight",
        "attn_v.weight": "self_attn.v_proj.weight",
        "attn_output.weight": "self_attn.out_proj.weight",
        "attn_q_norm.weight": "self_attn.q_layernorm.weight",
        "attn_k_norm.weight": "self_attn.k_layernorm.weight",
        "shortconv.in_proj.weight": "conv.in_proj.weight",
        "shortconv.out_proj.weight": "conv.out_proj.weight",
        "shortconv.conv.weight": "conv.conv.weight",
        "ffn_gate.weight": "feed_forward.w1.weight",
        "ffn_up.weight": "feed_forward.w3.weight",
        "ffn_down.weight": "feed_forward.w2.weight",
        "ffn_gate_inp.weight": "feed_forward.gate.weight",
        "exp_probs_b.bias": "feed_forward.expert_bias",
    },
    experts={
        "ffn_gate_exps.weight": "feed_forward.experts.{e}.w1.weight",
        "ffn_up_exps.weight": "feed_forward.experts.{e}.w3.weight",
        "ffn_down_exps.weight": "feed_forward.experts.{e}.w2.weight",
    },
    splitters=("lfm2", "llama-bpe", "llama3", "llama-v3"),
    split=(SPLIT,),
    composes=False,
    adds_bos=True,
    read=read,
    keys=keys,
    refusals=refusals,
)
