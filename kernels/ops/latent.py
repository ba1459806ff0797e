"""Latent attention, absorbed: each head's query is moved into the space of the latents, and what it takes of them out.

A position keeps its normed latent c, [1, C, R], and a turned key r that all heads share, [1, C/16, W, 16]: the caches
of attention with one kv head whose keys have W values and whose values have R (`attention.py`). A score is low . c plus
turned . r; an int8 cache has a scale for c and one for r.

    low = K_h' plain;  taken = sum of p c;  mixed = V_h taken

Between the two stands attention of heads to latents (`latent_heads.py`).
(DeepseekV3Attention of transformers 5.24; defined in `spec/ref_latent.py`.)

Legend: T tokens, R values of a latent, W values of a key that are turned.
"""

from numba import int64

from edge_lfm.kernels.lang.simd import (
    copy_bytes,
    f32,
    i64,
    kernel,
    load_f32,
    round_i32,
    set_f16_column,
    set_i8_column,
    smaller,
    splat_f32,
    store_f16,
    store_i32_as_i8,
)
from edge_lfm.kernels.lang.sync import barrier, claim
from edge_lfm.kernels.ops.activations import check_below, round_activations, round_group
from edge_lfm.kernels.ops.attention import NO_HALF_BITS, NO_SCORE_BITS, inverse_scale, rotate
from edge_lfm.kernels.ops.latent_heads import attend_latents, query_of
from edge_lfm.kernels.ops.matmul import multiply_matrix, multiply_rows
from edge_lfm.kernels.ops.norm import rms_norm
from edge_lfm.kernels.ops.operands import Inputs, Outputs, from_token
from edge_lfm.kernels.spec.layout import (
    ACTIVATION_BYTES,
    CONTEXT,
    EXPERT_SCRATCH_BYTES,
    GROUP,
    LATENT,
    LAYER,
    MATRIX,
    ROW,
    STATE,
    offsets,
)

CTX, LAY, LAT, MAT, STA, RW = (offsets(record) for record in (CONTEXT, LAYER, LATENT, MATRIX, STATE, ROW))
ROW_BYTES, STATE_BYTES = ROW.itemsize, STATE.itemsize
TILES_AT_ONCE = 8
"""Row tiles of a head's matrix that a thread draws."""


