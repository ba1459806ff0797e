"""Softmax attention of heads of one token over latents and turned keys.

Positions pass in blocks. Of a block of `LATENT_BLOCK` the latents are widened to float32 once, for all heads. Scores
are first of the turned keys, then the products of queries and latents are added, whose sums run along a latent. Where
int8 latents are multiplied as bytes (`latent_bytes.py`), blocks are of `LATENT_BYTES_BLOCK`. Softmax, spans and the
order of positions are those of `query_tiles.py`. Where all this lies: `latent_memory.py`.

Legend: R values of a latent, W values of a key that are turned.
"""

from numba import float32, int64

from edge_lfm.kernels.lang.inner_tiles import add_sums, inner_tile
from edge_lfm.kernels.lang.lowering import ISA
from edge_lfm.kernels.lang.outer_tiles import load_kept_tile, load_outer_tile, outer_tile, store_outer_tile
from edge_lfm.kernels.lang.register_tiles import zero_tile
from edge_lfm.kernels.lang.simd import kernel, load_f16, load_i8_as_f32, prefetch_far, smaller, store_f32
from edge_lfm.kernels.ops import latent_bytes
from edge_lfm.kernels.ops.latent_memory import IN_BYTES, ROWS, VECTORS, block_at, queries_at, row_bytes, set_of
from edge_lfm.kernels.ops.query_tiles import (
    BLOCK_BYTES,
    QUERIES_AT,
    SCORES_AT,
    VECTOR_BYTES,
    begin_span,
    begin_whole,
    merge_span,
    multiply_scores,
    soften_rows,
    weighed_at,
)
from edge_lfm.kernels.spec.layout import LATENT_BLOCK, LATENT_BYTES_BLOCK, QUERY_ROWS, SPAN


def widen_of(in_int8):
    """The kernel that widens the latents of a block."""
    kept_bytes, load = (1, load_i8_as_f32) if in_int8 else (2, load_f16)

    @kernel
    def widen(latents, rank, length, block):
        """latents [length, R] -> block, float32."""
        for p in range(length):
            at, to = latents + p * rank * kept_bytes, block + p * row_bytes(rank)
            for i in range(0, rank, 16):
                store_f32(to + i * 4, load(at + i * kept_bytes))

    return widen


def score_turned_of(vectors, in_int8):
    """The kernel that scores the turned parts of a tile of queries against `vectors` x 16 positions at a time."""
    kept_bytes, strides = 1 if in_int8 else 2, (BLOCK_BYTES, VECTOR_BYTES)
    zeros, load_keys = zero_tile(ROWS * vectors), load_kept_tile(vectors, in_int8)
    step, store = outer_tile(ROWS, vectors, 4), store_outer_tile(ROWS, vectors, strides)

    @kernel
    def score_turned(keys, turned, begin, length, queries, scores):
        """Dot products with positions [begin, length) of a block, in whole tiles; returns the first that is left."""
        while length - begin > 16 * (vectors - 1):
            acc, at = zeros(), keys + begin * turned * kept_bytes
            for d in range(turned):
                v = load_keys(at + d * 16 * kept_bytes, turned * 16 * kept_bytes)
                acc = step(acc, v, queries + d * (QUERY_ROWS * 4))
            store(scores + begin * 4, acc)
            begin += 16 * vectors
        return begin

    return score_turned


def score_latents_of(in_int8):
    """The kernel that adds the products of the queries of a set and the latents of a block."""
    rows, columns = ISA.inner_tile
    kept_bytes = 1 if in_int8 else 2
    zeros, dot, add = (
        zero_tile(rows * columns),
        inner_tile(rows, columns),
        add_sums(*ISA.inner_tile, BLOCK_BYTES, in_int8),
    )

    @kernel
    def score_latents(count, block, rank, length, factors, ahead, scratch):
        """scores [count, length] += queries [count, R] . block [length, R], times `factors`, float32 [length].

        On the way, the latents at `ahead`, those of the next block, are called into the cache: what the processor
        fetches ahead by itself ends with the block.
        """
        stride = row_bytes(rank)
        for p in range(0, length, columns):
            for m in range(0, count, rows):
                acc, x, c = zeros(), scratch + queries_at(rank) + m * stride, block + p * stride
                lines = ahead + p * rank * kept_bytes + m // rows * rank * 4
                for i in range(0, rank * 4, VECTOR_BYTES):
                    prefetch_far(lines + i)
                    acc = dot(acc, x + i, c + i, stride)
                add(scratch + SCORES_AT + m * BLOCK_BYTES + p * 4, acc, factors + p * 4)

    return score_latents


