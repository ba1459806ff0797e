"""Token embeddings: rows of a packed matrix, taken out of their tiles and scaled back to float32."""

from numba import float32, int32, int64

from edge_lfm.kernels.lang.simd import f32, half, i64, kernel, lookup_int, set_f32, u8
from edge_lfm.kernels.lang.sync import claim
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
    tile_bytes,
)
from edge_lfm.kernels.spec.layout import (
    CODEBOOK,
    CODEBOOK_SHIFT,
    CONTEXT,
    GROUP,
    MATRIX,
    MOST_SCALE,
    ROW,
    offsets,
)

CTX, MAT, RW = offsets(CONTEXT), offsets(MATRIX), offsets(ROW)
ROW_BYTES = ROW.itemsize
level_of = lookup_int(CODEBOOK)


@kernel
def int4_value(group, r, k):
    """Row r, column k of one group of 16 x 32: nibble of byte 4r + k % 4 of vector (k % 16) // 4."""
    byte = u8(group + (k % 16) // 4 * 64 + 4 * r + k % 4)
    nibble = byte >> 4 if k >= 16 else byte & 15
    return float32(nibble - int32(INT4_ZERO_POINT)) * half(group + 256 + 2 * r)


@kernel
def int8_value(group, r, k):
    byte = u8(group + k // 4 * 64 + 4 * r + k % 4)
    return float32(byte - 256 if byte > 127 else byte) * half(group + 512 + 2 * r)


@kernel
def codebook_value(tile, width, size, r, k):
    """Row r, column k of a whole tile; `width`: columns of a block, `size`: bytes of a group."""
    group, k = tile + CODEBOOK_HEADER + k // GROUP * size, k % GROUP
    code = u8(group + NIBBLE_BYTES + k // width * 16 + r)
    byte = u8(group + (k % 16) // 4 * 64 + 4 * r + k % 4)
    nibble = byte >> 4 if k >= 16 else byte & 15
    level = level_of(nibble) + (code & 1) * int32(CODEBOOK_SHIFT)
    return float32(level) * (float32(code - int32(MOST_SCALE)) * f32(tile + 4 * r))


@kernel
def unpack_row(matrix, row, out):
    """Row `row` of a matrix record -> float32 [cols]."""
    scheme, cols = i64(matrix + MAT.scheme), i64(matrix + MAT.cols)
    tile, r = i64(matrix + MAT.address) + row // 16 * tile_bytes(scheme, cols), row % 16
    for k in range(cols):
        g = k // GROUP
        if scheme == INT8_G32:
            v = int8_value(tile + g * INT8_BYTES, r, k % GROUP)
        elif scheme == INT4_G32:
            v = int4_value(tile + g * INT4_BYTES, r, k % GROUP)
        elif scheme == CODEBOOK4_G32:
            v = codebook_value(tile, 32, CODEBOOK_G32_BYTES, r, k)
        elif scheme == CODEBOOK4_G16:
            v = codebook_value(tile, 16, CODEBOOK_G16_BYTES, r, k)
        else:
            v = f32(tile + 64 * k + 4 * r)
        set_f32(out + 4 * k, v)


@kernel
def embed_tokens(ctx):
    """The token ids of all rows -> x, float32 [T, H]."""
    while True:
        t = claim(ctx, int64(1))
        if t >= i64(ctx + CTX.tokens):
            return
        token_id = i64(i64(ctx + CTX.rows) + t * ROW_BYTES + RW.token_id)
        unpack_row(ctx + CTX.embedding, token_id, i64(ctx + CTX.x) + t * i64(ctx + CTX.hidden) * 4)
