"""Grouped-query attention with a running softmax over a float16 or int8 KV cache.

Keys lie transposed in blocks of 16 positions, [kv, C/16, hd, 16], so that 16 scores come out of plain
multiply-adds without a horizontal sum; values lie as [kv, C, hd]. An int8 cache has one scale per head
and position: a key's scale multiplies its score, a value's scale its weight. Position p lies at p modulo C: caches of
a layer that sees a window are rings of whole score blocks, all others have room for every position. Query and key heads
may be normed (RMSNorm over hd, or over all heads) before or after RoPE, which turns the pairs (i, i + hd/2). Scores and
softmax are float32.
What a head gives may be multiplied by sigmoids: one a head, or one a value. A head may have a sink, a logit that takes
its share of every softmax.
(Lfm2MoeAttention, Qwen2Attention, OlmoeAttention, Lfm3Attention, GptOssAttention and HunYuanMoEV1Attention of
transformers 5.24.)
"""

from numba import float32, int32, int64

from edge_lfm.kernels.lang.lowering import ISA
from edge_lfm.kernels.lang.parts import entry
from edge_lfm.kernels.lang.simd import (
    bits_of,
    bits_to_float,
    f32,
    i64,
    kernel,
    larger,
    largest_i32,
    load_f32,
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
)
from edge_lfm.kernels.lang.sync import barrier, claim, raise_error
from edge_lfm.kernels.ops.activations import INFINITY_BITS, NOT_FINITE, check_below, round_activations
from edge_lfm.kernels.ops.maths import sigmoid
from edge_lfm.kernels.ops.norm import rms_norm
from edge_lfm.kernels.ops.query_tiles import attend_float16, attend_int8, put_query, take_mixed
from edge_lfm.kernels.ops.spans import keep_part, merge_parts, scratch_needed, spans_apart
from edge_lfm.kernels.spec.layout import ACTIVATION_BYTES, CONTEXT, GROUP, LAYER, ROW, SPAN, STATE, offsets

CTX, LAY, STA, RW = offsets(CONTEXT), offsets(LAYER), offsets(STATE), offsets(ROW)
ROW_BYTES, STATE_BYTES = ROW.itemsize, STATE.itemsize
MOST_ROWS = max(rows for rows, _ in ISA.query_tiles)
NO_SCORE_BITS = 0x5D000000
"""Of 2**59: below it no dot product of a query and a key of up to 1,024 values overflows."""
NO_HALF_BITS = 0x477FF000
"""Of 65520, the first number that is infinity as float16."""
NO_POSITION = 1 << 62
"""Behind those of any sequence."""


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
    capacity, keys, values = i64(state + STA.capacity), i64(state + STA.keys), i64(state + STA.values)
    at, position = h * capacity, position % capacity
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


