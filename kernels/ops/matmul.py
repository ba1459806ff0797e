"""Weights times activations: out[t] (+)= W x[t], for float32, int8 and int4 weights.

Layout of a weight matrix (any scheme): tiles of 16 rows, each a run of groups of 32 columns.
  int4_g32       288 bytes a group: four 64-byte vectors of nibbles, then 16 float16 scales.
                 Byte 4r + b of vector j holds q[r, 4j + b] low and q[r, 16 + 4j + b] high; w = (q - 8) * scale.
  int8_g32       544 bytes: eight 64-byte vectors, byte 4r + b of vector j is q[r, 4j + b]; 16 float16 scales.
  codebook4_g32  16 float32 row scales, then 272 bytes a group: nibbles as in int4_g32, then 16 scale bytes.
                 w = row scale * (c - 127) * (CODEBOOK[q] + shift), c the scale byte; the shift is CODEBOOK_SHIFT
                 where c is odd, otherwise 0.
  codebook4_g16  the same with 32 scale bytes a group: 16 for its first 16 columns (the low nibbles), 16 for the last.
  float32        2048 bytes: for each column its 16 rows.
So the 4-way dot product of one vector with 4 broadcast activation bytes gives 16 rows at once, on
every processor. Activations: `activations.py`. What weights carry on top of their value (the 8 of int4, the 128 of
`dots.SIGNED_ZERO_POINT`, what makes levels unsigned less the shift) is one number a block, and comes off as that
number times the sum of the activations: a fused multiply-add per group and token.

A register tile is 16 rows x `count` tokens; weights are unpacked once for all its tokens. The sizes of
the tier (`Isa.token_tiles`) cover any number of tokens, largest first; where there is no dot product of fours, whole
blocks of 16 tokens go through `lanes.py` before. Each output is summed in one fixed order, so results depend neither on
the threads nor on the batch.
"""

from numba import float32, int64

from edge_lfm.kernels.lang.dots import SIGNED_ZERO_POINT
from edge_lfm.kernels.lang.lowering import ISA
from edge_lfm.kernels.lang.register_tiles import (
    add_tiles,
    dot_small_tile,
    dot_tile,
    fma_tile,
    load_tile,
    scale_rows_tile,
    scale_tile,
    store_tile,
    widen_tile,
    zero_int_tile,
    zero_small_tile,
    zero_tile,
)
from edge_lfm.kernels.lang.simd import (
    high_nibbles,
    i64,
    kernel,
    load_f16,
    load_f32,
    load_i8,
    load_u8,
    low_nibbles,
    smaller,
    splat_f32,
    store_f32,
)
from edge_lfm.kernels.lang.sync import claim_run
from edge_lfm.kernels.ops.lanes import multiply_blocks, pack_tokens
from edge_lfm.kernels.ops.weights import (
    CODEBOOK4_G16,
    CODEBOOK4_G32,
    CODEBOOK_G16_BYTES,
    CODEBOOK_G32_BYTES,
    CODEBOOK_HEADER,
    INT4_BYTES,
    INT4_G32,
    INT4_ZERO_POINT,
    INT8_BYTES,
    INT8_G32,
    NIBBLE_BYTES,
    block_scale,
    block_shift,
    high_levels,
    low_levels,
    prefetch_group,
    tile_bytes,
)
from edge_lfm.kernels.spec.layout import ACTIVATION_BYTES, CONTEXT, GROUP, LANE_TOKENS, MATRIX, TOKEN_BATCH, offsets

CTX, MAT = offsets(CONTEXT), offsets(MATRIX)


def int4_tile(count):
    """The kernel of one register tile: 16 rows of int4 weights x `count` tokens."""
    zeros, zero_sums, dot = zero_tile(count), zero_small_tile(count), dot_small_tile(count)
    widened, scaled, plus = widen_tile(count), scale_tile(count), fma_tile(count)

    @kernel
    def tile(w, x, s, cols):
        """w: the row tile; x: int8 [count, cols]; s: records of groups [count, cols / 32]. Returns a Tile."""
        total = zeros()
        groups = cols // GROUP
        for _g in range(groups):
            prefetch_group(w)
            a, b, c, d = load_i8(w), load_i8(w + 64), load_i8(w + 128), load_i8(w + 192)
            acc = zero_sums()
            acc = dot(acc, low_nibbles(a), low_nibbles(b), low_nibbles(c), low_nibbles(d), x, cols)
            acc = dot(acc, high_nibbles(a), high_nibbles(b), high_nibbles(c), high_nibbles(d), x + 16, cols)
            scale, stride = load_f16(w + NIBBLE_BYTES), groups * ACTIVATION_BYTES
            total = scaled(total, widened(acc), scale, s, stride)
            total = plus(total, scale * splat_f32(float32(-INT4_ZERO_POINT)), s + 4, stride)
            w += INT4_BYTES
            x += GROUP
            s += ACTIVATION_BYTES
        return total

    return tile