@kernel
def keep_latent(ctx, c, key, rank, turned, state, position):
    """One latent, float32 [R], and one turned key [W] into a sequence's caches of this layer."""
    keys, values = i64(state + STA.keys), i64(state + STA.values)
    block = (position // 16) * turned * 16 + position % 16
    if i64(state + STA.is_int8) != 0:
        by_key = splat_f32(inverse_scale(ctx, key, turned, i64(state + STA.key_scales) + 4 * position))
        by_value = splat_f32(inverse_scale(ctx, c, rank, i64(state + STA.value_scales) + 4 * position))
        for i in range(0, turned, 16):
            set_i8_column(keys + block + i * 16, round_i32(load_f32(key + 4 * i) * by_key))
        for i in range(0, rank, 16):
            store_i32_as_i8(values + position * rank + i, round_i32(load_f32(c + 4 * i) * by_value))
        return
    check_below(ctx, key, turned, NO_HALF_BITS)
    check_below(ctx, c, rank, NO_HALF_BITS)
    for i in range(0, turned, 16):
        set_f16_column(keys + 2 * block + i * 32, load_f32(key + 4 * i))
    for i in range(0, rank, 16):
        store_f16(values + (position * rank + i) * 2, load_f32(c + 4 * i))


@kernel
def keep_latents(ctx, layer, latent, n):
    """Of every token in `wide`: its query's latent, normed, to `low` and its int8 form; c and r to the cache."""
    rows, rank, turned = i64(layer + LAY.in_proj_rows), i64(latent + LAT.rank), i64(layer + LAY.rope_width)
    query_rank, eps = i64(latent + LAT.q_b_cols), f32(latent + LAT.eps)
    while True:
        t = claim(ctx, int64(1))
        if t >= i64(ctx + CTX.tokens):
            return
        step_row = i64(ctx + CTX.rows) + t * ROW_BYTES
        position, state = i64(step_row + RW.position), i64(step_row + RW.states) + n * STATE_BYTES
        row = i64(ctx + CTX.wide) + t * rows * 4
        if query_rank != 0:
            low, at = i64(ctx + CTX.low) + t * query_rank * 4, t * query_rank
            rms_norm(row, i64(latent + LAT.q_norm), low, query_rank, eps)
            q, s = i64(ctx + CTX.low_q) + at, i64(ctx + CTX.low_s) + at // GROUP * ACTIVATION_BYTES
            round_activations(ctx, low, q, s, query_rank)
        key = row + (rows - turned) * 4
        c = key - rank * 4
        rms_norm(c, i64(latent + LAT.c_norm), c, rank, eps)
        rotate(key, i64(layer + LAY.rope) + position * turned * 4, turned)
        check_below(ctx, c, rank, NO_SCORE_BITS)
        check_below(ctx, key, turned, NO_SCORE_BITS)
        keep_latent(ctx, c, key, rank, turned, state, position)


@kernel
def split_queries(ctx, layer, latent):
    """Turn the second part of every head of every token; its first to `plain` [heads, T, plain] and its int8 form."""
    tokens, heads, plain = i64(ctx + CTX.tokens), i64(latent + LAT.heads), i64(latent + LAT.k_b_cols)
    turned = i64(layer + LAY.rope_width)
    while True:
        t = claim(ctx, int64(1))
        if t >= tokens:
            return
        position = i64(i64(ctx + CTX.rows) + t * ROW_BYTES + RW.position)
        rope, query = i64(layer + LAY.rope) + position * turned * 4, query_of(ctx, layer, latent, t)
        for h in range(heads):
            q, at = query + h * (plain + turned) * 4, (h * tokens + t) * plain
            rotate(q + plain * 4, rope, turned)
            check_below(ctx, q + plain * 4, turned, NO_SCORE_BITS)
            copy_bytes(i64(ctx + CTX.plain) + at * 4, q, plain * 4)
            s = i64(ctx + CTX.plain_s) + at // GROUP * ACTIVATION_BYTES
            round_activations(ctx, q, i64(ctx + CTX.plain_q) + at, s, plain)


@kernel
def multiply_heads(ctx, matrix, heads, x, out, area):
    """Each head's rows of a matrix times its own inputs: x [heads, T, cols] -> out, float32 [T, rows]."""
    tokens, cols, tiles = i64(ctx + CTX.tokens), i64(matrix + MAT.cols), i64(matrix + MAT.rows) // 16 // heads
    parts = (tiles + TILES_AT_ONCE - 1) // TILES_AT_ONCE
    while True:
        item = claim(ctx, int64(1))
        if item >= heads * parts:
            return
        h, first = item // parts, item % parts * TILES_AT_ONCE
        begin, end = h * tiles + first, h * tiles + smaller(first + TILES_AT_ONCE, tiles)
        multiply_rows(matrix, begin, end, from_token(x, h * tokens, cols), out, tokens, area)


@kernel
def make_values(ctx, latent, area):
    """What each head took, times its rows of V -> mixed [T, heads value] and its int8 form, 32 rows at a time."""
    matrix, tokens, heads = latent + LAT.v_b, i64(ctx + CTX.tokens), i64(latent + LAT.heads)
    width, rank = i64(latent + LAT.v_b_rows), i64(latent + LAT.v_b_cols)
    taken = Inputs(i64(ctx + CTX.taken), i64(ctx + CTX.taken_q), i64(ctx + CTX.taken_s))
    out = Outputs(i64(ctx + CTX.mixed), width * 4, int64(0))
    while True:
        item = claim(ctx, int64(1))
        if item * GROUP >= width:
            return
        h = item * GROUP // (width // heads)
        multiply_rows(matrix, 2 * item, 2 * item + 2, from_token(taken, h * tokens, rank), out, tokens, area)
        for t in range(tokens):
            at = t * width + item * GROUP
            low, high = load_f32(out.at + at * 4), load_f32(out.at + at * 4 + 64)
            s = i64(ctx + CTX.mixed_s) + at // GROUP * ACTIVATION_BYTES
            round_group(ctx, low, high, i64(ctx + CTX.mixed_q) + at, s)


@kernel
def apply_latents(ctx, layer, n, scratch):
    """From `wide` to `mixed`, of every token; `n`: the layer's number. A barrier is to follow."""
    latent, tokens, area = i64(layer + LAY.latent), i64(ctx + CTX.tokens), scratch + EXPERT_SCRATCH_BYTES
    heads = i64(latent + LAT.heads)
    keep_latents(ctx, layer, latent, n)
    barrier(ctx)
    if i64(latent + LAT.q_b_cols) != 0:
        low = Inputs(i64(ctx + CTX.low), i64(ctx + CTX.low_q), i64(ctx + CTX.low_s))
        queries = Outputs(i64(ctx + CTX.queries), i64(latent + LAT.q_b_rows) * 4, int64(0))
        multiply_matrix(ctx, latent + LAT.q_b, low, queries, tokens, area)
        barrier(ctx)
    split_queries(ctx, layer, latent)
    barrier(ctx)
    plain = Inputs(i64(ctx + CTX.plain), i64(ctx + CTX.plain_q), i64(ctx + CTX.plain_s))
    moved = Outputs(i64(ctx + CTX.low_queries), i64(latent + LAT.k_b_rows) * 4, int64(0))
    multiply_heads(ctx, latent + LAT.k_b, heads, plain, moved, area)
    barrier(ctx)
    attend_latents(ctx, layer, n, scratch)
    barrier(ctx)
    make_values(ctx, latent, area)