def weigh_of(vectors):
    """The kernel that adds up the latents of a block for a tile of heads, `vectors` x 16 columns."""
    strides = (VECTOR_BYTES, QUERY_ROWS * VECTOR_BYTES)
    load_latents, step = load_outer_tile(1, vectors, (0, VECTOR_BYTES)), outer_tile(ROWS, vectors, BLOCK_BYTES)
    load, store = load_outer_tile(ROWS, vectors, strides), store_outer_tile(ROWS, vectors, strides)

    @kernel
    def weigh(count, block, rank, first, length, scratch):
        """weighed [count, R] += scores [count, length] . block [length, R], of all sets, in columns from `first` on."""
        stride, c = row_bytes(rank), block + first * 4
        for m in range(0, count, ROWS):
            of_set = set_of(m, rank, scratch)
            x = of_set + SCORES_AT + m % QUERY_ROWS * BLOCK_BYTES
            out = of_set + weighed_at(rank) + (first // 16 * QUERY_ROWS + m % QUERY_ROWS) * VECTOR_BYTES
            acc = load(out)
            for p in range(length):
                acc = step(acc, load_latents(c + p * stride), x + p * 4)
            store(out, acc)

    return weigh


weigh, weigh_rest = weigh_of(VECTORS), weigh_of(1)


@kernel
def weigh_block(count, block, rank, length, scratch):
    """`weigh` for all columns."""
    whole = rank // (16 * VECTORS) * (16 * VECTORS)
    for first in range(0, whole, 16 * VECTORS):
        weigh(count, block, rank, first, length, scratch)
    for first in range(whole, rank, 16):
        weigh_rest(count, block, rank, first, length, scratch)


def weights_of(in_int8):
    """The kernel that makes what the latents of a block are weighed by."""
    kept_bytes, score_latents = 1 if in_int8 else 2, score_latents_of(in_int8)
    score_turned, score_rest = score_turned_of(VECTORS, in_int8), score_turned_of(1, in_int8)

    @kernel
    def weights_of_set(count, kept, place, length, block, ahead, scratch):
        """The softmax so far of a set of heads over the block at position `place`: what its latents are weighed by."""
        zero, rank, key_scales, scales = int64(0), kept.rank, kept.key_scales + 4 * place, kept.value_scales + 4 * place
        keys = kept.keys + place * kept.turned * kept_bytes
        for m in range(0, count, ROWS):
            queries, scores = scratch + QUERIES_AT + 4 * m, scratch + SCORES_AT + m * BLOCK_BYTES
            left = score_turned(keys, kept.turned, zero, length, queries, scores)
            score_rest(keys, kept.turned, left, length, queries, scores)
        if in_int8:
            multiply_scores(count, float32(1.0), key_scales, zero, length, scratch)
        score_latents(count, block, rank, length, scales, ahead, scratch)
        multiply_scores(count, kept.scale, zero, zero, length, scratch)
        soften_rows(count, place, zero, length, rank, scratch)
        if in_int8:
            multiply_scores(count, float32(1.0), scales, zero, length, scratch)

    return weights_of_set


def attend_of(in_int8):
    """The kernel for up to LATENT_SETS x QUERY_ROWS heads of a token, in whole tiles of `ROWS`."""
    kept_bytes, in_bytes = 1 if in_int8 else 2, in_int8 and IN_BYTES
    most = LATENT_BYTES_BLOCK if in_bytes else LATENT_BLOCK
    fill = latent_bytes.pack if in_bytes else widen_of(in_int8)
    weights_of_set = latent_bytes.weights_of_set if in_bytes else weights_of(in_int8)
    add_weighed = latent_bytes.weigh_block if in_bytes else weigh_block

    @kernel
    def attend(count, kept, start, limit, scratch):
        """weighed [count, R] and totals of `count` heads, whose queries are put, over positions [start, limit).

        start: a multiple of SPAN.
        """
        rank = kept.rank
        block = scratch + block_at(rank)
        for m in range(count):
            begin_whole(m % QUERY_ROWS, rank, set_of(m, rank, scratch))
        for place in range(start, limit, most):
            length, is_last = smaller(limit - place, int64(most)), place + most >= limit
            latents = kept.values + place * rank * kept_bytes
            ahead = latents if is_last else latents + most * rank * kept_bytes
            fill(latents, rank, length, block)
            for first in range(0, count, QUERY_ROWS):
                own, of_set = smaller(count - first, int64(QUERY_ROWS)), set_of(first, rank, scratch)
                if place % SPAN == 0:
                    begin_span(own, place // SPAN, rank, of_set)
                weights_of_set(own, kept, place, length, block, ahead, of_set)
            add_weighed(count, block, rank, length, scratch)
            if is_last or (place + most) % SPAN == 0:
                for first in range(0, count, QUERY_ROWS):
                    own = smaller(count - first, int64(QUERY_ROWS))
                    merge_span(own, place // SPAN, rank, set_of(first, rank, scratch))

    return attend


attend_float16, attend_int8 = attend_of(False), attend_of(True)
