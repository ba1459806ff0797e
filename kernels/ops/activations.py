"""Activations to int8: groups of 32 values with a float32 scale and the sums of their bytes.

The scale is float32 and never float16 (float16 scales overflowed to NaN in other engines). int8 hides
NaN, so this is where the finiteness of activations is checked, by their bits.
"""

from numba import float32, int32, int64

from edge_lfm.kernels.lang.lowering import ISA
from edge_lfm.kernels.lang.parts import entry
from edge_lfm.kernels.lang.simd import (
    bits_of,
    bits_to_float,
    inlined,
    kernel,
    largest_i32,
    load_f32,
    max_i32,
    round_i32,
    set_f32,
    set_i32,
    splat_f32,
    splat_i32,
    store_i32_as_i8,
    sum_i32,
)
from edge_lfm.kernels.lang.sync import raise_error
from edge_lfm.kernels.spec.layout import ACTIVATION, ACTIVATION_BYTES, GROUP, RAISED, offsets

REC = offsets(ACTIVATION)
INFINITY_BITS = 0x7F800000
NOT_FINITE = 1
"""The error code of a NaN or an infinity in the activations."""


@kernel
def check_below(ctx, x, count, limit_bits):
    """Raise an error if one of `count` float32 is NaN, or not below a limit, which is given by its bits.

    For values that nothing quantizes: comparisons, and so the softmax's maximum, lose a NaN.
    """
    magnitude, top = splat_i32(int32(0x7FFFFFFF)), splat_i32(int32(0))
    for i in range(0, count, 16):
        top = max_i32(top, bits_of(load_f32(x + 4 * i)) & magnitude)
    if largest_i32(top) >= int32(limit_bits):
        raise_error(ctx, int64(NOT_FINITE))


@inlined
def set_started(at, scale, total):
    """What sums of products with levels that are raised start at."""
    set_i32(at, int32(-RAISED) * total)


@inlined
def set_scaled(at, scale, total):
    set_f32(at, scale * float32(total))


set_sum = set_started if ISA.starts_sums else set_scaled


@kernel
def round_group(ctx, low, high, q, s):
    """32 float32 in two vectors -> 32 int8 at q, and the group's record at s (`layout.ACTIVATION`)."""
    magnitude = splat_i32(int32(0x7FFFFFFF))
    # As integers, the bits of |x| are ordered like |x|, with NaN above infinity.
    bits = largest_i32(max_i32(bits_of(low) & magnitude, bits_of(high) & magnitude))
    if bits >= int32(INFINITY_BITS):
        raise_error(ctx, int64(NOT_FINITE))
        bits = int32(0)
    largest = bits_to_float(bits)
    inverse = float32(127.0) / largest if largest > float32(1e-30) else float32(0.0)
    a = round_i32(low * splat_f32(inverse))
    b = round_i32(high * splat_f32(inverse))
    store_i32_as_i8(q, a)
    store_i32_as_i8(q + 16, b)
    scale = largest / float32(127.0) if inverse != float32(0.0) else float32(0.0)
    first, last = sum_i32(a), sum_i32(b)
    set_f32(s + REC.scale, scale)
    set_sum(s + REC.sum, scale, first + last)
    set_sum(s + REC.first_sum, scale, first)
    set_sum(s + REC.last_sum, scale, last)


@entry
def round_activations(ctx, x, q, s, cols):
    """float32 [cols] -> int8 [cols] and the records of their groups [cols / 32]."""
    for g in range(cols // GROUP):
        at = x + g * GROUP * 4
        round_group(ctx, load_f32(at), load_f32(at + 64), q + g * GROUP, s + g * ACTIVATION_BYTES)
