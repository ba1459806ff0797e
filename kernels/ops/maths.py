"""Vector functions: exp, sigmoid, silu. Definition: `ref.py`; error below 3e-7 relative."""

from numba import float32, int32

from edge_lfm.kernels.lang.parts import entry
from edge_lfm.kernels.lang.simd import (
    bits_of,
    fma,
    from_bits,
    kernel,
    load_f32,
    max_f32,
    min_f32,
    round_i32,
    shift_left_23,
    splat_f32,
    splat_i32,
    store_f32,
    to_f32,
    zero_f32,
)

LOG2_E = 1.44269504
LN2_HIGH, LN2_LOW = 0.693359375, -2.12194440e-4
"""ln 2 as a sum of two float32, the first with few bits, so that n * LN2_HIGH is exact (Cody and Waite)."""
EXP_LOWEST, EXP_HIGHEST = -87.3, 88.3
"""Where exp(x) leaves the normal float32 numbers."""
LOWEST_BELOW, NO_FRACTION = -86.6, 12582912.0
"""n is -125 at least, so that exponents stay those of normal numbers; 1.5 * 2**23, whose neighbours are 1 apart."""


@kernel
def exp(x):
    """e**x for 16 lanes: 2**n * e**r with |r| <= ln(2)/2 and a polynomial of degree 6 for e**r."""
    x = min_f32(max_f32(x, splat_f32(float32(EXP_LOWEST))), splat_f32(float32(EXP_HIGHEST)))
    n = round_i32(x * splat_f32(float32(LOG2_E)))
    nf = to_f32(n)
    r = x - nf * splat_f32(float32(LN2_HIGH))
    r = r - nf * splat_f32(float32(LN2_LOW))
    p = splat_f32(float32(1.0 / 720))
    p = fma(p, r, splat_f32(float32(1.0 / 120)))
    p = fma(p, r, splat_f32(float32(1.0 / 24)))
    p = fma(p, r, splat_f32(float32(1.0 / 6)))
    p = fma(p, r, splat_f32(float32(0.5)))
    p = fma(p, r, splat_f32(float32(1.0)))
    p = fma(p, r, splat_f32(float32(1.0)))
    return p * from_bits(shift_left_23(n + splat_i32(int32(127))))


@kernel
def exp_below(x):
    """e**x for 16 lanes of at most 0, as the softmax has them: a third fewer instructions than `exp`.

    Below `LOWEST_BELOW` it is e to that. n stands in the last bits of a float32 that is too large for a fraction, and
    is added to the exponent.
    """
    x = max_f32(x, splat_f32(float32(LOWEST_BELOW)))
    whole = fma(x, splat_f32(float32(LOG2_E)), splat_f32(float32(NO_FRACTION)))
    nf = whole - splat_f32(float32(NO_FRACTION))
    r = fma(nf, splat_f32(float32(-LN2_HIGH)), x)
    r = fma(nf, splat_f32(float32(-LN2_LOW)), r)
    p = splat_f32(float32(1.0 / 720))
    p = fma(p, r, splat_f32(float32(1.0 / 120)))
    p = fma(p, r, splat_f32(float32(1.0 / 24)))
    p = fma(p, r, splat_f32(float32(1.0 / 6)))
    p = fma(p, r, splat_f32(float32(0.5)))
    p = fma(p, r, splat_f32(float32(1.0)))
    p = fma(p, r, splat_f32(float32(1.0)))
    return from_bits(bits_of(p) + shift_left_23(bits_of(whole)))


@kernel
def sigmoid(x):
    one = splat_f32(float32(1.0))
    return one / (one + exp(zero_f32() - x))


@kernel
def silu(x):
    """x * sigmoid(x)."""
    return x * sigmoid(x)


@entry
def exp_row(x, out, count):
    """exp of `count` float32 values, a multiple of 16."""
    for i in range(0, count, 16):
        store_f32(out + 4 * i, exp(load_f32(x + 4 * i)))


@entry
def exp_below_row(x, out, count):
    """exp of `count` float32 values of at most 0, a multiple of 16."""
    for i in range(0, count, 16):
        store_f32(out + 4 * i, exp_below(load_f32(x + 4 * i)))
