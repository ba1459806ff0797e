"""mxfp4_g32: floats of four bits in blocks that a power of two scales.

A group is four vectors of nibbles, then 16 exponents (`spec/definitions/microscaled.py`).
"""

from numba import float32, int32, int64

from edge_lfm.kernels.lang.simd import (
    bits_of,
    bits_to_float,
    from_bits,
    inlined,
    kernel,
    load_f32,
    load_u8,
    lookup_int,
    lookup_nibbles,
    max_f32,
    max_i32,
    min_f32,
    round_i32,
    shift_left_23,
    shift_right,
    splat_f32,
    splat_i32,
    store_i32,
    store_i32_as_i8,
    to_f32,
    u8,
    where_above,
    zero_f32,
)
from edge_lfm.kernels.ops.blocks import blocks_of
from edge_lfm.kernels.ops.integer_tiles import integer_tile
from edge_lfm.kernels.ops.schemes.codebook import columns_of, error_of, zero_point_of
from edge_lfm.kernels.ops.search import (
    SCRATCH,
    absolute,
    largest_weight,
    note_error,
    reciprocal,
    store_nibbles,
    weigh,
)
from edge_lfm.kernels.ops.weights import Block, Integers, SchemeKernels, load_nibbles
from edge_lfm.kernels.spec.layout import GROUP

LEAST_BITS = 0x00400000
"""Of 2**-127, which is the power of two of exponent 0, as float32; those of others are their exponent alone."""
HELD_BACK = 2.0**-20
"""What scales are multiplied by until a tile is summed up: those of the largest exponents, times the offset of levels
and the sum of a group, would overflow, and 2**-148, the least that is left, is still a float32."""


def kernels_of(scheme):
    grid = scheme.grid
    zero_point = zero_point_of(grid)
    unsigned = tuple(level + zero_point for level in grid.levels)  # as dot products read them
    columns = tuple(columns_of(lookup_nibbles(unsigned, high=is_high)) for is_high in (False, True))
    block = Block(columns, scale_at(scheme.value_bytes))
    integers = Integers(scheme, "looked_up", load_nibbles, ((block,),), 1 / HELD_BACK, zero_point)
    blocks, encode = blocks_of(integers), encoder_of(scheme)
    return SchemeKernels(scheme, integer_tile(integers), value_of(scheme), blocks, encode, integers.unit)


@kernel
def halves_of(exponents):
    """2**(exponent - 128) of 16 int32."""
    return from_bits(max_i32(shift_left_23(exponents), splat_i32(int32(LEAST_BITS)))) * splat_f32(float32(0.5))


def scale_at(at):
    """A kernel `(w)` -> the scales of the 16 rows of a group, held back."""

    @inlined
    def scale(w):
        powers = from_bits(max_i32(shift_left_23(load_u8(w + at)), splat_i32(int32(LEAST_BITS))))
        return powers * splat_f32(float32(0.5 * HELD_BACK))

    return scale


def value_of(scheme):
    nbytes, at = scheme.group_bytes, scheme.value_bytes
    level_of = lookup_int(scheme.grid.levels)

    @kernel
    def value(w, r, k):
        group, k = w + k // GROUP * nbytes, k % GROUP
        both, exponent = u8(group + (k % 16) // 4 * 64 + 4 * r + k % 4), u8(group + at + r)
        bits = int32(exponent << 23) if exponent != 0 else int32(LEAST_BITS)
        scale = bits_to_float(bits) * float32(0.5)
        return float32(level_of(int32(both >> 4 if k >= 16 else both & 15))) * scale

    return value


@kernel
def magnitude(a):
    """The levels nearest to a, which is not negative; halves to even: 0, 1, 2, 3, 4, 6, 8, 12."""
    four, eight = splat_f32(float32(4.0)), splat_f32(float32(8.0))
    middle = to_f32(round_i32(a * splat_f32(float32(0.5)))) * splat_f32(float32(2.0))
    coarse = min_f32(to_f32(round_i32(a * splat_f32(float32(0.25)))) * four, splat_f32(float32(12.0)))
    return where_above(four, a, to_f32(round_i32(a)), where_above(eight, a, middle, coarse))


@kernel
def level(t, shift):
    """The level nearest to t; there is no shift."""
    m = magnitude(absolute(t))
    return where_above(zero_f32(), t, zero_f32() - m, m)


@kernel
def nibble_of(t):
    """What stands for the level nearest to t."""
    m, four, eight = magnitude(absolute(t)), splat_f32(float32(4.0)), splat_f32(float32(8.0))
    above_four = (max_f32(min_f32(m, eight), four) - four) * splat_f32(float32(0.5))
    index = min_f32(m, four) + above_four + (max_f32(m, eight) - eight) * splat_f32(float32(0.25))
    return round_i32(where_above(zero_f32(), t, index + eight, index))


def encoder_of(scheme):
    """The encoder of one tile (`weights.SchemeKernels.encode`)."""
    at, nbytes, error_on = scheme.value_bytes, scheme.group_bytes, error_of(level)

    @kernel
    def encode(plain, x, importance, cols, row_peak, out, scratch, errors):
        apart = reciprocal(row_peak)  # the rows are divided by their peaks
        for g in range(cols // GROUP):
            block = x + g * GROUP * 64
            weigh(block, scratch, importance + g * GROUP * 4 if importance != 0 else int64(0), int64(GROUP))
            peak = absolute(largest_weight(block, GROUP)) * row_peak
            first = max_i32(shift_right(bits_of(peak), int32(23)) + splat_i32(int32(-2)), splat_i32(int32(0)))
            second = first + splat_i32(int32(1))
            one = error_on(block, scratch, int64(GROUP), halves_of(first) * apart, zero_f32())
            other = error_on(block, scratch, int64(GROUP), halves_of(second) * apart, zero_f32())
            exponents = first + round_i32(where_above(one, other, splat_f32(float32(1.0)), zero_f32()))
            store_i32_as_i8(out + at, exponents)
            scale = halves_of(exponents) * apart
            inverse = reciprocal(scale)
            for k in range(GROUP):
                t = load_f32(block + 64 * k) * inverse
                note_error(block, k, level(t, zero_f32()) * scale, row_peak, errors)
                store_i32(scratch + SCRATCH.level + 64 * k, nibble_of(t))
            store_nibbles(scratch + SCRATCH.level, out)
            out += nbytes
        return int64(0)

    return encode
