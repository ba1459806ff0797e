"""Token embeddings: rows of a packed matrix, taken out of their tiles and scaled back to float32."""

from numba import int64

from edge_lfm.kernels.lang.parts import entry
from edge_lfm.kernels.lang.simd import f32, i64, kernel, load_f32, splat_f32, store_f32
from edge_lfm.kernels.lang.sync import claim
from edge_lfm.kernels.ops.schemes import tile_bytes, unpack_tile_row
from edge_lfm.kernels.spec.layout import CONTEXT, MATRIX, ROW, offsets

CTX, MAT, RW = offsets(CONTEXT), offsets(MATRIX), offsets(ROW)
ROW_BYTES = ROW.itemsize


@entry
def unpack_row(matrix, row, out):
    """Row `row` of a matrix record -> float32 [cols]."""
    scheme, cols = i64(matrix + MAT.scheme), i64(matrix + MAT.cols)
    tile = i64(matrix + MAT.address) + row // 16 * tile_bytes(scheme, cols)
    unpack_tile_row(scheme, tile, row % 16, cols, out)


@kernel
def embed_tokens(ctx):
    """The token ids of all rows -> x, float32 [T, H]."""
    hidden, scale = i64(ctx + CTX.hidden), splat_f32(f32(ctx + CTX.embed_scale))
    while True:
        t = claim(ctx, int64(1))
        if t >= i64(ctx + CTX.tokens):
            return
        token_id = i64(i64(ctx + CTX.rows) + t * ROW_BYTES + RW.token_id)
        out = i64(ctx + CTX.x) + t * hidden * 4
        unpack_row(ctx + CTX.embedding, token_id, out)
        for i in range(0, hidden, 16):
            store_f32(out + 4 * i, load_f32(out + 4 * i) * scale)
