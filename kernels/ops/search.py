"""The search for the scale of a block of weights, and what every encoder does around it; 16 rows at a time.

For a candidate scale with rounded levels q the best scale is sum(w x q) / sum(w q q), and it explains
F = sum(w x q)**2 / sum(w q q) of sum(w x x); so the candidate with the largest F wins. Candidates put the block's
largest weight near either end of the grid. Definition: `spec/ref_rounding.py`.

Blocks are float32 [columns, 16 rows]; `scratch` is a record `layout.ENCODER`.
"""

from numba import float32, int32

from edge_lfm.kernels.lang.simd import (
    f32,
    kernel,
    load_f32,
    load_i32,
    max_f32,
    shift_left,
    shift_right,
    splat_f32,
    splat_i32,
    store_f32,
    store_i32,
    where_above,
    zero_f32,
    zero_i32,
)
from edge_lfm.kernels.spec.layout import ENCODER, offsets

SCRATCH, SCRATCH_BYTES = offsets(ENCODER), ENCODER.itemsize
SMALLEST = 1e-30
"""Rows with no larger weight are stored as zeros."""


@kernel
def absolute(x):
    return max_f32(x, zero_f32() - x)


@kernel
def reciprocal(scale):
    """1 / scale, and 0 where scale is next to nothing."""
    one = splat_f32(float32(1.0))
    return where_above(absolute(scale), splat_f32(float32(SMALLEST)), one / scale, zero_f32())


@kernel
def largest_weight(x, columns):
    """In each row the weight of largest magnitude, sign kept."""
    peak = load_f32(x)
    for k in range(1, columns):
        v = load_f32(x + 64 * k)
        peak = where_above(absolute(v), absolute(peak), v, peak)
    return peak


@kernel
def weigh(x, scratch, importance, columns):
    """How much the error of every column of a block counts: its `importance`, float32 [columns], or 1."""
    for k in range(columns):
        one = splat_f32(float32(1.0))
        weight = splat_f32(f32(importance + 4 * k)) if importance != 0 else one
        store_f32(scratch + SCRATCH.weight + 64 * k, weight)


@kernel
def start_search(scratch, scale):
    """No candidate was tried yet; scale: where the best one's goes, float32 x 16."""
    store_f32(scratch + SCRATCH.best, splat_f32(float32(-1.0)))
    store_f32(scale, zero_f32())
    store_f32(scratch + SCRATCH.shift, zero_f32())


def search_of(level):
    """The search over candidates around one end of a grid; level: a kernel `(t, shift)` -> its values."""

    @kernel
    def search(x, scratch, columns, end, candidates, step, shift, scale):
        """Improves what `start_search` began."""
        best_at, shift_at = scratch + SCRATCH.best, scratch + SCRATCH.shift
        peak = largest_weight(x, columns)
        for n in range(candidates):
            anchor = end + step * float32(n - candidates // 2)
            inverse = splat_f32(anchor) / peak
            xq, qq = zero_f32(), zero_f32()
            for k in range(columns):
                v = load_f32(x + 64 * k)
                q = level(v * inverse, shift)
                wq = load_f32(scratch + SCRATCH.weight + 64 * k) * q
                xq, qq = xq + wq * v, qq + wq * q
            score, before = xq * xq / qq, load_f32(best_at)
            store_f32(scale, where_above(score, before, xq / qq, load_f32(scale)))
            store_f32(shift_at, where_above(score, before, shift, load_f32(shift_at)))
            store_f32(best_at, where_above(score, before, score, before))

    return search


@kernel
def note_error(x, k, value, row_peak, errors):
    """Add the squared error and the squared weight of column k to `errors`, float32 x 16 each."""
    exact = load_f32(x + 64 * k)
    e = (exact - value) * row_peak
    exact = exact * row_peak
    store_f32(errors, load_f32(errors) + e * e)
    store_f32(errors + 64, load_f32(errors + 64) + exact * exact)


@kernel
def store_nibbles(level, out):
    """int32 [32, 16] of 0..15 -> four vectors of nibbles (`spec/vectors.py`)."""
    for j in range(4):
        packed = zero_i32()
        for b in range(4):
            low, high = load_i32(level + 64 * (4 * j + b)), load_i32(level + 64 * (16 + 4 * j + b))
            packed = packed | shift_left(low | shift_left(high, int32(4)), int32(8 * b))
        store_i32(out + 64 * j, packed)


@kernel
def store_thirds(level, out):
    """int32 [32, 16] of 0..7 -> three vectors of two entries a byte, and bits of two more (`spec/vectors.py`)."""
    for i in range(3):
        packed = zero_i32()
        for b in range(4):
            low, high = load_i32(level + 64 * (8 * i + b)), load_i32(level + 64 * (8 * i + 4 + b))
            rest = load_i32(level + 64 * (24 + b)) | shift_left(load_i32(level + 64 * (28 + b)), int32(3))
            above = shift_left(rest, int32(6 - 2 * i)) & splat_i32(int32(0xC0))
            packed = packed | shift_left(low | shift_left(high, int32(3)) | above, int32(8 * b))
        store_i32(out + 64 * i, packed)


@kernel
def upper_fifths(i, a, b, c):
    """Three bits, above entry i, of entries whose bits lie above five others'."""
    seven, four, six = splat_i32(int32(7)), splat_i32(int32(4)), splat_i32(int32(6))
    if i == 0:
        return a & seven
    if i == 1:
        return shift_right(a, int32(3)) | (shift_right(b, int32(1)) & four)
    if i == 2:
        return b & seven
    if i == 3:
        return shift_right(b, int32(4)) | (shift_right(c, int32(2)) & six)
    return c & seven


@kernel
def store_fifths(level, out):
    """int32 [32, 16] of 0..31 -> five vectors of an entry a byte, and the bits of three more (`spec/vectors.py`)."""
    for i in range(5):
        packed = zero_i32()
        for b in range(4):
            last = level + 64 * (20 + b)
            above = upper_fifths(i, load_i32(last), load_i32(last + 256), load_i32(last + 512))
            entry = load_i32(level + 64 * (4 * i + b)) | shift_left(above, int32(5))
            packed = packed | shift_left(entry, int32(8 * b))
        store_i32(out + 64 * i, packed)


@kernel
def store_bytes(level, out):
    """int32 [32, 16] of -127..127 -> eight vectors of bytes."""
    for j in range(8):
        packed = zero_i32()
        for b in range(4):
            byte = load_i32(level + 64 * (4 * j + b)) & splat_i32(int32(255))
            packed = packed | shift_left(byte, int32(8 * b))
        store_i32(out + 64 * j, packed)
