"""What the weights of each scheme look like in memory, and to a dot product: levels, scales, offsets.

Knows the layout of a group (`matmul.py` tells it whole), no activations and no products.
"""

from numba import float32

from edge_lfm.kernels.lang.simd import kernel, lookup_nibbles, prefetch, splat_f32, to_f32, where_odd
from edge_lfm.kernels.spec import schemes
from edge_lfm.kernels.spec.layout import CODEBOOK, CODEBOOK_SHIFT, GROUP, MOST_SCALE

INT8_G32, INT4_G32 = schemes.INT8_G32.id, schemes.INT4_G32.id
CODEBOOK4_G32, CODEBOOK4_G16 = schemes.CODEBOOK4_G32.id, schemes.CODEBOOK4_G16.id
INT4_BYTES, INT8_BYTES = schemes.INT4_G32.group_bytes, schemes.INT8_G32.group_bytes
CODEBOOK_G32_BYTES, CODEBOOK_G16_BYTES = schemes.CODEBOOK4_G32.group_bytes, schemes.CODEBOOK4_G16.group_bytes
CODEBOOK_HEADER, NIBBLE_BYTES = schemes.CODEBOOK4_G32.header_bytes, schemes.CODEBOOK4_G32.value_bytes
INT4_ZERO_POINT = 8
AHEAD = 10240
"""Bytes that weights are prefetched ahead: past the page that hardware prefetchers do not leave. On one core of a
Sapphire Rapids, single tokens read codebook weights at 16.2 GB/s with 4096, 18.0 with 10240; int8 at 15.4 and 18.1."""

LEVEL_ZERO_POINT = -CODEBOOK[0]
LEVELS = tuple(level + LEVEL_ZERO_POINT for level in CODEBOOK)
low_levels, high_levels = lookup_nibbles(LEVELS, high=False), lookup_nibbles(LEVELS, high=True)
"""The codebook's levels as dot products read them: 0..63."""


@kernel
def prefetch_group(w):
    """What lies `AHEAD` of a group of nibbles with its scales."""
    for j in range(5):
        prefetch(w + AHEAD + 64 * j)


@kernel
def block_scale(codes):
    """The scales of 16 rows, as multiples of their row scales, from their scale bytes, int32 x 16."""
    return to_f32(codes) - splat_f32(float32(MOST_SCALE))


@kernel
def block_shift(codes):
    """What the levels of 16 rows have to be raised by, beside what a look-up carries."""
    return where_odd(codes, float32(CODEBOOK_SHIFT - LEVEL_ZERO_POINT), float32(-LEVEL_ZERO_POINT))


@kernel
def tile_bytes(scheme, cols):
    """Bytes of 16 rows."""
    if scheme == INT4_G32:
        return cols // GROUP * INT4_BYTES
    if scheme == INT8_G32:
        return cols // GROUP * INT8_BYTES
    if scheme == CODEBOOK4_G32:
        return cols // GROUP * CODEBOOK_G32_BYTES + CODEBOOK_HEADER
    if scheme == CODEBOOK4_G16:
        return cols // GROUP * CODEBOOK_G16_BYTES + CODEBOOK_HEADER
    return cols * 64
