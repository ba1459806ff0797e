"""What every kernel computes, in plain NumPy: the definition that the compiled ones are tested against.

float32 throughout, written for reading and not for speed. Knows arrays only.

Legend: T tokens, N rows (outputs), K columns (inputs), G groups of 32 columns, H hidden size, E experts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_lfm.kernels.spec.layout import GROUP, QUERY_STEPS

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]


# Activations and weights


@dataclass(frozen=True)
class Quantized:
    """Integers in blocks of columns with one scale each: value = q * scale."""

    q: NDArray[np.int8]  # [N, K]
    scale: F32  # [N, K / block]

    @property
    def block(self) -> int:
        """Columns that share a scale."""
        return int(self.q.shape[1] // self.scale.shape[1])

    def values(self) -> F32:
        """float32 [N, K]."""
        n, k = self.q.shape
        return (self.q.reshape(n, -1, self.block) * self.scale[:, :, None]).astype(np.float32).reshape(n, k)


def quantize_rows(x: F32) -> Quantized:
    """Activations [T, K] to int8: scale = max|x| / 127 of the group, halves to even."""
    groups = x.reshape(len(x), -1, GROUP)
    largest = np.abs(groups).max(-1)
    usable = largest > np.float32(1e-30)
    inverse = np.where(usable, np.float32(127) / np.where(usable, largest, np.float32(1)), np.float32(0))
    q = np.rint(groups * inverse[:, :, None]).astype(np.int8)
    return Quantized(q.reshape(x.shape), np.where(usable, largest / np.float32(127), 0).astype(np.float32))


def multiply(weights: F32 | Quantized, x: F32) -> F32:
    """x [T, K] times weights [N, K] transposed -> [T, N]; int8 activations when weights are quantized.

    The integer sums of a block are exact; blocks are scaled and added in float64.
    """
    if not isinstance(weights, Quantized):
        return (x.astype(np.float64) @ weights.astype(np.float64).T).astype(np.float32)
    a = quantize_rows(x)
    n, t, block = len(weights.q), len(x), weights.block
    dots = np.einsum(
        "ngk,tgk->tng", weights.q.reshape(n, -1, block).astype(np.int64), a.q.reshape(t, -1, block).astype(np.int64)
    )
    scale = np.repeat(a.scale, GROUP // block, axis=1)
    out: F32 = np.einsum("tng,ng,tg->tn", dots.astype(np.float64), weights.scale, scale).astype(np.float32)
    return out


# The network's operations


def rms_norm(x: F32, weight: F32, eps: float) -> F32:
    """weight * x / sqrt(mean(x**2) + eps) over the last axis."""
    scale = 1 / np.sqrt(np.mean(np.square(x), axis=-1, keepdims=True, dtype=np.float32) + np.float32(eps))
    return (weight * (x * scale)).astype(np.float32)


def sigmoid(x: F32) -> F32:
    with np.errstate(over="ignore"):
        return (1 / (1 + np.exp(-x))).astype(np.float32)


def silu(x: F32) -> F32:
    """x * sigmoid(x)."""
    return x * sigmoid(x)


def gated(gate: F32, up: F32, alpha: float, limit: float | None, plus: float) -> F32:
    """g * sigmoid(alpha g) * (u + plus): gate up to `limit`, up of -limit .. limit; None clamps nothing."""
    if limit is not None:
        gate, up = np.minimum(gate, np.float32(limit)), np.clip(up, np.float32(-limit), np.float32(limit))
    return gate * sigmoid(np.float32(alpha) * gate) * (up + np.float32(plus))


def short_conv(bcx: F32, taps: F32, bias: F32 | None, state: F32) -> tuple[F32, F32]:
    """The gated causal convolution: bcx [T, 3H], taps [L, H] oldest first, state [L - 1, H].

    Returns:
        C * conv(B * x), [T, H], and the new state: the newest L - 1 of B * x.
    """
    b, c, x = np.split(bcx, 3, axis=1)
    g = np.concatenate([state, b * x])
    width, tokens = len(taps), len(bcx)
    y = sum(taps[j] * g[j : j + tokens] for j in range(width))
    return c * (y if bias is None else y + bias), g[tokens:]


def rope_table(positions: I64, frequencies: F32) -> F32:
    """[T, width]: cos, then sin, of position * frequency, float32 [width / 2]; angles in float32."""
    angles = positions.astype(np.float32)[:, None] * frequencies
    return np.concatenate([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def rotate(x: F32, rope: F32) -> F32:
    """RoPE on the pairs (i, i + width/2) of each head's first `width` values: x [T, heads, hd], rope [T, width]."""
    turned, rest = np.split(x, [rope.shape[1]], axis=2)
    a, b = np.split(turned, 2, axis=2)
    cos, sin = np.split(rope[:, None, :], 2, axis=2)
    return np.concatenate([a * cos - b * sin, b * cos + a * sin, rest], axis=2)


def gate_heads(heads: F32, gates: F32) -> F32:
    """Heads [T, heads * hd] times sigmoid(gates): gates [T, heads] for whole heads, or as many as there are values."""
    shape = (len(heads), gates.shape[1], -1)
    return (heads.reshape(shape) * sigmoid(gates)[:, :, None]).reshape(heads.shape)


def round_heads(x: F32) -> F32:
    """What an int8 KV cache keeps of heads [..., hd]: one scale a head and position, max|x| / 127."""
    scale = np.abs(x).max(-1, keepdims=True) / np.float32(127)
    inverse = np.where(scale > 0, 1 / np.where(scale > 0, scale, np.float32(1)), np.float32(0))
    out: F32 = (np.rint(x * inverse) * scale).astype(np.float32)
    return out


def round_queries(q: F32) -> F32:
    """What queries [..., hd] are multiplied with int8 keys as, by tiers of `Isa.rounds_queries`."""
    top = np.abs(q).max(-1, keepdims=True)
    inverse = np.where(top > 0, QUERY_STEPS / np.where(top > 0, top, np.float32(1)), np.float32(0)).astype(np.float32)
    out: F32 = (np.rint(q * inverse) * (top / np.float32(QUERY_STEPS))).astype(np.float32)
    return out


def attention(q: F32, keys: F32, values: F32, position: int, window: int = 0, sinks: F32 | None = None) -> F32:
    """Causal grouped-query attention: q [T, heads, hd] at `position`.., keys and values [P, kv, hd].

    Query head h uses kv head h // (heads / kv). A token attends to the last `window` positions, its own among them; to
    all if `window` is 0. sinks [heads]: logits that take their share of each head's softmax. Returns [T, heads * hd].
    """
    tokens, heads, width = q.shape
    group = heads // keys.shape[1]
    keys, values = (np.repeat(x, group, axis=1).transpose(1, 0, 2) for x in (keys, values))  # [heads, P, hd]
    scores = q.transpose(1, 0, 2) @ keys.transpose(0, 2, 1) / np.float32(np.sqrt(width))
    places, own = np.arange(keys.shape[1])[None, :], position + np.arange(tokens)[:, None]
    hidden = (places > own) | ((places <= own - window) if window else False)
    scores = np.where(hidden[None], -np.inf, scores)
    sink = np.full((heads, 1, 1), -np.inf, np.float32) if sinks is None else sinks.reshape(heads, 1, 1)
    peak = np.maximum(scores.max(-1, keepdims=True), sink)
    weights = np.exp(scores - peak)
    weights /= weights.sum(-1, keepdims=True) + np.exp(sink - peak)
    out: F32 = (weights @ values).transpose(1, 0, 2).reshape(tokens, -1).astype(np.float32)
    return out