def int8_tile(count):
    """16 rows of int8 weights x `count` tokens; arguments as in `int4_tile`."""
    zeros, zero_ints, dot = zero_tile(count), zero_int_tile(count), dot_tile(count, signed=True)
    scaled, plus = scale_tile(count), fma_tile(count)

    @kernel
    def tile(w, x, s, cols):
        total = zeros()
        groups = cols // GROUP
        for _g in range(groups):
            acc = zero_ints()
            prefetch_group(w)
            prefetch_group(w + NIBBLE_BYTES)
            acc = dot(acc, load_i8(w), load_i8(w + 64), load_i8(w + 128), load_i8(w + 192), x, cols)
            acc = dot(acc, load_i8(w + 256), load_i8(w + 320), load_i8(w + 384), load_i8(w + 448), x + 16, cols)
            scale, stride = load_f16(w + 2 * NIBBLE_BYTES), groups * ACTIVATION_BYTES
            total = scaled(total, acc, scale, s, stride)
            if SIGNED_ZERO_POINT != 0:
                total = plus(total, scale * splat_f32(float32(-SIGNED_ZERO_POINT)), s + 4, stride)
            w += INT8_BYTES
            x += GROUP
            s += ACTIVATION_BYTES
        return total

    return tile


def codebook_g32_tile(count):
    """16 rows of codebook weights in blocks of 32 x `count` tokens; arguments as in `int4_tile`."""
    zeros, zero_ints, dot = (
        zero_tile(count),
        zero_int_tile(count),
        dot_tile(count, signed=False, looked_up=True),
    )
    scaled, plus, times = scale_tile(count), fma_tile(count), scale_rows_tile(count)

    @kernel
    def tile(w, x, s, cols):
        total = zeros()
        groups = cols // GROUP
        row_scale, stride = load_f32(w), groups * ACTIVATION_BYTES
        w += CODEBOOK_HEADER
        for _g in range(groups):
            prefetch_group(w)
            a, b, c, d = load_i8(w), load_i8(w + 64), load_i8(w + 128), load_i8(w + 192)
            acc = zero_ints()
            acc = dot(acc, low_levels(a), low_levels(b), low_levels(c), low_levels(d), x, cols)
            acc = dot(acc, high_levels(a), high_levels(b), high_levels(c), high_levels(d), x + 16, cols)
            codes = load_u8(w + NIBBLE_BYTES)
            scale = block_scale(codes)
            total = scaled(total, acc, scale, s, stride)
            total = plus(total, scale * block_shift(codes), s + 4, stride)
            w += CODEBOOK_G32_BYTES
            x += GROUP
            s += ACTIVATION_BYTES
        return times(total, row_scale)

    return tile


def codebook_g16_tile(count):
    """16 rows of codebook weights in blocks of 16 x `count` tokens; arguments as in `int4_tile`."""
    zeros, zero_ints, dot = (
        zero_tile(count),
        zero_int_tile(count),
        dot_tile(count, signed=False, looked_up=True),
    )
    scaled, plus, times = scale_tile(count), fma_tile(count), scale_rows_tile(count)

    @kernel
    def tile(w, x, s, cols):
        total = zeros()
        groups = cols // GROUP
        row_scale, stride = load_f32(w), groups * ACTIVATION_BYTES
        w += CODEBOOK_HEADER
        for _g in range(groups):
            prefetch_group(w)
            a, b, c, d = load_i8(w), load_i8(w + 64), load_i8(w + 128), load_i8(w + 192)
            acc = dot(zero_ints(), low_levels(a), low_levels(b), low_levels(c), low_levels(d), x, cols)
            codes = load_u8(w + NIBBLE_BYTES)
            scale = block_scale(codes)
            total = scaled(total, acc, scale, s, stride)
            total = plus(total, scale * block_shift(codes), s + 8, stride)
            acc = dot(zero_ints(), high_levels(a), high_levels(b), high_levels(c), high_levels(d), x + 16, cols)
            codes = load_u8(w + NIBBLE_BYTES + 16)
            scale = block_scale(codes)
            total = scaled(total, acc, scale, s, stride)
            total = plus(total, scale * block_shift(codes), s + 12, stride)
            w += CODEBOOK_G16_BYTES
            x += GROUP
            s += ACTIVATION_BYTES
        return times(total, row_scale)

    return tile


