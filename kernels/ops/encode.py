"""From weights to packed tiles: the search for scales, rounding and packing, 16 rows at a time.

Lanes are rows: every block of columns is searched for 16 rows at once. For a candidate scale with rounded levels q
the best scale is sum(w x q) / sum(w q q), and it explains F = sum(w x q)**2 / sum(w q q) of sum(w x x); so the
candidate with the largest F wins (quantization facts, 2.2). Candidates put the block's largest weight near either end
of the grid. Levels are rounded again on the scale as it is stored. Definition: `ref_rounding.py`; layout: `matmul.py`.

Rows are divided by their largest weight first, so that nothing overflows on the way. Weights w of columns come from
`importance`, the mean square of each input, or are 1.
"""

from itertools import pairwise

from numba import float32, int32, int64

from edge_lfm.kernels.lang.simd import (
    add_above,
    bits_of,
    f32,
    kernel,
    largest_f32,
    largest_i32,
    load_bf16,
    load_column,
    load_f16,
    load_f32,
    load_i32,
    lookup_floats,
    max_f32,
    max_i32,
    min_f32,
    round_i32,
    shift_left,
    splat_f32,
    splat_i32,
    store_f16,
    store_f32,
    store_i32,
    store_i32_as_i8,
    to_f32,
    where_above,
    zero_f32,
    zero_i32,
)
from edge_lfm.kernels.ops.weights import (
    CODEBOOK4_G16,
    CODEBOOK4_G32,
    CODEBOOK_G16_BYTES,
    CODEBOOK_G32_BYTES,
    CODEBOOK_HEADER,
    INT4_BYTES,
    INT4_G32,
    INT8_BYTES,
    INT8_G32,
    NIBBLE_BYTES,
    tile_bytes,
)
from edge_lfm.kernels.spec.layout import (
    ABOUT_HALF,
    BFLOAT16,
    CODEBOOK,
    CODEBOOK_CANDIDATES,
    CODEBOOK_SHIFT,
    CODEBOOK_STEP,
    FLOAT16,
    GROUP,
    INT8_CANDIDATES,
    INT8_STEP,
    LINEAR_CANDIDATES,
    LINEAR_STEP,
    MOST_SCALE,
    SCALE_TOO_LARGE,
    WEIGHTS_NOT_FINITE,
)

LOWEST, HIGHEST = CODEBOOK[0], CODEBOOK[-1]
MIDDLE = (CODEBOOK[7] + CODEBOOK[8]) / 2
middles = lookup_floats((*((a + b) / 2 for a, b in pairwise(CODEBOOK)), 0.0))
levels = lookup_floats(tuple(float(level) for level in CODEBOOK))
SMALLEST = 1e-30
"""Rows with no larger weight are stored as zeros."""


@kernel
def absolute(x):
    return max_f32(x, zero_f32() - x)


@kernel
def nearest_index(t):
    """The codebook entry nearest to t, by bisection."""
    i = add_above(zero_i32(), t, splat_f32(float32(MIDDLE)), int32(8))
    i = add_above(i, t, middles(i + splat_i32(int32(3))), int32(4))
    i = add_above(i, t, middles(i + splat_i32(int32(1))), int32(2))
    return add_above(i, t, middles(i), int32(1))


@kernel
def codebook_level(t, shift):
    return levels(nearest_index(t - shift)) + shift


@kernel
def int4_level(t, shift):
    return min_f32(max_f32(to_f32(round_i32(t)), splat_f32(float32(-8.0))), splat_f32(float32(7.0)))


@kernel
def int8_level(t, shift):
    return min_f32(max_f32(to_f32(round_i32(t)), splat_f32(float32(-127.0))), splat_f32(float32(127.0)))


@kernel
def largest_weight(x, columns):
    """In each row the weight of largest magnitude, sign kept."""
    peak = load_f32(x)
    for k in range(1, columns):
        v = load_f32(x + 64 * k)
        peak = where_above(absolute(v), absolute(peak), v, peak)
    return peak


