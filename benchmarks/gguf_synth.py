"""GGUF files of a published LFM2 shape with random weights, for llama.cpp to be measured on.

Written in streaming with the `gguf` package; block formats as ggml defines them. Weights have the same
spread as those of `edge-lfm synth`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np

from edge_lfm.config import ModelConfig

Kind = gguf.GGMLQuantizationType
_SCALE_FIELDS = {  # block type -> (bytes of a block, {offset of a float16 field: factor of the spread})
    Kind.Q4_0: (18, {0: 1 / 4.61}),
    Kind.Q8_0: (34, {0: 1 / 73.9}),
    Kind.Q4_K: (144, {0: 1 / 150, 2: 1 / 150}),
    Kind.Q6_K: (210, {208: 1 / 1500}),
}


def write_gguf(config: ModelConfig, path: Path, kind: Any, embedding: Any) -> None:
    """Write the model with its matrices in `kind` and its embedding in `embedding`; routers and norms in F32."""
    partial = path.with_name(path.name + ".partial")
    writer = gguf.GGUFWriter(partial, "lfm2moe" if config.num_experts else "lfm2")
    _add_metadata(writer, config)
    tensors = list(_tensors(config, kind, embedding))
    for name, shape, dtype in tensors:
        if dtype == Kind.F32:
            writer.add_tensor_info(name, shape, np.dtype(np.float32), 4 * int(np.prod(shape)))
        else:
            byte_shape = (*shape[:-1], shape[-1] // gguf.GGML_QUANT_SIZES[dtype][0] * _SCALE_FIELDS[dtype][0])
            writer.add_tensor_info(name, byte_shape, np.dtype(np.uint8), int(np.prod(byte_shape)), raw_dtype=dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for n, (name, shape, dtype) in enumerate(tensors):
        writer.write_tensor_data(_random(name, shape, dtype, np.random.Generator(np.random.SFC64(n))))
    writer.close()
    partial.rename(path)


def _add_metadata(writer: Any, config: ModelConfig) -> None:
    layers = range(config.num_hidden_layers)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv([config.num_key_value_heads if config.is_attention(n) else 0 for n in layers])
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_vocab_size(config.vocab_size)
    writer.add_shortconv_l_cache(config.conv_L_cache)
    writer.add_tokenizer_model("no_vocab")
    if config.num_experts:
        writer.add_expert_count(config.num_experts)
        writer.add_expert_used_count(config.num_experts_per_tok)
        writer.add_expert_feed_forward_length(config.moe_intermediate_size)
        writer.add_leading_dense_block_count(config.num_dense_layers)
        writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)


def _tensors(config: ModelConfig, kind: Any, embedding: Any) -> Any:
    hidden, width = config.hidden_size, config.head_dim
    kv, dense, expert = config.num_key_value_heads * width, config.intermediate_size, config.moe_intermediate_size
    yield "token_embd.weight", (config.vocab_size, hidden), embedding
    yield "token_embd_norm.weight", (hidden,), Kind.F32
    for n in range(config.num_hidden_layers):
        at = f"blk.{n}."
        yield f"{at}attn_norm.weight", (hidden,), Kind.F32
        yield f"{at}ffn_norm.weight", (hidden,), Kind.F32
        if config.is_attention(n):
            for name, rows in (("attn_q", hidden), ("attn_k", kv), ("attn_v", kv), ("attn_output", hidden)):
                yield f"{at}{name}.weight", (rows, hidden), kind
            yield f"{at}attn_q_norm.weight", (width,), Kind.F32
            yield f"{at}attn_k_norm.weight", (width,), Kind.F32
        else:
            yield f"{at}shortconv.in_proj.weight", (3 * hidden, hidden), kind
            yield f"{at}shortconv.out_proj.weight", (hidden, hidden), kind
            yield f"{at}shortconv.conv.weight", (hidden, config.conv_L_cache), Kind.F32
        if config.is_moe(n):
            experts = config.num_experts
            yield f"{at}ffn_gate_inp.weight", (experts, hidden), Kind.F32
            yield f"{at}exp_probs_b.bias", (experts,), Kind.F32
            yield f"{at}ffn_gate_exps.weight", (experts, expert, hidden), kind
            yield f"{at}ffn_up_exps.weight", (experts, expert, hidden), kind
            yield f"{at}ffn_down_exps.weight", (experts, hidden, expert), kind
        else:
            yield f"{at}ffn_gate.weight", (dense, hidden), kind
            yield f"{at}ffn_up.weight", (dense, hidden), kind
            yield f"{at}ffn_down.weight", (hidden, dense), kind


def _random(name: str, shape: tuple[int, ...], dtype: Any, rng: np.random.Generator) -> np.ndarray:
    if dtype == Kind.F32:
        if name.endswith("norm.weight"):
            return np.ones(shape, np.float32)
        if name.endswith("bias"):
            return np.zeros(shape, np.float32)
        return rng.standard_normal(shape, np.float32) * np.float32(shape[-1] ** -0.5 * 4)
    size, fields = _SCALE_FIELDS[dtype]
    blocks = int(np.prod(shape)) // gguf.GGML_QUANT_SIZES[dtype][0]
    raw = rng.bit_generator.random_raw(-(-blocks * size // 8)).view(np.uint8)[: blocks * size].reshape(blocks, size)
    for offset, factor in fields.items():
        scale = np.float16(shape[-1] ** -0.5 * factor)
        raw[:, offset : offset + 2] = np.frombuffer(scale.tobytes(), np.uint8)
    byte_shape = (*shape[:-1], shape[-1] // gguf.GGML_QUANT_SIZES[dtype][0] * size)
    return raw.reshape(byte_shape)
