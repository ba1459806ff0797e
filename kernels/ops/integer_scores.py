"""Scores of int8 keys by dot products of bytes, for tiers that add up four of them at once.

A query is rounded to 1 / `QUERY_STEPS` of its largest value. That is two int8: 128 * high + low, so each score takes
two dot products, whose sums are exact. The rounding is below that of float16 keys, and keys are not widened.

A thread's scratch memory: the queries [hd / 16, 2, R, 16], int8, high before low; then float32 [R], what a row's sums
are multiplied by, and int32 [R], what they begin with.
"""

from numba import float32, int32, int64

from edge_lfm.kernels.lang.dots import SIGNED_ZERO_POINT
from edge_lfm.kernels.lang.outer_tiles import load_fours, splat_tile, store_sums
from edge_lfm.kernels.lang.register_tiles import dot_tile, zero_int_tile
from edge_lfm.kernels.lang.simd import (
    bits_of,
    from_bits,
    kernel,
    largest_f32,
    load_f32,
    max_f32,
    prefetch,
    round_i32,
    set_f32,
    set_i8_column,
    set_i32,
    splat_f32,
    splat_i32,
    store_f32,
    store_i32,
    store_i32_as_i8,
    sum_i32,
    to_f32,
    where_above,
    zero_f32,
    zero_i32,
)
from edge_lfm.kernels.spec.layout import QUERY_ROWS, QUERY_STEPS, SCORE_BLOCK

PIECE_BYTES = 16 * QUERY_ROWS
AHEAD = 64
"""Positions whose keys are called into the cache meanwhile."""


@kernel
def factors_at(hd):
    """Offset of the factors from the queries."""
    return hd * int64(2 * QUERY_ROWS)


@kernel
def integer_bytes(hd):
    """Of rows of `hd` integers, their factors and beginnings."""
    return factors_at(hd) + int64(8 * QUERY_ROWS)


@kernel
def round_queries(queries, hd, scale, out):
    """queries, float32 [hd, R] -> the queries as integers, at `out`; scores are multiplied by `scale`."""
    magnitude, top = splat_i32(int32(0x7FFFFFFF)), zero_f32()
    for d in range(hd):
        top = max_f32(top, from_bits(bits_of(load_f32(queries + d * 4 * QUERY_ROWS)) & magnitude))
    steps, total = splat_f32(float32(QUERY_STEPS)), zero_i32()
    inverse = where_above(top, splat_f32(float32(1e-30)), steps / top, zero_f32())
    for d in range(hd):
        q = round_i32(load_f32(queries + d * 4 * QUERY_ROWS) * inverse)
        high = round_i32(to_f32(q) * splat_f32(float32(1.0 / 128)))
        at = out + d // 16 * (2 * PIECE_BYTES) + d % 16
        set_i8_column(at, high)
        set_i8_column(at + PIECE_BYTES, q - high * splat_i32(int32(128)))
        total = total + q
    store_f32(out + factors_at(hd), top / steps * splat_f32(scale))
    store_i32(out + factors_at(hd) + 4 * QUERY_ROWS, total * splat_i32(int32(-SIGNED_ZERO_POINT)))


@kernel
def round_row(x, count, scale, out, factors):
    """x, float32 [count], one row -> its integers at `out`; at `factors` what its sums are multiplied by."""
    magnitude, top = splat_i32(int32(0x7FFFFFFF)), zero_f32()
    for i in range(0, count, 16):
        top = max_f32(top, from_bits(bits_of(load_f32(x + 4 * i)) & magnitude))
    largest = largest_f32(top)
    top, steps, total = splat_f32(largest), splat_f32(float32(QUERY_STEPS)), zero_i32()
    inverse = where_above(top, splat_f32(float32(1e-30)), steps / top, zero_f32())
    for i in range(0, count, 16):
        q = round_i32(load_f32(x + 4 * i) * inverse)
        high = round_i32(to_f32(q) * splat_f32(float32(1.0 / 128)))
        at = out + i // 16 * (2 * PIECE_BYTES)
        store_i32_as_i8(at, high)
        store_i32_as_i8(at + PIECE_BYTES, q - high * splat_i32(int32(128)))
        total = total + q
    set_f32(factors, largest / float32(QUERY_STEPS) * scale)
    set_i32(factors + 4 * QUERY_ROWS, int32(sum_i32(total) * int32(-SIGNED_ZERO_POINT)))


def integer_products_of(rows, accumulators, load, signed, row_bytes, adds=False):
    """The kernel that multiplies `rows` rounded rows and 16 vectors of int8, with so many sums in registers.

    `(w, length, x, factors, v, out)`: w: the vectors, of `length` values, where `load` finds four values of each; x,
    factors: of the first row; v: float32 x 16, of the vectors; out: float32, rows `row_bytes` apart.
    """
    some = min(rows, accumulators // 2)
    zeros, dot = zero_int_tile(some), dot_tile(some, signed)
    begin_low, store = splat_tile(some), store_sums(some, row_bytes, adds)

    @kernel
    def multiply(w, length, x, factors, v, out):
        for first in range(0, rows, some):
            of_first = factors + 4 * first
            high, low = zeros(), begin_low(of_first + 4 * QUERY_ROWS)
            for d in range(0, length, 16):
                at, q = w + 16 * d, x + d // 16 * (2 * PIECE_BYTES) + 16 * first
                a, b, c, e = load(at), load(at + 64), load(at + 128), load(at + 192)
                high = dot(high, a, b, c, e, q, int64(16))
                low = dot(low, a, b, c, e, q + PIECE_BYTES, int64(16))
            store(out + first * row_bytes, high, low, v, of_first)

    return multiply


def integer_score_of(rows, accumulators):
    """The kernel that scores `rows` queries with so many sums in registers, two for each query, 16 positions at a time.

    `(keys, scales, hd, begin, length, values, queries, scores)`: positions [begin, length) of a block; queries: as
    `round_queries` left them; scores: float32 [R, SCORE_BLOCK].
    """
    multiply = integer_products_of(rows, accumulators, load_fours, True, SCORE_BLOCK * 4)

    @kernel
    def score(keys, scales, hd, begin, length, values, queries, scores):
        for p in range(begin, length, 16):
            block = keys + p * hd
            for line in range(0, 16 * hd, 64):
                prefetch(block + AHEAD * hd + line)
                prefetch(values + p * hd + line)
            multiply(block, hd, queries, queries + factors_at(hd), load_f32(scales + 4 * p), scores + 4 * p)

    return score
