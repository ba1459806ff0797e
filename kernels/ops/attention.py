"""Grouped-query attention with a running softmax over a float16 or int8 KV cache.

Keys lie transposed in blocks of 16 positions, [kv, C/16, hd, 16], so that 16 scores come out of plain
multiply-adds without a horizontal sum; values lie as [kv, C, hd]. An int8 cache has one scale per head
and position: a key's scale multiplies its score, a value's scale its weight. Query and key heads may be normed
(RMSNorm over hd, or over all heads) before RoPE, which turns the pairs (i, i + hd/2). Scores and softmax are float32.
(Lfm2MoeAttention, Qwen2Attention and OlmoeAttention of transformers 5.24.)
"""

from math import sqrt

from numba import float32, int32, int64

from edge_lfm.kernels.lang.register_tiles import fma_tile, load_tile, store_tile, zero_tile
from edge_lfm.kernels.lang.simd import (
    bits_of,
    bits_to_float,
    f32,
    first_lanes,
    i64,
    kernel,
    largest_f32,
    largest_i32,
    load_f16,
    load_f32,
    load_i8_as_f32,
    max_f32,
    max_i32,
    round_i32,
    set_f16_column,
    set_f32,
    set_i8_column,
    smaller,
    splat_f32,
    splat_i32,
    store_f16,
    store_f32,
    store_i32_as_i8,
    sum_f32,
    zero_f32,
)
from edge_lfm.kernels.lang.sync import claim, raise_error
from edge_lfm.kernels.ops.activations import INFINITY_BITS, NOT_FINITE, check_below, round_activations
from edge_lfm.kernels.ops.maths import exp
from edge_lfm.kernels.ops.norm import rms_norm
from edge_lfm.kernels.spec.layout import ACTIVATION_BYTES, CONTEXT, GROUP, LAYER, ROW, SCORE_BLOCK, STATE, offsets

CTX, LAY, STA, RW = offsets(CONTEXT), offsets(LAYER), offsets(STATE), offsets(ROW)
ROW_BYTES, STATE_BYTES = ROW.itemsize, STATE.itemsize
LOWEST = -3.0e38
NO_SCORE_BITS = 0x5D000000
"""Of 2**59: below it no dot product of a query and a key of up to 1,024 values overflows."""
NO_HALF_BITS = 0x477FF000
"""Of 65520, the first number that is infinity as float16."""


@kernel
def rotate(x, rope, width):
    """Turn a head's first `width` values in place; rope: float32 [width], cos of width/2 angles, then their sin."""
    half = width // 2 * 4
    for i in range(0, half, 64):
        a, b = load_f32(x + i), load_f32(x + half + i)
        c, s = load_f32(rope + i), load_f32(rope + half + i)
        store_f32(x + i, a * c - b * s)
        store_f32(x + half + i, b * c + a * s)