def search_of(level):
    """The search over candidates of one grid, around one end of it."""

    @kernel
    def search(x, w, columns, end, candidates, step, shift, best, scale, shifts):
        """x, w: [columns, 16]; best, scale, shifts: float32 x 16, improved in place."""
        peak = largest_weight(x, columns)
        for n in range(candidates):
            anchor = end + step * float32(n - candidates // 2)
            inverse = splat_f32(anchor) / peak
            xq, qq = zero_f32(), zero_f32()
            for k in range(columns):
                v = load_f32(x + 64 * k)
                q = level(v * inverse, shift)
                wq = load_f32(w + 64 * k) * q
                xq, qq = xq + wq * v, qq + wq * q
            score, before = xq * xq / qq, load_f32(best)
            store_f32(scale, where_above(score, before, xq / qq, load_f32(scale)))
            store_f32(shifts, where_above(score, before, shift, load_f32(shifts)))
            store_f32(best, where_above(score, before, score, before))

    return search


search_codebook, search_int4, search_int8 = search_of(codebook_level), search_of(int4_level), search_of(int8_level)


@kernel
def weigh(x, w, importance, columns):
    """The weight of every value of a block [columns, 16], or ones."""
    for k in range(columns):
        one = splat_f32(float32(1.0))
        store_f32(w + 64 * k, splat_f32(f32(importance + 4 * k)) if importance != 0 else one)


@kernel
def search_block(scheme, plain, x, w, columns, best, scale, shifts):
    """The best scale (and shift) of a block for 16 rows."""
    store_f32(best, splat_f32(float32(-1.0)))
    store_f32(scale, zero_f32())
    store_f32(shifts, zero_f32())
    none = zero_f32()
    if scheme == INT8_G32:
        search_int8(x, w, columns, float32(127.0), INT8_CANDIDATES, float32(INT8_STEP), none, best, scale, shifts)
    elif scheme == INT4_G32 and plain != 0:
        store_f32(scale, largest_weight(x, columns) * splat_f32(float32(-0.125)))
    elif scheme == INT4_G32:
        for end in (float32(-8.0), float32(7.0)):
            search_int4(x, w, columns, end, LINEAR_CANDIDATES, float32(LINEAR_STEP), none, best, scale, shifts)
    else:
        for shift in (float32(0.0), float32(CODEBOOK_SHIFT)):
            for end in (float32(LOWEST), float32(HIGHEST)):
                step, shifted = float32(CODEBOOK_STEP), splat_f32(shift)
                search_codebook(x, w, columns, end + shift, CODEBOOK_CANDIDATES, step, shifted, best, scale, shifts)


@kernel
def block_error(x, w, columns, scale, shift):
    """sum(w (x - scale * level)**2) of a block rounded on a given scale."""
    inverse, error = reciprocal(scale), zero_f32()
    for k in range(columns):
        v = load_f32(x + 64 * k)
        e = v - scale * codebook_level(v * inverse, shift)
        error = error + load_f32(w + 64 * k) * e * e
    return error


@kernel
def reciprocal(scale):
    """1 / scale, and 0 where scale is next to nothing."""
    one = splat_f32(float32(1.0))
    return where_above(absolute(scale), splat_f32(float32(SMALLEST)), one / scale, zero_f32())


@kernel
def store_codes(x, w, columns, row, scale, codes, stored, shifts):
    """The scale byte of a block: the best of three neighbouring multiples of the row's scale and two shifts.

    scale: float32 x 16, as searched; stored and shifts: float32 x 16, as they can be read back from `codes`.
    """
    target, half = load_f32(scale) * reciprocal(row), splat_f32(float32(ABOUT_HALF))
    best = splat_f32(float32(3e38))
    code, kept, kept_shift = zero_f32(), zero_f32(), zero_f32()
    for bit in range(2):
        # Even bytes hold odd multiples, -127..127; odd bytes even ones, -126..128.
        shift, odd = splat_f32(float32(bit * CODEBOOK_SHIFT)), splat_f32(float32(1 - bit))
        middle = to_f32(round_i32((target - odd) * half))
        for move in range(-1, 2):
            n = middle + splat_f32(float32(move))
            n = min_f32(max_f32(n, splat_f32(float32(bit - 64))), splat_f32(float32(bit + 63)))
            multiple = n + n + odd
            candidate = multiple * row
            error = block_error(x, w, columns, candidate, shift)
            number = multiple + splat_f32(float32(MOST_SCALE))
            code, kept = where_above(best, error, number, code), where_above(best, error, candidate, kept)
            kept_shift = where_above(best, error, shift, kept_shift)
            best = where_above(best, error, error, best)
    store_i32_as_i8(codes, round_i32(code))
    store_f32(stored, kept)
    store_f32(shifts, kept_shift)


@kernel
def store_nibbles(index, out):
    """index: int32 [32, 16] of 0..15 -> four vectors of nibbles."""
    for j in range(4):
        packed = zero_i32()
        for b in range(4):
            low, high = load_i32(index + 64 * (4 * j + b)), load_i32(index + 64 * (16 + 4 * j + b))
            packed = packed | shift_left(low | shift_left(high, int32(4)), int32(8 * b))
        store_i32(out + 64 * j, packed)


@kernel
def store_bytes(index, out):
    """index: int32 [32, 16] of -127..127 -> eight vectors of bytes."""
    for j in range(8):
        packed = zero_i32()
        for b in range(4):
            byte = load_i32(index + 64 * (4 * j + b)) & splat_i32(int32(255))
            packed = packed | shift_left(byte, int32(8 * b))
        store_i32(out + 64 * j, packed)


@kernel
def note_error(x, k, value, row_peak, errors):
    """Add the squared error and the squared weight of one column to `errors`, float32 x 16 each."""
    exact = load_f32(x + 64 * k)
    e = (exact - value) * row_peak
    exact = exact * row_peak
    store_f32(errors, load_f32(errors) + e * e)
    store_f32(errors + 64, load_f32(errors + 64) + exact * exact)


@kernel
def encode_codebook(scheme, x, importance, cols, row_peak, out, scratch, errors):
    """One tile of a codebook scheme from x, float32 [cols, 16]."""
    columns = int64(32) if scheme == CODEBOOK4_G32 else int64(16)
    blocks = cols // columns
    w, best, shifts, index = scratch, scratch + 2048, scratch + 2112, scratch + 2176
    stored, scales = scratch + 2176 + 2048, scratch + 2176 + 2048 + 64
    largest = zero_f32()
    for n in range(blocks):
        weigh(x + n * columns * 64, w, importance + n * columns * 4 if importance != 0 else int64(0), columns)
        search_block(scheme, int64(0), x + n * columns * 64, w, columns, best, scales + 64 * n, shifts)
        largest = max_f32(largest, absolute(load_f32(scales + 64 * n)))
    row = largest * splat_f32(float32(1.0 / 127.0))
    store_f32(out, row * row_peak)
    size = CODEBOOK_G32_BYTES if scheme == CODEBOOK4_G32 else CODEBOOK_G16_BYTES
    for n in range(blocks):
        at, group, first = (
            x + n * columns * 64,
            out + CODEBOOK_HEADER + n * columns // GROUP * size,
            n * columns % GROUP,
        )
        weigh(at, w, importance + n * columns * 4 if importance != 0 else int64(0), columns)
        store_codes(at, w, columns, row, scales + 64 * n, group + NIBBLE_BYTES + first, stored, shifts)
        scale, shift = load_f32(stored), load_f32(shifts)
        inverse = reciprocal(scale)
        for k in range(columns):
            i = nearest_index(load_f32(at + 64 * k) * inverse - shift)
            store_i32(index + 64 * (first + k), i)
            note_error(at, k, scale * (levels(i) + shift), row_peak, errors)
        if first + columns == GROUP:
            store_nibbles(index, group)


@kernel
def encode_linear(scheme, plain, x, importance, cols, row_peak, out, scratch, errors):
    """One tile of int4_g32 or int8_g32; the error code of a scale that float16 cannot hold, or 0."""
    w, best, shifts, index = scratch, scratch + 2048, scratch + 2112, scratch + 2176
    scale_at = scratch + 2176 + 2048
    status = int64(0)
    size, values = (INT8_BYTES, 2 * NIBBLE_BYTES) if scheme == INT8_G32 else (INT4_BYTES, NIBBLE_BYTES)
    for g in range(cols // GROUP):
        at = x + g * GROUP * 64
        weigh(at, w, importance + g * GROUP * 4 if importance != 0 else int64(0), int64(GROUP))
        search_block(scheme, plain, at, w, int64(GROUP), best, scale_at, shifts)
        store_f16(out + values, load_f32(scale_at) * row_peak)
        scale = load_f16(out + values)
        if largest_f32(absolute(scale)) > float32(65504.0):
            status = int64(SCALE_TOO_LARGE)
        inverse = reciprocal(scale) * row_peak
        for k in range(GROUP):
            t = load_f32(at + 64 * k) * inverse
            q = int8_level(t, inverse) if scheme == INT8_G32 else int4_level(t, inverse)
            note_error(at, k, q * scale * reciprocal(row_peak), row_peak, errors)
            store_i32(index + 64 * k, round_i32(q) if scheme == INT8_G32 else round_i32(q) + splat_i32(int32(8)))
        if scheme == INT8_G32:
            store_bytes(index, out)
        else:
            store_nibbles(index, out)
        out += size
    return status


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
        row_peak = row_peak * inverse * row_peak  # 0 where the row counts as zeros
        found = errors + t * 128
        store_f32(found, zero_f32())
        store_f32(found + 64, zero_f32())
        if scheme in (CODEBOOK4_G32, CODEBOOK4_G16):
            encode_codebook(scheme, turned, importance, cols, row_peak, out, rest, found)
        else:
            status = encode_linear(scheme, plain, turned, importance, cols, row_peak, out, rest, found)
            if status != 0:
                return status
        out += tile_bytes(scheme, cols)
    return int64(0)
