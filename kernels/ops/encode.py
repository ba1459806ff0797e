"""From weights to packed tiles, 16 rows at a time, by the encoder of their scheme.

Rows are divided by their largest weight first, so that nothing overflows on the way. How much the error of a column
counts comes from `importance`, the mean square of each input, or is 1. The search: `search.py`; rounding and packing:
`schemes/`; definitions: `spec/definitions/`.
"""

from numba import int32, int64

from edge_lfm.kernels.lang.parts import entry
from edge_lfm.kernels.lang.simd import (
    bits_of,
    kernel,
    largest_i32,
    load_bf16,
    load_column,
    load_f16,
    load_f32,
    max_f32,
    max_i32,
    splat_i32,
    store_f32,
    zero_f32,
    zero_i32,
)
from edge_lfm.kernels.ops.schemes import by_scheme, tile_bytes
from edge_lfm.kernels.ops.search import absolute, reciprocal
from edge_lfm.kernels.spec.layout import BFLOAT16, FLOAT16, NO_ENCODER, WEIGHTS_NOT_FINITE


@kernel
def widen(dtype, x, count, out):
    """`count` values, a multiple of 16, as float32; 1 if all of them are finite, otherwise 0."""
    worst = zero_i32()
    for i in range(0, count, 16):
        if dtype == BFLOAT16:
            v = load_bf16(x + 2 * i)
        elif dtype == FLOAT16:
            v = load_f16(x + 2 * i)
        else:
            v = load_f32(x + 4 * i)
        worst = max_i32(worst, bits_of(v) & splat_i32(int32(0x7FFFFFFF)))
        store_f32(out + 4 * i, v)
    return int64(1) if largest_i32(worst) < int32(0x7F800000) else int64(0)


@kernel
def encode_nothing(plain, x, importance, cols, row_peak, out, scratch, errors):
    return int64(NO_ENCODER)


encode_tile = by_scheme(lambda row: row.encode or encode_nothing)
"""`(scheme, plain, x, importance, cols, row_peak, out, scratch, errors)` -> 0 or an error code: one tile.

x: float32 [cols, 16], each row divided by its largest weight, which is `row_peak`, or 0 where a row counts as zeros.
"""


@entry
def encode_rows(scheme, plain, dtype, x, importance, tiles, cols, out, errors, scratch):
    """`tiles` x 16 rows [cols] of `dtype` -> packed tiles; 0, or an error code of `layout.py`.

    importance: 0, or float32 [cols]; plain: ggml's Q4_0 grid instead of a search; errors: float32 [tiles, 2, 16], the
    squared errors and weights of each row; scratch: `layout.encode_scratch_bytes`.
    """
    size = 4 if dtype != BFLOAT16 and dtype != FLOAT16 else 2
    rows, turned = scratch, scratch + cols * 64
    rest = turned + cols * 64
    for t in range(tiles):
        if widen(dtype, x + t * 16 * cols * size, 16 * cols, rows) == 0:
            return int64(WEIGHTS_NOT_FINITE)
        row_peak = zero_f32()
        for k in range(cols):
            v = load_column(rows + 4 * k, cols * 4)
            row_peak = max_f32(row_peak, absolute(v))
            store_f32(turned + 64 * k, v)
        inverse = reciprocal(row_peak)
        for k in range(cols):
            store_f32(turned + 64 * k, load_f32(turned + 64 * k) * inverse)
        row_peak = row_peak * inverse * row_peak
        lost = errors + t * 128
        store_f32(lost, zero_f32())
        store_f32(lost + 64, zero_f32())
        status = encode_tile(scheme, plain, turned, importance, cols, row_peak, out, rest, lost)
        if status != 0:
            return status
        out += tile_bytes(scheme, cols)
    return int64(0)