@entry
def prepare_heads(ctx, layer, n):
    """Norm and turn q and k of every token in `wide`, float32 [T, (heads + 2 kv) hd]; write k and v to the cache.

    `n`: the layer's number, in the states of each row's sequence.
    """
    hd, heads, kv = i64(layer + LAY.head_dim), i64(layer + LAY.heads), i64(layer + LAY.kv_heads)
    rope_width, whole, last = i64(layer + LAY.rope_width), i64(layer + LAY.norm_all), i64(layer + LAY.norm_last)
    gates = (i64(layer + LAY.gate_rows) + 15) // 16 * 16
    eps, q_norm, k_norm = f32(ctx + CTX.norm_eps), i64(layer + LAY.q_norm), i64(layer + LAY.k_norm)
    sinks = i64(layer + LAY.sinks)
    while True:
        t = claim(ctx, int64(1))
        if t >= i64(ctx + CTX.tokens):
            return
        step_row = i64(ctx + CTX.rows) + t * ROW_BYTES
        position, state = i64(step_row + RW.position), i64(step_row + RW.states) + n * STATE_BYTES
        rope = i64(layer + LAY.rope) + position * rope_width * 4
        row = i64(ctx + CTX.wide) + t * (heads + 2 * kv) * hd * 4
        keys = row + heads * hd * 4
        if last == 0:
            norm_heads(row, q_norm, heads, hd, whole, eps)
            norm_heads(keys, k_norm, kv, hd, whole, eps)
        for h in range(heads + kv):
            rotate(row + h * hd * 4, rope, rope_width)
        if last != 0:
            norm_heads(row, q_norm, heads, hd, whole, eps)
            norm_heads(keys, k_norm, kv, hd, whole, eps)
        check_below(ctx, row, (heads + kv) * hd, NO_SCORE_BITS)
        check_below(ctx, i64(ctx + CTX.gates) + t * gates * 4, gates, INFINITY_BITS)
        if sinks != 0:
            check_below(ctx, sinks, (heads + 15) // 16 * 16, INFINITY_BITS)
        for h in range(kv):
            key, value = keys + h * hd * 4, keys + (kv + h) * hd * 4
            keep(ctx, key, value, state, h, position, hd)


@kernel
def window_start(window, limit):
    """The first position that a token attends to whose own is the last of [0, limit)."""
    return limit - window if 0 < window < limit else int64(0)


@kernel
def positions_seen(ctx, layer, t):
    """[start, limit): the positions that step token `t` attends to."""
    row, window = i64(ctx + CTX.rows) + t * ROW_BYTES, i64(layer + LAY.window)
    limit = i64(row + RW.position) + 1 + i64(row + RW.ahead)
    return window_start(window, limit), limit


@kernel
def attend_rows(ctx, layer, state, token, g, first, count, lowest, highest, scratch):
    """Query rows [first, first + count) of kv head `g`, counted from step token `token` on, over [lowest, highest).

    Row r is head r % group of token r // group; all are of the sequence whose `state` of the layer is given. What they
    weighed is left in the scratch memory.
    """
    hd, heads, kv = i64(layer + LAY.head_dim), i64(layer + LAY.heads), i64(layer + LAY.kv_heads)
    group, capacity, sinks = heads // kv, i64(state + STA.capacity), i64(layer + LAY.sinks)
    begin, end = int64(NO_POSITION), int64(0)
    for m in range(count):
        t, h = token + (first + m) // group, g * group + (first + m) % group
        start, limit = positions_seen(ctx, layer, t)
        sink = sinks + 4 * h if sinks != 0 else int64(0)
        put_query(m, i64(ctx + CTX.wide) + (t * (heads + 2 * kv) + h) * hd * 4, hd, start, limit, sink, scratch)
        begin, end = smaller(begin, start), larger(end, limit)
    begin, end = larger(begin, lowest), smaller(end, highest)
    at, scales = g * capacity * hd, g * capacity * 4
    keys, values = i64(state + STA.keys), i64(state + STA.values)
    if i64(state + STA.is_int8) != 0:
        key_scales, value_scales = i64(state + STA.key_scales) + scales, i64(state + STA.value_scales) + scales
        attend_int8(count, keys + at, values + at, key_scales, value_scales, hd, begin, end, capacity, scratch)
    else:
        at *= 2
        attend_float16(count, keys + at, values + at, int64(0), int64(0), hd, begin, end, capacity, scratch)


@kernel
def take_rows(ctx, layer, token, g, first, count, scratch):
    """What the rows of `attend_rows` weighed -> `mixed`."""
    hd, heads = i64(layer + LAY.head_dim), i64(layer + LAY.heads)
    group = heads // i64(layer + LAY.kv_heads)
    for m in range(count):
        t, h = token + (first + m) // group, g * group + (first + m) % group
        take_mixed(m, i64(ctx + CTX.mixed) + (t * heads + h) * hd * 4, hd, scratch)


@kernel
def keep_rows(ctx, layer, token, g, first, count, span, n, spans, scratch):
    """What the rows of `attend_rows` have of `span`, the n-th of `spans`, as parts [T, heads, spans]."""
    hd, heads = i64(layer + LAY.head_dim), i64(layer + LAY.heads)
    group = heads // i64(layer + LAY.kv_heads)
    for m in range(count):
        t, h = token + (first + m) // group, g * group + (first + m) % group
        keep_part(ctx, m, (t * heads + h) * spans + n, span, hd, scratch_needed(hd), scratch)


@kernel
def tokens_of_an_item(group):
    """Neighbouring tokens whose query rows of a kv head fill whole tiles."""
    return MOST_ROWS // smaller(group & -group, int64(MOST_ROWS))


@kernel
def run_length(ctx, first, end):
    """How many of the step's tokens [first, end) are of the first one's sequence, and follow it."""
    rows = i64(ctx + CTX.rows)
    states, t = i64(rows + first * ROW_BYTES + RW.states), first + 1
    while t < end and i64(rows + t * ROW_BYTES + RW.states) == states:
        t += 1
    return t - first


@kernel
def apply_gates(ctx, layer, t, first, count, out):
    """Heads first .. first + count of token `t`: out, float32 [count, hd], *= sigmoid(gates); nothing without gates."""
    rows, heads, hd = i64(layer + LAY.gate_rows), i64(layer + LAY.heads), i64(layer + LAY.head_dim)
    if rows == 0:
        return
    gates = i64(ctx + CTX.gates) + t * ((rows + 15) // 16) * 64
    for h in range(count):
        gate, row = sigmoid(splat_f32(f32(gates + (first + h) * 4))), out + h * hd * 4
        for i in range(0, hd, 16):
            if rows != heads:  # one for each value
                gate = sigmoid(load_f32(gates + ((first + h) * hd + i) * 4))
            store_f32(row + 4 * i, load_f32(row + 4 * i) * gate)


@kernel
def finish_heads(ctx, layer, t, g):
    """Gates of the heads of group `g` of token `t`, and their int8 form."""
    hd, heads = i64(layer + LAY.head_dim), i64(layer + LAY.heads)
    group = heads // i64(layer + LAY.kv_heads)
    at = (t * heads + g * group) * hd
    q, s = i64(ctx + CTX.mixed_q) + at, i64(ctx + CTX.mixed_s) + at // GROUP * ACTIVATION_BYTES
    apply_gates(ctx, layer, t, g * group, group, i64(ctx + CTX.mixed) + at * 4)
    round_activations(ctx, i64(ctx + CTX.mixed) + at * 4, q, s, group * hd)


@kernel
def attend_span(ctx, layer, n, t, end, g, span, part, spans, scratch):
    """Step tokens [t, end) and kv head `g`, over one of `spans` spans, of which it is number `part`; over all if 1."""
    group = i64(layer + LAY.heads) // i64(layer + LAY.kv_heads)
    lowest, highest = (span * SPAN, (span + 1) * SPAN) if spans > 1 else (int64(0), int64(NO_POSITION))
    while t < end:
        run, state = run_length(ctx, t, end), i64(i64(ctx + CTX.rows) + t * ROW_BYTES + RW.states) + n * STATE_BYTES
        for first in range(0, run * group, MOST_ROWS):
            count = smaller(run * group - first, int64(MOST_ROWS))
            attend_rows(ctx, layer, state, t, g, first, count, lowest, highest, scratch)
            if spans > 1:
                keep_rows(ctx, layer, t, g, first, count, span, part, spans, scratch)
            else:
                take_rows(ctx, layer, t, g, first, count, scratch)
        if spans == 1:
            for own in range(t, t + run):
                finish_heads(ctx, layer, own, g)
        t += run


@kernel
def merge_heads(ctx, layer, first_span, spans, scratch):
    """The parts of every token and kv head of the step: -> mixed and its int8 form."""
    hd, heads, kv = i64(layer + LAY.head_dim), i64(layer + LAY.heads), i64(layer + LAY.kv_heads)
    group = heads // kv
    while True:
        item = claim(ctx, int64(1))
        if item >= i64(ctx + CTX.tokens) * kv:
            return
        t, g = item // kv, item % kv
        start, limit = positions_seen(ctx, layer, t)
        for h in range(g * group, (g + 1) * group):
            row = t * heads + h
            out = i64(ctx + CTX.mixed) + row * hd * 4
            merge_parts(ctx, row * spans, first_span, spans, start, limit, out, hd, scratch_needed(hd), scratch)
        finish_heads(ctx, layer, t, g)


@entry
def attend_tokens(ctx, layer, n, scratch):
    """Every token and kv head of the step: queries in `wide` -> mixed [T, heads hd] and its int8 form.

    `n`: the layer's number, in the states of each row's sequence. Scratch: `attention_scratch_bytes` of this thread.
    """
    hd, heads, kv = i64(layer + LAY.head_dim), i64(layer + LAY.heads), i64(layer + LAY.kv_heads)
    tokens = i64(ctx + CTX.tokens)
    together = tokens_of_an_item(heads // kv)
    parts = (tokens + together - 1) // together
    lowest, highest = int64(NO_POSITION), int64(0)
    for t in range(tokens):
        start, limit = positions_seen(ctx, layer, t)
        lowest, highest = smaller(lowest, start), larger(highest, limit)
    spans = spans_apart(ctx, parts * kv, tokens * heads, lowest, highest, hd, scratch_needed(hd))
    first_span = lowest // SPAN
    while True:
        item = claim(ctx, int64(1))
        if item >= parts * kv * spans:
            break
        # The last tokens of a prompt have the most positions to attend to: they come first.
        part, pair = item % spans, item // spans
        t, g = (parts - 1 - pair // kv) * together, pair % kv
        attend_span(ctx, layer, n, t, smaller(t + together, tokens), g, first_span + part, part, spans, scratch)
    if spans > 1:
        barrier(ctx)
        merge_heads(ctx, layer, first_span, spans, scratch)
