"""Weights times activations: out[t] (+)= W x[t], for float32, int8 and int4 weights.

Layout of a weight matrix (any scheme): tiles of 16 rows, each a run of groups of 32 columns.
  int4_g32     288 bytes a group: four 64-byte vectors of nibbles, then 16 float16 scales.
               Byte 4r + b of vector j holds q[r, 4j + b] low and q[r, 16 + 4j + b] high; w = (q - 8) * scale.
  int8_g32     544 bytes: eight 64-byte vectors, byte 4r + b of vector j is q[r, 4j + b]; 16 float16 scales.
  float32      2048 bytes: for each column its 16 rows.
So the 4-way dot product of one vector with 4 broadcast activation bytes gives 16 rows at once, on
every processor. Activations: `quantize.py`.

A register tile is 16 rows x `count` tokens; weights are unpacked once for all its tokens. The sizes of
the tier (`Isa.token_tiles`) cover any number of tokens, largest first. Each output is summed in one
fixed order, so results depend neither on the threads nor on the batch.
"""

from edge_lfm.kernels.layout import CONTEXT, GROUP, INT4_G32, INT8_G32, MATRIX, TILE_BYTES_PER_GROUP, offsets
from edge_lfm.kernels.lowering import ISA, SIGNED_ZERO_POINT
from edge_lfm.kernels.simd import (
    add_tiles,
    dot_tile,
    fma_tile,
    high_nibbles,
    i64,
    kernel,
    load_f16,
    load_f32,
    load_i8,
    load_tile,
    low_nibbles,
    prefetch,
    scale_tile,
    smaller,
    start_tile,
    store_f32,
    store_tile,
    zero_tile,
)
from edge_lfm.kernels.sync import claim_run

CTX, MAT = offsets(CONTEXT), offsets(MATRIX)
INT4_BYTES, INT8_BYTES = TILE_BYTES_PER_GROUP[INT4_G32], TILE_BYTES_PER_GROUP[INT8_G32]
INT4_ZERO_POINT = 8
AHEAD = 4096
"""Bytes that weights are prefetched ahead: a page, which hardware prefetchers do not cross. For tiles of many tokens
too: each weight comes from memory once per chunk (prefill of 128 tokens of the 24B on one core: 54 to 66 tok/s)."""


def int4_tile(count):
    """The kernel of one register tile: 16 rows of int4 weights x `count` tokens."""
    zeros, start, dot = zero_tile(count), start_tile(count, INT4_ZERO_POINT), dot_tile(count, signed=False)
    scaled = scale_tile(count)

    @kernel
    def tile(w, x, s, cols):
        """w: the row tile; x: int8 [count, cols]; s: (scale, sum) [count, cols / 32]. Returns a Tile."""
        total = zeros()
        groups = cols // GROUP
        for g in range(groups):
            acc = start(s + g * 8 + 4, groups * 8)
            for j in range(4):
                prefetch(w + AHEAD + 64 * j)
                q = load_i8(w + 64 * j)
                acc = dot(acc, low_nibbles(q), x + 4 * j, cols)
                acc = dot(acc, high_nibbles(q), x + 16 + 4 * j, cols)
            total = scaled(total, acc, load_f16(w + 256), s + g * 8, groups * 8)
            w += INT4_BYTES
            x += GROUP
        return total

    return tile


def int8_tile(count):
    """16 rows of int8 weights x `count` tokens; arguments as in `int4_tile`."""
    zeros, start, dot = zero_tile(count), start_tile(count, SIGNED_ZERO_POINT), dot_tile(count, signed=True)
    scaled = scale_tile(count)

    @kernel
    def tile(w, x, s, cols):
        total = zeros()
        groups = cols // GROUP
        for g in range(groups):
            acc = start(s + g * 8 + 4, groups * 8)
            for j in range(8):
                prefetch(w + AHEAD + 64 * j)
                acc = dot(acc, load_i8(w + 64 * j), x + 4 * j, cols)
            total = scaled(total, acc, load_f16(w + 512), s + g * 8, groups * 8)
            w += INT8_BYTES
            x += GROUP
        return total

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
            s += size * (cols // GROUP) * 8
            out += size * out_stride
            count -= size
        if not last and count > 0:
            fewer(w, x, s, cols, out, out_stride, count, add)

    return rows


SIZES = ISA.token_tiles
int4_rows = any_tokens(int4_tile, SIZES, 1)
int8_rows = any_tokens(int8_tile, SIZES, 1)
float_rows = any_tokens(float_tile, SIZES, 4)


@kernel
def tile_bytes(scheme, cols):
    """Bytes of 16 rows."""
    if scheme == INT4_G32:
        return cols // GROUP * INT4_BYTES
    if scheme == INT8_G32:
        return cols // GROUP * INT8_BYTES
    return cols * 64


@kernel
def multiply_tile(scheme, w, f, q, s, cols, out, out_stride, count, add):
    """16 rows x `count` tokens. Activations: f float32 for float32 weights, q and s for the others.

    out: float32, token t at out + t * out_stride; overwritten, or added to.
    """
    if scheme == INT4_G32:
        int4_rows(w, q, s, cols, out, out_stride, count, add)
    elif scheme == INT8_G32:
        int8_rows(w, q, s, cols, out, out_stride, count, add)
    else:
        float_rows(w, f, s, cols, out, out_stride, count, add)


@kernel
def multiply_rows(matrix, first, last, f, q, s, out, out_stride, count, add):
    """Row tiles [first, last) of a matrix record x `count` tokens, bias included."""
    scheme, cols, bias = i64(matrix + MAT.scheme), i64(matrix + MAT.cols), i64(matrix + MAT.bias)
    size = tile_bytes(scheme, cols)
    for t in range(first, last):
        at = out + t * 64
        multiply_tile(scheme, i64(matrix + MAT.address) + t * size, f, q, s, cols, at, out_stride, count, add)
        if bias != 0:
            for m in range(count):
                store_f32(at + m * out_stride, load_f32(at + m * out_stride) + load_f32(bias + t * 64))


@kernel
def multiply(ctx, matrix, f, q, s, out, out_stride, count, add):
    """All rows x `count` tokens, shared out among the team in runs of row tiles."""
    tiles = (i64(matrix + MAT.rows) + 15) // 16
    while True:
        first, run = claim_run(ctx, tiles)
        if first >= tiles:
            return
        multiply_rows(matrix, first, smaller(first + run, tiles), f, q, s, out, out_stride, count, add)
