"""Scores and weighed sums of int8 latents by dot products of bytes, for tiers that add up four of them at once.

Queries are rounded as for other int8 keys (`integer_scores.py`). So are the weights of a block, of each head by itself:
a weight times its latent's scale, to 1 / `QUERY_STEPS` of the block's largest. Sums of a block are exact; those of
blocks are added in float32. A dot product takes four neighbouring values of 16 latents, or 16 columns of four
latents, so the latents of a block are put into both orders first, for all heads.

Legend: R values of a latent.
"""

from numba import float32, int64

from edge_lfm.kernels.lang.byte_squares import pack_columns, pack_rows
from edge_lfm.kernels.lang.outer_tiles import load_fours
from edge_lfm.kernels.lang.simd import kernel, load_f32, load_i8, prefetch_far, splat_f32
from edge_lfm.kernels.ops.integer_scores import factors_at, integer_products_of, round_row
from edge_lfm.kernels.ops.latent_memory import ROWS, VECTORS, queries_at, set_of, turned_at, weights_at
from edge_lfm.kernels.ops.query_tiles import (
    BLOCK_BYTES,
    SCORES_AT,
    VECTOR_BYTES,
    mask_edges,
    multiply_scores,
    soften_rows,
    weighed_at,
)
from edge_lfm.kernels.spec.layout import LATENT_BYTES_BLOCK, QUERY_ROWS

ACCUMULATORS = ROWS * VECTORS
multiply_keys = integer_products_of(ROWS, ACCUMULATORS, load_fours, True, BLOCK_BYTES)
multiply_latents = integer_products_of(ROWS, ACCUMULATORS, load_i8, False, BLOCK_BYTES, True)
weigh_latents = integer_products_of(ROWS, ACCUMULATORS, load_i8, False, VECTOR_BYTES, True)


@kernel
def pack(latents, rank, length, block):
    """latents, int8 [length, R] -> by fours of columns, then by fours of positions, each [R, LATENT_BYTES_BLOCK]."""
    by_positions = block + rank * int64(LATENT_BYTES_BLOCK)
    for p in range(0, length, 16):
        for i in range(0, rank, 16):
            at = latents + p * rank + i
            pack_rows(at, rank, block + p * rank + i * 16)
            pack_columns(at, rank, by_positions + i * LATENT_BYTES_BLOCK + p * 16)


@kernel
def weights_of_set(count, kept, place, length, block, ahead, scratch):
    """The softmax so far of a set of heads over the block at position `place`: what its latents are weighed by.

    On the way, the latents at `ahead`, those of the next block, are called into the cache.
    """
    zero, rank, turned = int64(0), kept.rank, kept.turned
    keys, key_scales, scales = kept.keys + place * turned, kept.key_scales + 4 * place, kept.value_scales + 4 * place
    of_latents, of_keys = scratch + queries_at(rank), scratch + turned_at(rank)
    for p in range(0, length, 16):
        for line in range(0, 16 * rank, 64):
            prefetch_far(ahead + p * rank + line)
        for m in range(0, count, ROWS):
            at, of_key = scratch + SCORES_AT + m * BLOCK_BYTES + 4 * p, load_f32(key_scales + 4 * p)
            multiply_keys(keys + p * turned, turned, of_keys + 16 * m, of_keys + factors_at(turned) + 4 * m, of_key, at)
            of_latent, factors = load_f32(scales + 4 * p), of_latents + factors_at(rank) + 4 * m
            multiply_latents(block + p * rank, rank, of_latents + 16 * m, factors, of_latent, at)
    soften_rows(count, place, zero, length, rank, scratch)
    multiply_scores(count, float32(1.0), scales, zero, length, scratch)
    weights = scratch + weights_at(rank)
    for m in range(count):
        at = scratch + SCORES_AT + m * BLOCK_BYTES
        mask_edges(at, zero, length, float32(0.0))  # scales of places that nothing was kept in may be NaN
        factors = weights + factors_at(int64(LATENT_BYTES_BLOCK)) + 4 * m
        round_row(at, (length + 15) // 16 * 16, float32(1.0), weights + 16 * m, factors)


@kernel
def weigh_block(count, block, rank, length, scratch):
    """weighed [count, R] += weights [count, length] . block [length, R], of all sets."""
    by_positions, one = block + rank * int64(LATENT_BYTES_BLOCK), splat_f32(float32(1.0))
    for first in range(0, rank, 16):
        columns = by_positions + first * LATENT_BYTES_BLOCK
        for m in range(0, count, ROWS):
            of_set, row = set_of(m, rank, scratch), m % QUERY_ROWS
            weights, out = of_set + weights_at(rank), of_set + weighed_at(rank) + (first // 16 * QUERY_ROWS + row) * 64
            factors = weights + factors_at(int64(LATENT_BYTES_BLOCK)) + 4 * row
            weigh_latents(columns, (length + 15) // 16 * 16, weights + 16 * row, factors, one, out)
