"""The memory that a step computes in: a buffer for each scratch field of CONTEXT, from a model's description alone.

Pure: sizes only. Knows no weights and no files, and allocates nothing.

Legend: T tokens of a step, H hidden size, E experts, K experts per token, I width of an FFN.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from edge_lfm.kernels.spec.layout import (
    ACTIVATION_BYTES,
    GROUP,
    attention_scratch_bytes,
    latent_scratch_bytes,
    scratch_bytes,
)
from edge_lfm.shape import Ffn, LatentAttention, Shape

CHUNK = 512
"""Tokens of a prefill step. 512 give a 64-expert layer 32 tokens per expert, enough for its kernels to
be bound by arithmetic; the scratch memory grows with it (82 MB for the 24B, by its fields)."""
DRAFT_CHUNK = 64
"""Tokens whose streams a drafter reads at a time."""
CACHE_LINE = 64
"""Bytes. Every buffer begins on a multiple of it."""


@dataclass(frozen=True)
class Buffer:
    """`count` values of `dtype`, whose address goes into a field of CONTEXT."""

    field: str
    count: int
    dtype: type[np.generic]

    @property
    def nbytes(self) -> int:
        return self.count * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Scratch:
    """All buffers of a runner. `thread_bytes`: of `scratch`, the part that one thread works in."""

    buffers: tuple[Buffer, ...]
    thread_bytes: int

    @property
    def nbytes(self) -> int:
        """Bytes that a step of `chunk` tokens touches, alignment included."""
        return sum(buffer.nbytes + CACHE_LINE for buffer in self.buffers)


def blocks_together(slots: int) -> int:
    """Blocks of so many drafts, of a sequence each, that a drafter makes in one pass."""
    return max(1, DRAFT_CHUNK // slots)


def plan_scratch(shape: Shape, chunk: int, threads: int, cols: int = 0) -> Scratch:
    """The buffers of steps of up to `chunk` tokens on `threads` threads; `cols`: of the widest matrix beside them."""
    ffn_width = max(max(layer.ffn.width, layer.ffn.shared) for layer in shape.layers)
    head_width = max((a.width for a in shape.attentions.values()), default=0)
    rank = max((a.rank for a in shape.latents.values()), default=0)
    matrices = scratch_bytes(max(cols, shape.hidden, _widest_mixed(shape), ffn_width, _widest_latent(shape)))
    thread_bytes = max(matrices, attention_scratch_bytes(head_width), latent_scratch_bytes(rank) if rank else 0)
    activations = tuple(_activations(shape, chunk))
    return Scratch((*activations, Buffer("scratch", threads * thread_bytes, np.uint8)), thread_bytes)


def _activations(shape: Shape, chunk: int) -> Iterator[Buffer]:
    """What the threads share: x [T, H] and so on, as the fields of CONTEXT say."""
    hidden, experts, pairs = shape.hidden, max(1, shape.experts), chunk * max(1, shape.top_k)
    yield Buffer("x", chunk * hidden, np.float32)
    yield from _quantized("normed", chunk * hidden)
    if any(layer.post_norms for layer in shape.layers):
        yield Buffer("branch", chunk * hidden, np.float32)
    gates = max((attention.gates for attention in shape.attentions.values()), default=0)
    if gates:
        yield Buffer("gates", chunk * -(-gates // 16) * 16, np.float32)
    yield Buffer("wide", chunk * _widest_in_proj(shape), np.float32)
    yield from _quantized("mixed", chunk * _widest_mixed(shape))
    for latent in set(shape.latents.values()):
        yield from _latents(latent, chunk)
    yield Buffer("router_logits", chunk * -(-experts // 16) * 16, np.float32)
    yield Buffer("chosen", pairs, np.int64)
    yield Buffer("chosen_weight", pairs, np.float32)
    yield Buffer("segments", experts + 1, np.int64)
    yield Buffer("present", experts, np.int64)
    yield Buffer("pair_token", pairs, np.int64)
    yield Buffer("pair_weight", pairs, np.float32)
    yield from _quantized("pairs", pairs * hidden)
    yield from _quantized("gated", chunk * max(_gated(layer.ffn) for layer in shape.layers))


def _latents(latent: LatentAttention, chunk: int) -> Iterator[Buffer]:
    """What attention to latents computes between its first matrix and its last."""
    if latent.query_rank is not None:
        yield from _quantized("low", chunk * latent.query_rank)
        yield Buffer("queries", chunk * _query_rows(latent), np.float32)
    yield from _quantized("plain", chunk * latent.heads * latent.plain)
    yield Buffer("low_queries", chunk * latent.heads * latent.rank, np.float32)
    yield from _quantized("taken", chunk * latent.heads * latent.rank)


def _query_rows(latent: LatentAttention) -> int:
    return latent.heads * (latent.plain + latent.rope.width)


def _gated(ffn: Ffn) -> int:
    """Inputs of the second matrices of an FFN, for one token."""
    return max(ffn.shared, (ffn.router.top_k if ffn.router else 1) * ffn.width)


def _quantized(field: str, values: int) -> Iterator[Buffer]:
    """A float32 buffer, its int8 form (_q), and the record of each group (_s)."""
    yield Buffer(field, values, np.float32)
    yield Buffer(f"{field}_q", values, np.int8)
    yield Buffer(f"{field}_s", values // GROUP * ACTIVATION_BYTES, np.uint8)


def _widest_in_proj(shape: Shape) -> int:
    """Rows of the widest matrix before an operator: q, k and v, or the three parts of a short convolution."""
    attentions = [(a.heads + 2 * a.kv_heads) * a.width for a in shape.attentions.values()]
    latents = [(a.query_rank or _query_rows(a)) + a.rank + a.rope.width for a in shape.latents.values()]
    return max(attentions + latents + [3 * shape.hidden for _ in shape.convs])


def _widest_mixed(shape: Shape) -> int:
    """Columns of the widest matrix after an operator: all heads, or the channels of a short convolution."""
    attentions = [a.heads * a.width for a in shape.attentions.values()]
    latents = [a.heads * a.value for a in shape.latents.values()]
    return max(attentions + latents + [shape.hidden for _ in shape.convs])


def _widest_latent(shape: Shape) -> int:
    """Columns of the widest matrix between those of attention to latents."""
    return max([max(a.query_rank or 0, a.rank, a.plain) for a in shape.latents.values()], default=0)
