"""The network in plain NumPy, float32: what is right. Slow, short, and tested against transformers.

    h = h + operator(norm(h));  h = h + ffn(norm(h));  logits = head(norm(h))

Layers with post norms norm what they add.

Weights come by their Hugging Face names from a function, so that a checkpoint, its packed form and its
dequantized form all run through the same code. Knows nothing of files and of compiled kernels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_lfm.kernels.spec import ref
from edge_lfm.kernels.spec.ref import F32, Quantized
from edge_lfm.kernels.spec.ref_latent import latent_attention
from edge_lfm.kernels.spec.routing import route
from edge_lfm.model.rotary import rope_table
from edge_lfm.shape import Attention, Ffn, LatentAttention, Router, Shape, ShortConv

Weights = Callable[[str], "F32 | Quantized"]


@dataclass
class ReferenceState:
    """What a conversation leaves behind: per layer the newest inputs of the conv, or keys and values."""

    position: int = 0
    conv: dict[int, F32] = field(default_factory=dict)  # layer -> [L - 1, H]
    keys: dict[int, F32] = field(default_factory=dict)  # layer -> [P, kv, hd]
    values: dict[int, F32] = field(default_factory=dict)


class ReferenceModel:
    """`Shape` + weights by name -> logits. `kv_dtype`: what keys and values are rounded to when kept."""

    def __init__(self, shape: Shape, weights: Weights, kv_dtype: type[np.floating[Any]] = np.float32) -> None:
        self.shape, self.weights, self.kv_dtype = shape, weights, kv_dtype

    def logits(
        self, token_ids: NDArray[np.int64], state: ReferenceState | None = None, streams: list[F32] | None = None
    ) -> F32:
        """Logits [T, vocab] of a chunk of tokens; `state` moves on. streams: takes h [T, H] after each layer."""
        shape, state = self.shape, state or ReferenceState()
        h = self._embedded(token_ids)
        for n in range(len(shape.layers)):
            at = f"model.layers.{n}"
            normed = ref.rms_norm(h, self._f32(f"{at}.operator_norm.weight"), shape.eps)
            h = h + self._posted(n, "operator", self._operator(n, normed, state))
            normed = ref.rms_norm(h, self._f32(f"{at}.ffn_norm.weight"), shape.eps)
            h = h + self._posted(n, "ffn", self._ffn(n, normed))
            if streams is not None:
                streams.append(h)
        state.position += len(token_ids)
        h = ref.rms_norm(h, self._f32("model.embedding_norm.weight"), shape.eps)
        return self._linear("model.embed_tokens" if shape.tied else "lm_head", h)

    def _f32(self, name: str) -> F32:
        value = self.weights(name)
        assert not isinstance(value, Quantized)
        return value

    def _rows(self, name: str, rows: NDArray[np.int64]) -> F32:
        table = self.weights(name)
        if isinstance(table, Quantized):
            return Quantized(table.q[rows], table.scale[rows]).values()
        return table[rows]

    def _embedded(self, token_ids: NDArray[np.int64]) -> F32:
        """What the first layer gets, [T, H]."""
        return self._rows("model.embed_tokens.weight", token_ids) * np.float32(self.shape.embed_scale)

    def _linear(self, name: str, x: F32) -> F32:
        return ref.multiply(self.weights(f"{name}.weight"), x)

    def _posted(self, n: int, part: str, branch: F32) -> F32:
        """What an operator or an FFN adds to the residual stream: what it gives, normed where the layer says so."""
        if not self.shape.layers[n].post_norms:
            return branch
        return ref.rms_norm(branch, self._f32(f"model.layers.{n}.post_{part}_norm.weight"), self.shape.eps)

    def _operator(self, n: int, x: F32, state: ReferenceState) -> F32:
        operator = self.shape.layers[n].operator
        if isinstance(operator, Attention):
            return self._attention(n, operator, x, state)
        if isinstance(operator, LatentAttention):
            return self._latent_attention(n, operator, x, state)
        return self._conv(n, operator, x, state)

    def _ffn(self, n: int, x: F32) -> F32:
        at, ffn = f"model.layers.{n}.feed_forward", self.shape.layers[n].ffn
        if ffn.router is None:
            return self._gated(at, ffn, x)
        routed = self._experts(at, ffn, ffn.router, x)
        return routed + self._gated(f"{at}.shared", ffn, x) if ffn.shared else routed

    def _gated(self, at: str, ffn: Ffn, x: F32) -> F32:
        """w2(gated(w1 x, w3 x))."""
        gate, up = (self._biased(f"{at}.{w}", ffn.bias, x) for w in ("w1", "w3"))
        return self._biased(f"{at}.w2", ffn.bias, ref.gated(gate, up, ffn.gated.alpha, ffn.gated.limit, ffn.gated.plus))

    def _biased(self, name: str, bias: bool, x: F32) -> F32:
        y = self._linear(name, x)
        return y + self._f32(f"{name}.bias") if bias else y

    def _experts(self, at: str, ffn: Ffn, router: Router, x: F32) -> F32:
        bias = self._f32(f"{at}.expert_bias") if router.selection_bias else None
        logits = ref.multiply(self._f32(f"{at}.gate.weight"), x)
        if router.bias:
            logits = logits + self._f32(f"{at}.gate.bias")
        chosen, weights = route(logits, bias, router)
        out = np.zeros_like(x)
        for e in np.unique(chosen):
            token, rank = np.nonzero(chosen == e)
            out[token] += weights[token, rank, None] * self._gated(f"{at}.experts.{e}", ffn, x[token])
        return out

    def _conv(self, n: int, conv: ShortConv, x: F32, state: ReferenceState) -> F32:
        at, parts = f"model.layers.{n}.conv", ("in_proj", "conv", "out_proj") if conv.bias else ()
        past = state.conv.get(n, np.zeros((conv.taps - 1, self.shape.hidden), np.float32))
        bias = {part: self._f32(f"{at}.{part}.bias") for part in parts}
        bcx = self._linear(f"{at}.in_proj", x) + bias.get("in_proj", np.float32(0))
        taps = self._f32(f"{at}.conv.weight")[:, 0].T
        y, state.conv[n] = ref.short_conv(bcx, taps, bias.get("conv"), past)
        return self._linear(f"{at}.out_proj", y) + bias.get("out_proj", np.float32(0))

    def _attention(self, n: int, attention: Attention, x: F32, state: ReferenceState) -> F32:
        at, width = f"model.layers.{n}.self_attn", attention.width
        q, k, v = (self._biased(f"{at}.{p}_proj", attention.bias, x) for p in "qkv")
        positions = state.position + np.arange(len(x))
        q, k = (self._prepared(f"{at}.{p}_layernorm.weight", attention, y, positions) for p, y in (("q", q), ("k", k)))
        v = v.reshape(len(x), -1, width)
        nothing = np.zeros((0, attention.kv_heads, width), np.float32)
        k, v = self._as_cached(n, "keys", k), self._as_cached(n, "values", v)
        state.keys[n] = np.concatenate([state.keys.get(n, nothing), k])
        state.values[n] = np.concatenate([state.values.get(n, nothing), v])
        sinks = self._f32(f"{at}.sinks") if attention.sinks else None
        mixed = ref.attention(q, state.keys[n], state.values[n], state.position, attention.window or 0, sinks)
        if attention.gate != "none":
            mixed = ref.gate_heads(mixed, self._linear(f"{at}.gate_proj", x))
        return self._biased(f"{at}.out_proj", attention.out_bias, mixed)

    def _latent_attention(self, n: int, latent: LatentAttention, x: F32, state: ReferenceState) -> F32:
        """As kernels do: what makes a key of a latent is moved to the query, and what makes a value to the end."""
        at, eps = f"model.layers.{n}.self_attn", latent.eps
        if latent.query_rank is None:
            q = self._linear(f"{at}.q_proj", x)
        else:
            q = ref.rms_norm(self._linear(f"{at}.q_a_proj", x), self._f32(f"{at}.q_a_layernorm.weight"), eps)
            q = self._linear(f"{at}.q_b_proj", q)
        plain, turned = np.split(q.reshape(len(x), latent.heads, -1), [latent.plain], axis=2)
        c, key = np.split(self._linear(f"{at}.kv_a_proj", x)[:, None], [latent.rank], axis=2)
        rope = rope_table(latent.rope, state.position + np.arange(len(x)))
        c = ref.rms_norm(c, self._f32(f"{at}.kv_a_layernorm.weight"), eps)
        c, key = self._as_cached(n, "values", c), self._as_cached(n, "keys", ref.rotate(key, rope))
        state.keys[n] = np.concatenate([state.keys.get(n, key[:0]), key])
        state.values[n] = np.concatenate([state.values.get(n, c[:0]), c])
        low, turned = self._each_head(f"{at}.k_b_proj", plain), ref.rotate(turned, rope)
        taken = latent_attention(low, turned, state.values[n][:, 0], state.keys[n][:, 0], state.position, latent.scale)
        return self._linear(f"{at}.out_proj", self._each_head(f"{at}.v_b_proj", taken).reshape(len(x), -1))

    def _each_head(self, name: str, x: F32) -> F32:
        """Each head's rows of a matrix [heads N, K] times what that head has: x [T, heads, K] -> [T, heads, N]."""
        matrix, heads = self.weights(f"{name}.weight"), x.shape[1]
        if isinstance(matrix, Quantized):
            rows = len(matrix.q) // heads
            parts = [
                Quantized(matrix.q[i : i + rows], matrix.scale[i : i + rows]) for i in range(0, heads * rows, rows)
            ]
            return np.stack([ref.multiply(part, x[:, h]) for h, part in enumerate(parts)], axis=1)
        split = np.split(matrix, heads)
        return np.stack([ref.multiply(part, x[:, h]) for h, part in enumerate(split)], axis=1)

    def _as_cached(self, n: int, field: str, x: F32) -> F32:
        """Keys or values [T, kv, hd] as layer n's cache gives them back."""
        return x.astype(self.kv_dtype).astype(np.float32)

    def _prepared(self, name: str, attention: Attention, x: F32, positions: NDArray[np.int64]) -> F32:
        """Queries or keys [T, heads * hd], normed and turned as the model does -> [T, heads, hd]."""
        heads = x.reshape(len(x), -1, attention.width)
        if not attention.norm_after_rope:
            heads = self._head_norm(name, attention, heads)
        if attention.rope is not None:
            heads = ref.rotate(heads, rope_table(attention.rope, positions))
        return self._head_norm(name, attention, heads) if attention.norm_after_rope else heads

    def _head_norm(self, name: str, attention: Attention, heads: F32) -> F32:
        """Queries or keys [T, heads, hd], normed as the model does."""
        if attention.qk_norm == "none":
            return heads
        rows = heads if attention.qk_norm == "head" else heads.reshape(len(heads), -1)
        return ref.rms_norm(rows, self._f32(name), self.shape.eps).reshape(heads.shape)
