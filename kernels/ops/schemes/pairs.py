"""pair5_g32: entries of 32 points of two weights, in blocks that a byte scales, times the row's scale.

A tile begins with 16 float32 scales of rows. A group of 64 columns is five vectors of entries, then 16 scale bytes for
each 32 columns (`spec/definitions/pairs.py`).
"""

from numba import float32, int32, int64

from edge_lfm.kernels.lang.simd import (
    f32,
    inlined,
    kernel,
    load_f32,
    lookup_fifths,
    lookup_int,
    max_f32,
    round_i32,
    splat_f32,
    store_f32,
    store_i32,
    table_of,
    u8,
    where_above,
    zero_f32,
)
from edge_lfm.kernels.ops.blocks import blocks_of
from edge_lfm.kernels.ops.integer_tiles import integer_tile
from edge_lfm.kernels.ops.schemes.codebook import ROW_SCALES_BYTES, code_of, scale_at, undone_at, zero_point_of
from edge_lfm.kernels.ops.search import (
    SCRATCH,
    SCRATCH_BYTES,
    absolute,
    largest_weight,
    note_error,
    reciprocal,
    start_search,
    store_fifths,
    weigh,
)
from edge_lfm.kernels.ops.weights import Block, Integers, SchemeKernels, load_fifths
from edge_lfm.kernels.spec.layout import GROUP
from edge_lfm.kernels.spec.schemes import MAX_SCALE

HALF = GROUP // 2


def kernels_of(scheme):
    grid = scheme.grid
    zero_point = zero_point_of(grid)
    first, last = (lookup_fifths(tuple(point[n] + zero_point for point in grid.points)) for n in (0, 1))
    parts = tuple(
        (Block(columns, scale_at(at), **undone_at(at, grid)),)
        for columns, at in zip(columns_of(first, last), range(scheme.value_bytes, scheme.group_bytes, 16), strict=True)
    )
    integers = Integers(scheme, "looked_up", load_fifths, parts, zero_point=zero_point)
    return SchemeKernels(scheme, integer_tile(integers), value_of(scheme), blocks_of(integers), encoder_of(scheme))


def columns_of(first, last):
    """Of both halves of a group, what makes levels of the first and of the last 16 columns; first, last: look-ups."""

    def columns(level, of_second):
        @inlined
        def of_first_half(stored):
            a, b, c, d, _, _, _, _ = stored
            return level(a), level(b), level(c), level(d)

        @inlined
        def of_second_half(stored):
            _, _, _, _, e, f, g, h = stored
            return level(e), level(f), level(g), level(h)

        return of_second_half if of_second else of_first_half

    return tuple((columns(first, of_second), columns(last, of_second)) for of_second in (False, True))


