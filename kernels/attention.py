"""Grouped-query attention with a running softmax over a float16 KV cache.

Keys lie transposed in blocks of 16 positions, [kv, C/16, hd, 16], so that 16 scores come out of plain
multiply-adds without a horizontal sum; values lie as [kv, C, hd]. Query and key heads are normed
(RMSNorm over hd) before RoPE, which turns the pairs (i, i + hd/2). Scores and softmax are float32.
(Lfm2MoeAttention of transformers 5.23.)
"""

from math import sqrt

from edge_lfm.kernels.layout import CONTEXT, LAYER, SCORE_BLOCK, STATE, offsets
from edge_lfm.kernels.maths import exp
from edge_lfm.kernels.norm import rms_norm
from edge_lfm.kernels.quantize import quantize_row
from edge_lfm.kernels.simd import (
    f32,
    first_lanes,
    fma_tile,
    i64,
    kernel,
    largest_f32,
    load_f16,
    load_f32,
    load_tile,
    max_f32,
    set_f16_column,
    set_f32,
    smaller,
    splat_f32,
    store_f16,
    store_f32,
    store_tile,
    sum_f32,
    zero_f32,
    zero_tile,
)
from edge_lfm.kernels.sync import claim
from numba import float32, int32, int64

CTX, LAY, STA = offsets(CONTEXT), offsets(LAYER), offsets(STATE)
LOWEST = -3.0e38


@kernel
def rotate(x, rope, width):
    """RoPE of one head in place: rope is float32 [width], cos of width/2 angles, then their sin."""
    half = width // 2 * 4
    for i in range(0, half, 64):
        a, b = load_f32(x + i), load_f32(x + half + i)
        c, s = load_f32(rope + i), load_f32(rope + half + i)
        store_f32(x + i, a * c - b * s)
        store_f32(x + half + i, b * c + a * s)


