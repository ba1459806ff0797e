"""Weights times many activations: 16 tokens in the lanes of a register, on tiers without a dot product of fours.

There the tiles of `matmul.py` spend a third of their instructions on unpacking weights for four tokens and on repeating
activations all over registers. Here weights are unpacked once for a batch, and a repeated four of weights serves 16
tokens; int8, which needs no unpacking and whose products are four instructions, gains nothing. Every output is
summed as in `matmul.py`, to the bit.

A block of 16 tokens: for each group of 32 columns 512 bytes of activations, byte 4t + b of vector j being token t's
column 4j + b; then for each group four float32 x 16, the tokens' records of that group.
"""

from numba import float32, int64

from edge_lfm.kernels.lang.dots import LANE_ROWS
from edge_lfm.kernels.lang.register_tiles import (
    interleave,
    lane_dot_tile,
    lane_fold,
    lane_small_dot_tile,
    widen_tile,
    zero_int_tile,
    zero_small_tile,
)
from edge_lfm.kernels.lang.simd import (
    high_nibbles,
    kernel,
    load_column,
    load_f16,
    load_f32,
    load_i8,
    load_u8,
    low_nibbles,
    splat_f32,
    store_f32,
    store_i8,
)
from edge_lfm.kernels.ops.weights import (
    CODEBOOK4_G16,
    CODEBOOK4_G32,
    CODEBOOK_G16_BYTES,
    CODEBOOK_G32_BYTES,
    CODEBOOK_HEADER,
    INT4_BYTES,
    INT4_G32,
    INT4_ZERO_POINT,
    NIBBLE_BYTES,
    block_scale,
    block_shift,
    high_levels,
    low_levels,
    prefetch_group,
)
from edge_lfm.kernels.spec.layout import ACTIVATION_BYTES, GROUP, LANE_TOKENS, LANES_WORK_BYTES

PANEL, SCALES, TOTALS, TOTALS_BYTES = 0, 512, 1024, 1024
"""In a thread's work memory: an unpacked group; scales and offsets of its 16 rows, twice where its halves have their
own; sums [16 rows][16 tokens] of every block of tokens."""
BLOCK_BYTES = LANE_TOKENS * (GROUP + ACTIVATION_BYTES) // GROUP  # a column's


