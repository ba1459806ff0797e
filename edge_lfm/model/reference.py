"""The network in plain NumPy, float32: what is right. Slow, short, and tested against transformers.

    h = h + operator(norm(h));  h = h + ffn(norm(h));  logits = head(norm(h))

Weights come by their Hugging Face names from a function, so that a checkpoint, its packed form and its
dequantized form all run through the same code. Knows nothing of files and of compiled kernels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_lfm.config import ModelConfig
from edge_lfm.kernels.spec import ref
from edge_lfm.kernels.spec.ref import F32, Quantized

Weights = Callable[[str], "F32 | Quantized"]


@dataclass
class ReferenceState:
    """What a conversation leaves behind: per layer the newest inputs of the conv, or keys and values."""

    position: int = 0
    conv: dict[int, F32] = field(default_factory=dict)  # layer -> [L - 1, H]
    keys: dict[int, F32] = field(default_factory=dict)  # layer -> [P, kv, hd]
    values: dict[int, F32] = field(default_factory=dict)


class ReferenceModel:
    """`ModelConfig` + weights by name -> logits. `kv_dtype`: what keys and values are rounded to when kept."""

    def __init__(self, config: ModelConfig, weights: Weights, kv_dtype: type[np.floating[Any]] = np.float32) -> None:
        self.config, self.weights, self.kv_dtype = config, weights, kv_dtype

    def logits(self, token_ids: NDArray[np.int64], state: ReferenceState | None = None) -> F32:
        """Logits [T, vocab] of a chunk of tokens; `state` moves on."""
        config, state = self.config, state or ReferenceState()
        h = self._rows("model.embed_tokens.weight", token_ids)
        for n in range(config.num_hidden_layers):
            at = f"model.layers.{n}"
            operator = self._attention if config.is_attention(n) else self._conv
            h = h + operator(n, ref.rms_norm(h, self._f32(f"{at}.operator_norm.weight"), config.norm_eps), state)
            normed = ref.rms_norm(h, self._f32(f"{at}.ffn_norm.weight"), config.norm_eps)
            h = h + (self._experts if config.is_moe(n) else self._swiglu)(f"{at}.feed_forward", normed)
        state.position += len(token_ids)
        h = ref.rms_norm(h, self._f32("model.embedding_norm.weight"), config.norm_eps)
        return self._linear("model.embed_tokens" if config.tie_word_embeddings else "lm_head", h)

    def _f32(self, name: str) -> F32:
        value = self.weights(name)
        assert not isinstance(value, Quantized)
        return value

    def _rows(self, name: str, rows: NDArray[np.int64]) -> F32:
        table = self.weights(name)
        if isinstance(table, Quantized):
            return Quantized(table.q[rows], table.scale[rows]).values()
        return table[rows]

    def _linear(self, name: str, x: F32) -> F32:
        return ref.multiply(self.weights(f"{name}.weight"), x)

    def _swiglu(self, at: str, x: F32) -> F32:
        return self._linear(f"{at}.w2", ref.silu(self._linear(f"{at}.w1", x)) * self._linear(f"{at}.w3", x))

    def _experts(self, at: str, x: F32) -> F32:
        config = self.config
        bias = self._f32(f"{at}.expert_bias") if config.use_expert_bias else None
        chosen, weights = ref.route(
            ref.multiply(self._f32(f"{at}.gate.weight"), x),
            bias,
            config.num_experts_per_tok,
            config.norm_topk_prob,
            config.routed_scaling_factor,
        )
        out = np.zeros_like(x)
        for e in np.unique(chosen):
            token, slot = np.nonzero(chosen == e)
            out[token] += weights[token, slot, None] * self._swiglu(f"{at}.experts.{e}", x[token])
        return out

    def _conv(self, n: int, x: F32, state: ReferenceState) -> F32:
        config, at = self.config, f"model.layers.{n}.conv"
        past = state.conv.get(n, np.zeros((config.conv_L_cache - 1, config.hidden_size), np.float32))
        bias = (
            {part: self._f32(f"{at}.{part}.bias") for part in ("in_proj", "conv", "out_proj")}
            if config.conv_bias
            else {}
        )
        bcx = self._linear(f"{at}.in_proj", x) + bias.get("in_proj", np.float32(0))
        taps = self._f32(f"{at}.conv.weight")[:, 0].T
        y, state.conv[n] = ref.short_conv(bcx, taps, bias.get("conv"), past)
        return self._linear(f"{at}.out_proj", y) + bias.get("out_proj", np.float32(0))

    def _attention(self, n: int, x: F32, state: ReferenceState) -> F32:
        config, at = self.config, f"model.layers.{n}.self_attn"
        width, kv = config.head_dim, config.num_key_value_heads
        q, k, v = (self._linear(f"{at}.{p}_proj", x).reshape(len(x), -1, width) for p in "qkv")
        rope = ref.rope_table(state.position + np.arange(len(x)), width, config.rope_theta)
        q = ref.rotate(ref.rms_norm(q, self._f32(f"{at}.q_layernorm.weight"), config.norm_eps), rope)
        k = ref.rotate(ref.rms_norm(k, self._f32(f"{at}.k_layernorm.weight"), config.norm_eps), rope)
        nothing = np.zeros((0, kv, width), np.float32)
        k, v = (x.astype(self.kv_dtype).astype(np.float32) for x in (k, v))
        state.keys[n] = np.concatenate([state.keys.get(n, nothing), k])
        state.values[n] = np.concatenate([state.values.get(n, nothing), v])
        return self._linear(f"{at}.out_proj", ref.attention(q, state.keys[n], state.values[n], state.position))