@kernel
def store_keys(key, cache, position, width):
    """One key head, float32 [width], into column `position` of the transposed cache of its kv head."""
    block = cache + (position // 16) * width * 32 + (position % 16) * 2
    for i in range(0, width, 16):
        set_f16_column(block + i * 32, load_f32(key + 4 * i))


@kernel
def prepare_heads(ctx, layer, state):
    """Norm and turn q and k of every token in `wide`; write k and v to the cache."""
    hd, heads, kv = i64(ctx + CTX.head_dim), i64(ctx + CTX.heads), i64(ctx + CTX.kv_heads)
    capacity, eps = i64(ctx + CTX.capacity), f32(ctx + CTX.norm_eps)
    q_norm, k_norm = i64(layer + LAY.q_norm), i64(layer + LAY.k_norm)
    keys, values = i64(state + STA.keys), i64(state + STA.values)
    while True:
        t = claim(ctx, int64(1))
        if t >= i64(ctx + CTX.tokens):
            return
        position = i64(ctx + CTX.position) + t
        rope = i64(ctx + CTX.rope) + position * hd * 4
        row = i64(ctx + CTX.wide) + t * (heads + 2 * kv) * hd * 4
        for h in range(heads):
            rms_norm(row + h * hd * 4, q_norm, row + h * hd * 4, hd, eps)
            rotate(row + h * hd * 4, rope, hd)
        for h in range(kv):
            key, value = row + (heads + h) * hd * 4, row + (heads + kv + h) * hd * 4
            rms_norm(key, k_norm, key, hd, eps)
            rotate(key, rope, hd)
            store_keys(key, keys + h * capacity * hd * 2, position, hd)
            for i in range(0, hd, 16):
                store_f16(values + ((h * capacity + position) * hd + i) * 2, load_f32(value + 4 * i))


def attend_of(count):
    """The kernel of `count` query heads (neighbours, `stride` bytes apart) over one kv head."""
    zeros, step = zero_tile(count), fma_tile(count)
    load, store = load_tile(count), store_tile(count)
    block_bytes = SCORE_BLOCK * 4

    @kernel
    def score(q, keys, hd, first, last, scale, scores):
        """Scaled scores of positions [first, last) -> scores [count, SCORE_BLOCK], tail lanes -inf."""
        for p in range(first, last, 16):
            acc = zeros()
            block = keys + (p // 16) * hd * 32
            for d in range(hd):
                acc = step(acc, load_f16(block + d * 32), q + 4 * d, hd * 4)
            at = scores + (p - first) * 4
            store(at, acc, block_bytes)
            for m in range(count):
                v = load_f32(at + m * block_bytes) * splat_f32(scale)
                store_f32(at + m * block_bytes, first_lanes(v, int32(smaller(last - p, int64(16)))))

    @kernel
    def weigh(scores, values, hd, length, out):
        """out [count, hd] += scores [count, length] @ values [length, hd]."""
        for d in range(0, hd, 16):
            acc = load(out + 4 * d, hd * 4)
            for p in range(length):
                acc = step(acc, load_f16(values + (p * hd + d) * 2), scores + 4 * p, block_bytes)
            store(out + 4 * d, acc, hd * 4)

    @kernel
    def attend(q, keys, values, hd, limit, scale, scratch, out):
        """out [count, hd] = softmax(q K^T * scale) V over positions [0, limit)."""
        sums = scratch + count * block_bytes
        for m in range(count):
            set_f32(sums + 8 * m, float32(LOWEST))
            set_f32(sums + 8 * m + 4, float32(0.0))
        for i in range(0, count * hd, 16):
            store_f32(out + 4 * i, zero_f32())
        for first in range(0, limit, SCORE_BLOCK):
            last = smaller(first + SCORE_BLOCK, limit)
            score(q, keys, hd, first, last, scale, scratch)
            for m in range(count):
                soften(scratch + m * block_bytes, last - first, sums + 8 * m, out + m * hd * 4, hd)
            weigh(scratch, values + first * hd * 2, hd, last - first, out)
        for m in range(count):
            multiply_row(out + m * hd * 4, hd, float32(1.0) / f32(sums + 8 * m + 4))

    return attend


@kernel
def multiply_row(x, width, factor):
    for i in range(0, width, 16):
        store_f32(x + 4 * i, load_f32(x + 4 * i) * splat_f32(factor))


@kernel
def soften(scores, length, sums, out, hd):
    """Fold one block of scores into the running softmax of a head.

    scores become exp(score - peak), with the new peak; sums is (peak, total), float32; out, the values
    weighed so far, is scaled to the new peak.
    """
    top = splat_f32(f32(sums))
    for i in range(0, length, 16):
        top = max_f32(top, load_f32(scores + 4 * i))
    peak = largest_f32(top)
    total = zero_f32()
    for i in range(0, length, 16):
        e = exp(load_f32(scores + 4 * i) - splat_f32(peak))
        store_f32(scores + 4 * i, e)
        total = total + e
    correction = largest_f32(exp(splat_f32(f32(sums) - peak)))
    set_f32(sums, peak)
    set_f32(sums + 4, f32(sums + 4) * correction + sum_f32(total))
    multiply_row(out, hd, correction)


attend4, attend2, attend1 = attend_of(4), attend_of(2), attend_of(1)


@kernel
def attend_tokens(ctx, state, scratch):
    """Every token and kv head of the step: queries in `wide` -> mixed [T, heads hd] and its int8 form."""
    hd, heads, kv = i64(ctx + CTX.head_dim), i64(ctx + CTX.heads), i64(ctx + CTX.kv_heads)
    tokens, capacity, group = i64(ctx + CTX.tokens), i64(ctx + CTX.capacity), heads // kv
    scale = float32(1.0) / float32(sqrt(float32(hd)))
    while True:
        item = claim(ctx, int64(1))
        if item >= tokens * kv:
            return
        # The last tokens have the most positions to attend to: they come first.
        t, g = tokens - 1 - item // kv, item % kv
        keys = i64(state + STA.keys) + g * capacity * hd * 2
        values = i64(state + STA.values) + g * capacity * hd * 2
        q = i64(ctx + CTX.wide) + (t * (heads + 2 * kv) + g * group) * hd * 4
        at = (t * heads + g * group) * hd
        out, limit = i64(ctx + CTX.mixed) + at * 4, i64(ctx + CTX.position) + t + 1
        h = int64(0)
        while group - h >= 4:
            attend4(q + h * hd * 4, keys, values, hd, limit, scale, scratch, out + h * hd * 4)
            h += 4
        if group - h >= 2:
            attend2(q + h * hd * 4, keys, values, hd, limit, scale, scratch, out + h * hd * 4)
            h += 2
        if group - h >= 1:
            attend1(q + h * hd * 4, keys, values, hd, limit, scale, scratch, out + h * hd * 4)
        quantize_row(ctx, out, i64(ctx + CTX.mixed_q) + at, i64(ctx + CTX.mixed_s) + at // 4, group * hd)