def float_tile(count):
    """16 rows of float32 weights x `count` tokens; x: float32 [count, cols], s unused."""
    zeros, step = zero_tile(count), fma_tile(count)

    @kernel
    def tile(w, x, s, cols):
        total = zeros()
        for k in range(cols):
            total = step(total, load_f32(w + 64 * k), x + 4 * k, cols * 4)
        return total

    return tile


def any_tokens(make_tile, sizes, value_bytes):
    """A kernel of 16 rows x any number of tokens, from register tiles of `sizes`, largest first.

    `value_bytes`: bytes of one activation, 1 for int8 and 4 for float32.
    """
    size, last = sizes[0], len(sizes) == 1
    tile, load, store, plus = make_tile(size), load_tile(size), store_tile(size), add_tiles(size)
    fewer = tile if last else any_tokens(make_tile, sizes[1:], value_bytes)

    @kernel
    def rows(w, x, s, cols, out, out_stride, count, add):
        while count >= size:
            value = tile(w, x, s, cols)
            if add != 0:
                value = plus(value, load(out, out_stride))
            store(out, value, out_stride)
            x += size * cols * value_bytes
            s += size * (cols // GROUP) * ACTIVATION_BYTES
            out += size * out_stride
            count -= size
        if not last and count > 0:
            fewer(w, x, s, cols, out, out_stride, count, add)

    return rows


SIZES = ISA.token_tiles
int4_rows = any_tokens(int4_tile, SIZES, 1)
int8_rows = any_tokens(int8_tile, SIZES, 1)
codebook_g32_rows = any_tokens(codebook_g32_tile, SIZES, 1)
codebook_g16_rows = any_tokens(codebook_g16_tile, SIZES, 1)
float_rows = any_tokens(float_tile, SIZES, 4)


@kernel
def multiply_tile(scheme, w, f, q, s, cols, out, out_stride, count, add, area, blocks):
    """16 rows x `count` tokens. Activations: f float32 for float32 weights, q and s for the others, of which the first
    `blocks` blocks of 16 tokens are packed at `area` (`lanes.py`).

    out: float32, token t at out + t * out_stride; overwritten, or added to.
    """
    if blocks > 0:
        multiply_blocks(scheme, w, area, blocks, cols, out, out_stride, add)
        done = blocks * LANE_TOKENS
        q += done * cols
        s += done * (cols // GROUP) * ACTIVATION_BYTES
        out += done * out_stride
        count -= done
    if scheme == INT4_G32:
        int4_rows(w, q, s, cols, out, out_stride, count, add)
    elif scheme == INT8_G32:
        int8_rows(w, q, s, cols, out, out_stride, count, add)
    elif scheme == CODEBOOK4_G32:
        codebook_g32_rows(w, q, s, cols, out, out_stride, count, add)
    elif scheme == CODEBOOK4_G16:
        codebook_g16_rows(w, q, s, cols, out, out_stride, count, add)
    else:
        float_rows(w, f, s, cols, out, out_stride, count, add)


@kernel
def multiply_rows(matrix, first, last, f, q, s, out, out_stride, count, add, area):
    """Row tiles [first, last) of a matrix record x `count` tokens, bias included; a batch of tokens after the other."""
    scheme, cols, bias = i64(matrix + MAT.scheme), i64(matrix + MAT.cols), i64(matrix + MAT.bias)
    size, weights = tile_bytes(scheme, cols), i64(matrix + MAT.address)
    for p in range(0, count, TOKEN_BATCH):
        batch = smaller(int64(TOKEN_BATCH), count - p)
        x_q, x_s = q + p * cols, s + p * (cols // GROUP) * ACTIVATION_BYTES
        blocks = pack_tokens(scheme, x_q, x_s, cols, batch, area)
        for t in range(first, last):
            at, w = out + p * out_stride + t * 64, weights + t * size
            multiply_tile(scheme, w, f + p * cols * 4, x_q, x_s, cols, at, out_stride, batch, add, area, blocks)
            if bias != 0:
                for m in range(batch):
                    store_f32(at + m * out_stride, load_f32(at + m * out_stride) + load_f32(bias + t * 64))


@kernel
def multiply(ctx, matrix, f, q, s, out, out_stride, count, add, area):
    """All rows x `count` tokens, shared out among the team in runs of row tiles; area: for this thread's lanes."""
    tiles = (i64(matrix + MAT.rows) + 15) // 16
    while True:
        first, run = claim_run(ctx, tiles)
        if first >= tiles:
            return
        multiply_rows(matrix, first, smaller(first + run, tiles), f, q, s, out, out_stride, count, add, area)
