"""Softmax attention of a tile of heads of one token over latents and turned keys.

Like `query_tiles.py`, whose scratch memory and passes it uses: a block of scores is first of the turned keys, then the
products of latents are added. Those lie position by position, so that the sums of products run along a latent.

Legend: R values of a latent, W values of a key that are turned.
"""

from numba import float32, int64

from edge_lfm.kernels.lang.lowering import ISA
from edge_lfm.kernels.lang.simd import (
    f32,
    fma,
    kernel,
    load_f16,
    load_f32,
    load_i8_as_f32,
    set_f32,
    smaller,
    sum_f32,
    zero_f32,
)
from edge_lfm.kernels.ops.query_tiles import (
    BLOCK_BYTES,
    SCORES_AT,
    begin_span,
    begin_whole,
    merge_span,
    multiply_scores,
    nothing_left,
    score_of,
    soften_rows,
    weigh_of,
)
from edge_lfm.kernels.spec.layout import SCORE_BLOCK, SPAN


@kernel
def add_to(score, value):
    """A score in memory, and more."""
    set_f32(score, f32(score) + value)


def add_scores_of(in_int8):
    """The kernel that adds the products of queries and latents to the scores of a block."""
    kept_bytes = 1 if in_int8 else 2
    load = load_i8_as_f32 if in_int8 else load_f16

    @kernel
    def add_scores(count, low, rank, values, scales, length, scratch):
        """scores [count, length] += low [count, R] . latents [length, R], and the scale of each at `scales`."""
        for p in range(length):
            c, at = values + p * rank * kept_bytes, scratch + SCORES_AT + p * 4
            scale = f32(scales + 4 * p) if in_int8 else float32(1.0)
            m = int64(0)
            while count - m >= 4:
                q = low + m * rank * 4
                s0, s1, s2, s3 = zero_f32(), zero_f32(), zero_f32(), zero_f32()
                for i in range(0, rank, 16):
                    v, x = load(c + i * kept_bytes), q + i * 4
                    s0 = fma(v, load_f32(x), s0)
                    s1 = fma(v, load_f32(x + rank * 4), s1)
                    s2 = fma(v, load_f32(x + rank * 8), s2)
                    s3 = fma(v, load_f32(x + rank * 12), s3)
                to = at + m * BLOCK_BYTES
                add_to(to, sum_f32(s0) * scale)
                add_to(to + BLOCK_BYTES, sum_f32(s1) * scale)
                add_to(to + 2 * BLOCK_BYTES, sum_f32(s2) * scale)
                add_to(to + 3 * BLOCK_BYTES, sum_f32(s3) * scale)
                m += 4
            while m < count:
                s0 = zero_f32()
                for i in range(0, rank, 16):
                    s0 = fma(load(c + i * kept_bytes), load_f32(low + (m * rank + i) * 4), s0)
                add_to(at + m * BLOCK_BYTES, sum_f32(s0) * scale)
                m += 1

    return add_scores


def attend_latent_tile_of(rows, vectors, in_int8):
    """The kernel for up to `rows` heads; `vectors` as in `query_tiles.attend_tile_of`."""
    kept_bytes = 1 if in_int8 else 2
    score, weigh, add_scores = (
        score_of(rows, vectors, in_int8),
        weigh_of(rows, vectors, in_int8),
        add_scores_of(in_int8),
    )
    score_rest, weigh_rest = nothing_left, nothing_left
    if vectors > 1:
        score_rest, weigh_rest = score_of(rows, 1, in_int8), weigh_of(rows, 1, in_int8)

    @kernel
    def attend_tile(count, low, rank, turned, keys, values, key_scales, value_scales, limit, scale, scratch):
        """weighed [count, R] and totals of `count` heads, whose turned parts are put, over positions [0, limit)."""
        for m in range(count):
            begin_whole(m, rank, scratch)
        zero = int64(0)
        for block in range(0, limit, SCORE_BLOCK):
            length, span = smaller(limit - block, int64(SCORE_BLOCK)), block // SPAN
            if block % SPAN == 0:
                begin_span(count, span, rank, scratch)
            these, those = keys + block * turned * kept_bytes, values + block * rank * kept_bytes
            left = score(these, turned, zero, length, those, scratch)
            score_rest(these, turned, left, length, those, scratch)
            if in_int8:
                multiply_scores(count, float32(1.0), key_scales + 4 * block, zero, length, scratch)
            add_scores(count, low, rank, those, value_scales + 4 * block, length, scratch)
            multiply_scores(count, scale, zero, zero, length, scratch)
            soften_rows(count, block, zero, length, rank, scratch)
            if in_int8:
                multiply_scores(count, float32(1.0), value_scales + 4 * block, zero, length, scratch)
            left = weigh(those, rank, zero, zero, length, scratch)
            weigh_rest(those, rank, left, zero, length, scratch)
            if block % SPAN == SPAN - SCORE_BLOCK or block + SCORE_BLOCK >= limit:
                merge_span(count, span, rank, scratch)

    return attend_tile


def attend_latent_tiles_of(in_int8):
    """The kernel that takes the smallest of the tier's tiles that holds all heads."""
    smallest, *larger_tiles = sorted(ISA.query_tiles)
    attend, most = attend_latent_tile_of(*smallest, in_int8), smallest[0]
    for tile in larger_tiles:
        attend, most = _either(attend, most, attend_latent_tile_of(*tile, in_int8)), tile[0]
    return attend


def _either(attend_few, few, attend_many):
    @kernel
    def attend(count, low, rank, turned, keys, values, key_scales, value_scales, limit, scale, scratch):
        if count <= few:
            attend_few(count, low, rank, turned, keys, values, key_scales, value_scales, limit, scale, scratch)
        else:
            attend_many(count, low, rank, turned, keys, values, key_scales, value_scales, limit, scale, scratch)

    return attend


attend_latents_float16, attend_latents_int8 = attend_latent_tiles_of(False), attend_latent_tiles_of(True)