@kernel
def keep_float16(ctx, key, value, keys, values, position, width):
    """One key and one value, float32 [width], into the caches of their kv head; an error is raised if they overflow."""
    check_below(ctx, key, width, NO_HALF_BITS)
    check_below(ctx, value, width, NO_HALF_BITS)
    block = keys + (position // 16) * width * 32 + (position % 16) * 2
    for i in range(0, width, 16):
        set_f16_column(block + i * 32, load_f32(key + 4 * i))
        store_f16(values + (position * width + i) * 2, load_f32(value + 4 * i))


@kernel
def inverse_scale(ctx, x, width, scale):
    """127 / max|x|, its inverse stored at `scale`; an error is raised if x is not finite."""
    magnitude, top = splat_i32(int32(0x7FFFFFFF)), splat_i32(int32(0))
    for i in range(0, width, 16):
        top = max_i32(top, bits_of(load_f32(x + 4 * i)) & magnitude)
    bits = largest_i32(top)
    if bits >= int32(INFINITY_BITS):
        raise_error(ctx, int64(NOT_FINITE))
        bits = int32(0)
    largest = bits_to_float(bits)
    set_f32(scale, largest / float32(127.0))
    return float32(127.0) / largest if largest > float32(1e-30) else float32(0.0)


@kernel
def keep_int8(ctx, key, value, keys, values, key_scales, value_scales, position, width):
    """As `keep_float16`, with one scale for the key and one for the value."""
    by_key = splat_f32(inverse_scale(ctx, key, width, key_scales + 4 * position))
    by_value = splat_f32(inverse_scale(ctx, value, width, value_scales + 4 * position))
    block = keys + (position // 16) * width * 16 + position % 16
    for i in range(0, width, 16):
        set_i8_column(block + i * 16, round_i32(load_f32(key + 4 * i) * by_key))
        store_i32_as_i8(values + position * width + i, round_i32(load_f32(value + 4 * i) * by_value))


@kernel
def keep(ctx, key, value, state, h, position, width):
    """One key and one value of kv head `h`, float32 [width], into a sequence's caches of this layer."""
    keys, values, at = i64(state + STA.keys), i64(state + STA.values), h * i64(state + STA.capacity)
    if i64(state + STA.is_int8) != 0:
        key_scales, value_scales = i64(state + STA.key_scales) + at * 4, i64(state + STA.value_scales) + at * 4
        keep_int8(ctx, key, value, keys + at * width, values + at * width, key_scales, value_scales, position, width)
    else:
        keep_float16(ctx, key, value, keys + at * width * 2, values + at * width * 2, position, width)


@kernel
def norm_heads(x, weight, heads, width, whole, eps):
    """RMSNorm of each of `heads` heads x [width], or of all as one row if `whole`; nothing if there is no weight."""
    if weight == 0:
        return
    rows, size = (int64(1), heads * width) if whole != 0 else (heads, width)
    for h in range(rows):
        rms_norm(x + h * size * 4, weight, x + h * size * 4, size, eps)


@kernel
def prepare_heads(ctx, layer, n):
    """Norm and turn q and k of every token in `wide`, float32 [T, (heads + 2 kv) hd]; write k and v to the cache.

    `n`: the layer's number, in the states of each row's sequence.
    """
    hd, heads, kv = i64(layer + LAY.head_dim), i64(layer + LAY.heads), i64(layer + LAY.kv_heads)
    rope_width, whole = i64(layer + LAY.rope_width), i64(layer + LAY.norm_all)
    eps, q_norm, k_norm = f32(ctx + CTX.norm_eps), i64(layer + LAY.q_norm), i64(layer + LAY.k_norm)
    while True:
        t = claim(ctx, int64(1))
        if t >= i64(ctx + CTX.tokens):
            return
        step_row = i64(ctx + CTX.rows) + t * ROW_BYTES
        position, state = i64(step_row + RW.position), i64(step_row + RW.states) + n * STATE_BYTES
        rope = i64(layer + LAY.rope) + position * rope_width * 4
        row = i64(ctx + CTX.wide) + t * (heads + 2 * kv) * hd * 4
        norm_heads(row, q_norm, heads, hd, whole, eps)
        norm_heads(row + heads * hd * 4, k_norm, kv, hd, whole, eps)
        for h in range(heads):
            rotate(row + h * hd * 4, rope, rope_width)
        check_below(ctx, row, heads * hd, NO_SCORE_BITS)
        for h in range(kv):
            key, value = row + (heads + h) * hd * 4, row + (heads + kv + h) * hd * 4
            rotate(key, rope, rope_width)
            check_below(ctx, key, hd, NO_SCORE_BITS)
            keep(ctx, key, value, state, h, position, hd)


def score_of(count, in_int8):
    """The scores of `count` query heads, neighbours in memory, against one kv head of a float16 or int8 cache."""
    load_kept, kept_bytes = (load_i8_as_f32, 1) if in_int8 else (load_f16, 2)
    zeros, step, store = zero_tile(count), fma_tile(count), store_tile(count)
    block_bytes = SCORE_BLOCK * 4

    @kernel
    def score(q, keys, key_scales, hd, first, last, scale, scores):
        """Scaled scores of positions [first, last) -> scores [count, SCORE_BLOCK], tail lanes -inf."""
        for p in range(first, last, 16):
            acc = zeros()
            block = keys + p * hd * kept_bytes
            for d in range(hd):
                acc = step(acc, load_kept(block + d * 16 * kept_bytes), q + 4 * d, hd * 4)
            at = scores + (p - first) * 4
            store(at, acc, block_bytes)
            factor = splat_f32(scale)
            if in_int8:
                factor = factor * load_f32(key_scales + 4 * p)
            for m in range(count):
                v = load_f32(at + m * block_bytes) * factor
                store_f32(at + m * block_bytes, first_lanes(v, int32(smaller(last - p, int64(16)))))

    return score


def weigh_of(count, in_int8):
    """The values of one kv head, weighed by the softmax of `count` query heads."""
    load_kept, kept_bytes = (load_i8_as_f32, 1) if in_int8 else (load_f16, 2)
    step, load, store = fma_tile(count), load_tile(count), store_tile(count)
    block_bytes = SCORE_BLOCK * 4

    @kernel
    def weigh(scores, values, value_scales, hd, begin, length, out):
        """out [count, hd] += scores [count, length] @ values [length, hd], from position `begin` of these on.

        Scores may be scaled in place.
        """
        if in_int8:
            for p in range(0, length, 16):
                for m in range(count):
                    at = scores + m * block_bytes + 4 * p
                    store_f32(at, load_f32(at) * load_f32(value_scales + 4 * p))
        for d in range(0, hd, 16):
            acc = load(out + 4 * d, hd * 4)
            for p in range(begin, length):
                acc = step(acc, load_kept(values + (p * hd + d) * kept_bytes), scores + 4 * p, block_bytes)
            store(out + 4 * d, acc, hd * 4)

    return weigh


def attend_of(count, in_int8):
    """`count` query heads over one kv head, block by block of positions."""
    score, weigh = score_of(count, in_int8), weigh_of(count, in_int8)
    kept_bytes, block_bytes = 1 if in_int8 else 2, SCORE_BLOCK * 4

    @kernel
    def attend(q, keys, values, key_scales, value_scales, hd, start, limit, scale, scratch, out):
        """out [count, hd] = softmax(q K^T * scale) V over positions [start, limit)."""
        sums = scratch + count * block_bytes
        for m in range(count):
            set_f32(sums + 8 * m, float32(LOWEST))
            set_f32(sums + 8 * m + 4, float32(0.0))
        for i in range(0, count * hd, 16):
            store_f32(out + 4 * i, zero_f32())
        begin = start % 16  # keys lie in blocks of 16: the first block may begin before the window does
        for first in range(start - begin, limit, SCORE_BLOCK):
            last = smaller(first + SCORE_BLOCK, limit)
            score(q, keys, key_scales, hd, first, last, scale, scratch)
            for m in range(count):
                for i in range(begin):
                    set_f32(scratch + m * block_bytes + 4 * i, float32(LOWEST))
                soften(scratch + m * block_bytes, last - first, sums + 8 * m, out + m * hd * 4, hd)
            weigh(scratch, values + first * hd * kept_bytes, value_scales + first * 4, hd, begin, last - first, out)
            begin = int64(0)
        for m in range(count):
            multiply_row(out + m * hd * 4, hd, float32(1.0) / f32(sums + 8 * m + 4))

    return attend


@kernel
def multiply_row(x, width, factor):
    """x float32 [width] *= factor."""
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


def attend_group_of(in_int8):
    """All query heads of one kv head, in tiles of 4, 2 and 1."""
    attend4, attend2, attend1 = attend_of(4, in_int8), attend_of(2, in_int8), attend_of(1, in_int8)
    kept_bytes = 1 if in_int8 else 2

    @kernel
    def attend_group(q, state, g, hd, group, start, limit, scale, scratch, out):
        """q and out: float32 [group, hd], the query heads of kv head `g`; over positions [start, limit)."""
        capacity = i64(state + STA.capacity)
        keys = i64(state + STA.keys) + g * capacity * hd * kept_bytes
        values = i64(state + STA.values) + g * capacity * hd * kept_bytes
        ks, vs = i64(state + STA.key_scales) + g * capacity * 4, i64(state + STA.value_scales) + g * capacity * 4
        h = int64(0)
        while group - h >= 4:
            attend4(q + h * hd * 4, keys, values, ks, vs, hd, start, limit, scale, scratch, out + h * hd * 4)
            h += 4
        if group - h >= 2:
            attend2(q + h * hd * 4, keys, values, ks, vs, hd, start, limit, scale, scratch, out + h * hd * 4)
            h += 2
        if group - h >= 1:
            attend1(q + h * hd * 4, keys, values, ks, vs, hd, start, limit, scale, scratch, out + h * hd * 4)

    return attend_group


attend_float16, attend_int8 = attend_group_of(False), attend_group_of(True)


@kernel
def window_start(window, limit):
    """The first position that a token attends to whose own is the last of [0, limit)."""
    return limit - window if 0 < window < limit else int64(0)


@kernel
def attend_tokens(ctx, layer, n, scratch):
    """Every token and kv head of the step: queries in `wide` -> mixed [T, heads hd] and its int8 form.

    `n`: the layer's number, in the states of each row's sequence. Scratch: `ATTENTION_SCRATCH_BYTES` of this thread.
    """
    hd, heads, kv = i64(layer + LAY.head_dim), i64(layer + LAY.heads), i64(layer + LAY.kv_heads)
    tokens, group = i64(ctx + CTX.tokens), heads // kv
    scale = float32(1.0) / float32(sqrt(float32(hd)))
    while True:
        item = claim(ctx, int64(1))
        if item >= tokens * kv:
            return
        # The last tokens of a prompt have the most positions to attend to: they come first.
        t, g = tokens - 1 - item // kv, item % kv
        q = i64(ctx + CTX.wide) + (t * (heads + 2 * kv) + g * group) * hd * 4
        at = (t * heads + g * group) * hd
        step_row = i64(ctx + CTX.rows) + t * ROW_BYTES
        state = i64(step_row + RW.states) + n * STATE_BYTES
        out, limit = i64(ctx + CTX.mixed) + at * 4, i64(step_row + RW.position) + 1
        start = window_start(i64(layer + LAY.window), limit)
        if i64(state + STA.is_int8) != 0:
            attend_int8(q, state, g, hd, group, start, limit, scale, scratch, out)
        else:
            attend_float16(q, state, g, hd, group, start, limit, scale, scratch, out)
        round_activations(
            ctx, out, i64(ctx + CTX.mixed_q) + at, i64(ctx + CTX.mixed_s) + at // GROUP * ACTIVATION_BYTES, group * hd
        )
