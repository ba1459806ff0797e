"""int8_g32 and int4_g32: integers with a float16 scale for each group of 32 columns.

A group is its vectors of values, then 16 float16 scales (`spec/definitions/linear.py`).
"""

from numba import float32, int32, int64

from edge_lfm.kernels.lang.dots import SIGNED_ZERO_POINT
from edge_lfm.kernels.lang.simd import (
    half,
    high_nibbles,
    inlined,
    kernel,
    largest_f32,
    load_f16,
    load_f32,
    load_i8,
    low_nibbles,
    max_f32,
    min_f32,
    round_i32,
    splat_f32,
    splat_i32,
    store_f16,
    store_f32,
    store_i32,
    to_f32,
    u8,
)
from edge_lfm.kernels.ops.blocks import blocks_of
from edge_lfm.kernels.ops.integer_tiles import integer_tile, same
from edge_lfm.kernels.ops.search import (
    SCRATCH,
    absolute,
    largest_weight,
    note_error,
    reciprocal,
    search_of,
    start_search,
    store_bytes,
    store_nibbles,
    weigh,
)
from edge_lfm.kernels.ops.weights import Block, Integers, SchemeKernels, load_nibbles
from edge_lfm.kernels.spec.layout import GROUP, SCALE_TOO_LARGE

NIBBLE_ZERO = 8
FLOAT16_MAX = 65504.0


def kernels_of(scheme):
    nibbles = scheme.integer_bits == 4
    zero_point = NIBBLE_ZERO if nibbles else SIGNED_ZERO_POINT
    columns = (low_columns, high_columns) if nibbles else (first_columns, last_columns)
    load = load_nibbles if nibbles else same
    block = Block(columns, scale_at(scheme.value_bytes))
    integers = Integers(scheme, "small" if nibbles else "signed", load, ((block,),), zero_point=zero_point)
    return SchemeKernels(scheme, integer_tile(integers), value_of(scheme), blocks_of(integers), encoder_of(scheme))


@inlined
def low_columns(stored):
    a, b, c, d = stored
    return low_nibbles(a), low_nibbles(b), low_nibbles(c), low_nibbles(d)


@inlined
def high_columns(stored):
    a, b, c, d = stored
    return high_nibbles(a), high_nibbles(b), high_nibbles(c), high_nibbles(d)


@inlined
def first_columns(w):
    return load_i8(w), load_i8(w + 64), load_i8(w + 128), load_i8(w + 192)


@inlined
def last_columns(w):
    return load_i8(w + 256), load_i8(w + 320), load_i8(w + 384), load_i8(w + 448)


def scale_at(at):
    """A kernel `(w)` -> the scales of the 16 rows of a group, which lie `at` bytes from its begin."""

    @inlined
    def scale(w):
        return load_f16(w + at)

    return scale


def value_of(scheme):
    nbytes, at, integer = scheme.group_bytes, scheme.value_bytes, nibble if scheme.integer_bits == 4 else byte

    @kernel
    def value(w, r, k):
        group = w + k // GROUP * nbytes
        return float32(integer(group, r, k % GROUP)) * half(group + at + 2 * r)

    return value


@kernel
def nibble(group, r, k):
    """Row r, column k of 16 x 32: the nibble of byte 4r + k % 4 of vector (k % 16) // 4."""
    both = u8(group + (k % 16) // 4 * 64 + 4 * r + k % 4)
    return (both >> 4 if k >= 16 else both & 15) - int32(NIBBLE_ZERO)


@kernel
def byte(group, r, k):
    unsigned = u8(group + k // 4 * 64 + 4 * r + k % 4)
    return unsigned - 256 if unsigned > 127 else unsigned


def encoder_of(scheme):
    """The encoder of one tile (`weights.SchemeKernels.encode`)."""
    grid, at, nbytes = scheme.grid, scheme.value_bytes, scheme.group_bytes
    level, ends = level_of(grid), tuple(float32(end) for end in grid.ends)
    search, candidates, step = search_of(level), grid.candidates, grid.step
    has_plain, on_low = grid.plain, 1 / grid.low
    zero, store = (NIBBLE_ZERO, store_nibbles) if scheme.integer_bits == 4 else (0, store_bytes)

    @kernel
    def encode(plain, x, importance, cols, row_peak, out, scratch, errors):
        status = int64(0)
        for g in range(cols // GROUP):
            block = x + g * GROUP * 64
            weigh(block, scratch, importance + g * GROUP * 4 if importance != 0 else int64(0), int64(GROUP))
            scale_at = scratch + SCRATCH.scale
            start_search(scratch, scale_at)
            if has_plain and plain != 0:
                store_f32(scale_at, largest_weight(block, GROUP) * splat_f32(float32(on_low)))
            else:
                for end in ends:
                    search(
                        block, scratch, int64(GROUP), end, candidates, float32(step), splat_f32(float32(0.0)), scale_at
                    )
            store_f16(out + at, load_f32(scale_at) * row_peak)
            scale = load_f16(out + at)
            if largest_f32(absolute(scale)) > float32(FLOAT16_MAX):
                status = int64(SCALE_TOO_LARGE)
            inverse = reciprocal(scale) * row_peak
            for k in range(GROUP):
                q = level(load_f32(block + 64 * k) * inverse, inverse)
                note_error(block, k, q * scale * reciprocal(row_peak), row_peak, errors)
                store_i32(scratch + SCRATCH.level + 64 * k, round_i32(q) + splat_i32(int32(zero)))
            store(scratch + SCRATCH.level, out)
            out += nbytes
        return status

    return encode


def level_of(grid):
    """A kernel `(t, shift)`: the integer of the grid that is nearest to t; it has no shift."""
    low, high = grid.low, grid.high

    @kernel
    def level(t, shift):
        return min_f32(max_f32(to_f32(round_i32(t)), splat_f32(float32(low))), splat_f32(float32(high)))

    return level