def value_of(scheme):
    grid, nbytes, at = scheme.grid, scheme.group_bytes, scheme.value_bytes
    shift, last = grid.shift, grid.shifts - 1
    first_of, last_of = (lookup_int(tuple(point[n] for point in grid.points)) for n in (0, 1))

    @kernel
    def entry(group, r, pair):
        byte, i = group + 4 * r + pair % 4, pair // 4
        if i < 5:
            return int32(u8(byte + 64 * i) & 31)
        if i == 5:
            return int32((u8(byte) >> 5) | ((u8(byte + 64) >> 2) & 24))
        if i == 6:
            return int32((u8(byte + 128) >> 5) | ((u8(byte + 64) >> 4) & 8) | ((u8(byte + 192) >> 1) & 16))
        return int32((u8(byte + 256) >> 5) | ((u8(byte + 192) >> 3) & 24))

    @kernel
    def value(w, r, k):
        group, k = w + ROW_SCALES_BYTES + k // (2 * GROUP) * nbytes, k % (2 * GROUP)
        code = u8(group + at + k // GROUP * 16 + r)
        index = entry(group, r, k // GROUP * HALF + k % HALF)
        point = first_of(index) if k % GROUP < HALF else last_of(index)
        return float32(point + (code & last) * int32(shift)) * (float32(code - int32(MAX_SCALE)) * f32(w + 4 * r))

    return value


def nearest_of(points):
    """A kernel `(t, u, v, w)` -> (index as float32, point, point): the point nearest to t, u, whose squared distances
    count v and w; of equals the first."""
    count, table = len(points), table_of([coordinate for point in points for coordinate in point])

    @kernel
    def nearest(t, u, v, w):
        best, index, x, y = splat_f32(float32(3e38)), zero_f32(), zero_f32(), zero_f32()
        for p in range(count):
            first, last = splat_f32(f32(table() + 8 * p)), splat_f32(f32(table() + 8 * p + 4))
            d, e = t - first, u - last
            error = v * d * d + w * e * e
            index = where_above(best, error, splat_f32(float32(p)), index)
            x, y = where_above(best, error, first, x), where_above(best, error, last, y)
            best = where_above(best, error, error, best)
        return index, x, y

    return nearest


def nearest_in_block(nearest):
    """A kernel `(x, scratch, k, inverse, shift)` -> as `nearest`: of columns k and k + 16 of a block over its scale."""

    @kernel
    def nearest_at(x, scratch, k, inverse, shift):
        weight = scratch + SCRATCH.weight + 64 * k
        t, u = load_f32(x + 64 * k) * inverse - shift, load_f32(x + 64 * (k + HALF)) * inverse - shift
        return nearest(t, u, load_f32(weight), load_f32(weight + 64 * HALF))

    return nearest_at


def search_of(nearest_at):
    """`search.search_of` for points of two weights."""

    @kernel
    def search(x, scratch, end, candidates, step, shift, scale):
        best_at, peak = scratch + SCRATCH.best, largest_weight(x, GROUP)
        for n in range(candidates):
            inverse = splat_f32(end + step * float32(n - candidates // 2)) / peak
            xq, qq = zero_f32(), zero_f32()
            for k in range(HALF):
                weight = scratch + SCRATCH.weight + 64 * k
                _, p, q = nearest_at(x, scratch, k, inverse, shift)
                p, q = p + shift, q + shift
                wp, wq = load_f32(weight) * p, load_f32(weight + 64 * HALF) * q
                xq = xq + wp * load_f32(x + 64 * k) + wq * load_f32(x + 64 * (k + HALF))
                qq = qq + wp * p + wq * q
            score, before = xq * xq / qq, load_f32(best_at)
            store_f32(scale, where_above(score, before, xq / qq, load_f32(scale)))
            store_f32(best_at, where_above(score, before, score, before))

    return search


def error_of(nearest_at):
    """`codebook.error_of` for points of two weights."""

    @kernel
    def error_on(x, scratch, columns, scale, shift):
        inverse, error = reciprocal(scale), zero_f32()
        for k in range(HALF):
            weight = scratch + SCRATCH.weight + 64 * k
            _, p, q = nearest_at(x, scratch, k, inverse, shift)
            d = load_f32(x + 64 * k) - scale * (p + shift)
            e = load_f32(x + 64 * (k + HALF)) - scale * (q + shift)
            error = error + load_f32(weight) * d * d + load_f32(weight + 64 * HALF) * e * e
        return error

    return error_on


def encoder_of(scheme):
    """The encoder of one tile (`weights.SchemeKernels.encode`)."""
    grid, nbytes, value_bytes = scheme.grid, scheme.group_bytes, scheme.value_bytes
    nearest_at = nearest_in_block(nearest_of(grid.points))
    search, store_codes = search_of(nearest_at), code_of(error_of(nearest_at), grid)
    shifts = tuple(float32(n * grid.shift) for n in range(grid.shifts))
    ends, candidates, step = (float32(grid.low), float32(grid.highest)), grid.candidates, grid.step

    @kernel
    def weigh_block(n, scratch, importance):
        weigh(scratch, scratch, importance + n * GROUP * 4 if importance != 0 else int64(0), GROUP)

    @kernel
    def row_scale(x, importance, cols, scratch):
        largest = zero_f32()
        for n in range(cols // GROUP):
            scale = scratch + SCRATCH_BYTES + 64 * n
            weigh_block(n, scratch, importance)
            start_search(scratch, scale)
            for shift in shifts:
                for end in ends:
                    search(x + n * GROUP * 64, scratch, end + shift, candidates, float32(step), splat_f32(shift), scale)
            largest = max_f32(largest, absolute(load_f32(scale)))
        return largest * splat_f32(float32(1.0 / MAX_SCALE))

    @kernel
    def encode_block(x, scratch, first, row_peak, errors):
        """The entries of a block, from pair `first` on, to the scratch memory."""
        scale, shift = load_f32(scratch + SCRATCH.stored), load_f32(scratch + SCRATCH.shift)
        inverse = reciprocal(scale)
        for k in range(HALF):
            index, p, q = nearest_at(x, scratch, k, inverse, shift)
            store_i32(scratch + SCRATCH.level + 64 * (first + k), round_i32(index))
            note_error(x, k, scale * (p + shift), row_peak, errors)
            note_error(x, k + HALF, scale * (q + shift), row_peak, errors)

    @kernel
    def encode(plain, x, importance, cols, row_peak, out, scratch, errors):
        row = row_scale(x, importance, cols, scratch)
        store_f32(out, row * row_peak)
        group = out + ROW_SCALES_BYTES
        for n in range(cols // GROUP):
            block, half = x + n * GROUP * 64, n % 2
            weigh_block(n, scratch, importance)
            codes, scale_at = group + value_bytes + 16 * half, scratch + SCRATCH_BYTES + 64 * n
            store_codes(block, scratch, int64(GROUP), row, scale_at, codes)
            encode_block(block, scratch, half * HALF, row_peak, errors)
            if half == 1:
                store_fifths(scratch + SCRATCH.level, group)
                group += nbytes
        return int64(0)

    return encode