@kernel
def pack_tokens(scheme, q, s, cols, count, area):
    """As many whole blocks of 16 tokens as `count` has, at `area + LANES_WORK_BYTES`; returns their number."""
    if LANE_ROWS == 0 or scheme not in (INT4_G32, CODEBOOK4_G32, CODEBOOK4_G16):
        return int64(0)
    groups, to = cols // GROUP, area + LANES_WORK_BYTES
    for n in range(count // LANE_TOKENS):
        x, r = q + n * LANE_TOKENS * cols, s + n * LANE_TOKENS * groups * ACTIVATION_BYTES
        for g in range(groups):
            interleave(x + g * GROUP, cols, to + g * 512)
            interleave(x + g * GROUP + 16, cols, to + g * 512 + 256)
            interleave(r + g * ACTIVATION_BYTES, groups * ACTIVATION_BYTES, to + cols * LANE_TOKENS + g * 256)
        to += cols * BLOCK_BYTES
    return count // LANE_TOKENS


@kernel
def unpack_int4(w, work):
    """A group -> bytes as dot products read them, scales and offsets, in the work memory."""
    for j in range(4):
        nibbles = load_i8(w + 64 * j)
        store_i8(work + PANEL + 64 * j, low_nibbles(nibbles))
        store_i8(work + PANEL + 256 + 64 * j, high_nibbles(nibbles))
    scale = load_f16(w + NIBBLE_BYTES)
    store_f32(work + SCALES, scale)
    store_f32(work + SCALES + 64, scale * splat_f32(float32(-INT4_ZERO_POINT)))


@kernel
def unpack_levels(w, work):
    for j in range(4):
        nibbles = load_i8(w + 64 * j)
        store_i8(work + PANEL + 64 * j, low_levels(nibbles))
        store_i8(work + PANEL + 256 + 64 * j, high_levels(nibbles))


@kernel
def unpack_scales(w, work):
    codes = load_u8(w)
    scale = block_scale(codes)
    store_f32(work, scale)
    store_f32(work + 64, scale * block_shift(codes))


@kernel
def unpack_codebook_g32(w, work):
    unpack_levels(w, work)
    unpack_scales(w + NIBBLE_BYTES, work + SCALES)


@kernel
def unpack_codebook_g16(w, work):
    unpack_levels(w, work)
    unpack_scales(w + NIBBLE_BYTES, work + SCALES)
    unpack_scales(w + NIBBLE_BYTES + 16, work + SCALES + 128)


def lanes_tile(unpack, group_bytes, header, zeros, dot, widened, halves=False):
    """The kernel of 16 rows x some blocks of tokens. `halves`: a group's two halves have scales of their own."""
    fold = lane_fold(LANE_ROWS)

    @kernel
    def tile(w, x, blocks, cols, work):
        """w: the row tile; x: the blocks. Leaves the sums at `work + TOTALS`."""
        for r in range(16 * blocks):
            store_f32(work + TOTALS + 64 * r, splat_f32(float32(0.0)))
        w += header
        s = x + cols * LANE_TOKENS
        for _g in range(cols // GROUP):
            prefetch_group(w)
            unpack(w, work)
            for n in range(blocks):
                x_n, s_n = x + n * cols * BLOCK_BYTES, s + n * cols * BLOCK_BYTES
                for r in range(0, 16, LANE_ROWS):
                    totals = work + TOTALS + n * TOTALS_BYTES + 64 * r
                    values, scales = work + PANEL + 4 * r, work + SCALES + 4 * r
                    acc = dot(zeros(), values, x_n)
                    if halves:
                        fold(totals, widened(acc), scales, s_n, s_n + 128)
                        fold(totals, widened(dot(zeros(), values + 256, x_n + 256)), scales + 128, s_n, s_n + 192)
                    else:
                        fold(totals, widened(dot(acc, values + 256, x_n + 256)), scales, s_n, s_n + 64)
            w += group_bytes
            x += 512
            s += 256

    return tile


@kernel
def same(acc):
    return acc


if LANE_ROWS:
    small = zero_small_tile(LANE_ROWS), lane_small_dot_tile(LANE_ROWS), widen_tile(LANE_ROWS)
    large = zero_int_tile(LANE_ROWS), lane_dot_tile(LANE_ROWS), same
    int4_lanes = lanes_tile(unpack_int4, INT4_BYTES, 0, *small)
    codebook_g32_lanes = lanes_tile(unpack_codebook_g32, CODEBOOK_G32_BYTES, CODEBOOK_HEADER, *large)
    codebook_g16_lanes = lanes_tile(unpack_codebook_g16, CODEBOOK_G16_BYTES, CODEBOOK_HEADER, *large, halves=True)

    @kernel
    def sum_blocks(scheme, w, x, blocks, cols, work):
        """16 rows x `blocks` blocks at x -> the sums at `work + TOTALS`."""
        if scheme == INT4_G32:
            int4_lanes(w, x, blocks, cols, work)
        elif scheme == CODEBOOK4_G32:
            codebook_g32_lanes(w, x, blocks, cols, work)
        else:
            codebook_g16_lanes(w, x, blocks, cols, work)

else:

    @kernel
    def sum_blocks(scheme, w, x, blocks, cols, work):
        pass


@kernel
def multiply_blocks(scheme, w, area, blocks, cols, out, out_stride, add):
    """16 rows x `blocks` packed blocks; outputs of token t at out + t * out_stride, overwritten or added to."""
    sum_blocks(scheme, w, area + LANES_WORK_BYTES, blocks, cols, area)
    for m in range(LANE_TOKENS * blocks):
        value = load_column(area + TOTALS + m // LANE_TOKENS * TOTALS_BYTES + m % LANE_TOKENS * 4, int64(64))
        if scheme != INT4_G32:
            value = value * load_f32(w)
        if add != 0:
            value = value + load_f32(out)
        store_f32(out, value)
        out += out_stride
