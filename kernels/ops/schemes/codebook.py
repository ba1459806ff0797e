"""codebook4_g32 and codebook4_g16: entries of 16 levels in blocks that a byte scales, times the row's scale.

A tile begins with 16 float32 scales of rows. A group is four vectors of nibbles, then 16 scale bytes for each block of
columns (`spec/definitions/codebook.py`).
"""

from functools import cache
from itertools import pairwise

from numba import float32, int32, int64

from edge_lfm.kernels.lang.simd import (
    add_above,
    f32,
    inlined,
    kernel,
    load_f32,
    load_u8,
    lookup_floats,
    lookup_int,
    lookup_nibbles,
    max_f32,
    min_f32,
    round_i32,
    splat_f32,
    splat_i32,
    store_f32,
    store_i32,
    store_i32_as_i8,
    to_f32,
    u8,
    where_above,
    where_odd,
    zero_f32,
    zero_i32,
)
from edge_lfm.kernels.ops.integer_tiles import integer_tile
from edge_lfm.kernels.ops.lanes import lanes_of
from edge_lfm.kernels.ops.search import (
    SCRATCH,
    SCRATCH_BYTES,
    absolute,
    note_error,
    reciprocal,
    search_of,
    start_search,
    store_nibbles,
    weigh,
)
from edge_lfm.kernels.ops.weights import Block, Integers, SchemeKernels, load_nibbles
from edge_lfm.kernels.spec.layout import GROUP
from edge_lfm.kernels.spec.schemes import ABOUT_HALF, MAX_SCALE

ROW_SCALES_BYTES, NIBBLES_BYTES = 64, 256  # the header of a tile; what comes first in a group


def kernels_of(scheme):
    grid = scheme.grid
    zero_point = -grid.low
    unsigned = tuple(level + zero_point for level in grid.levels)  # as dot products read them: 0..63
    low, high = (columns_of(lookup_nibbles(unsigned, high=is_high)) for is_high in (False, True))
    columns = ((low, high),) if scheme.block == GROUP else ((low,), (high,))
    blocks = tuple(
        Block(vectors, scale_at(at), offset_at(at, grid.shift, zero_point))
        for vectors, at in zip(columns, range(NIBBLES_BYTES, scheme.group_bytes, 16), strict=True)
    )
    integers = Integers(scheme, "looked_up", load_nibbles, (blocks,))
    return SchemeKernels(scheme, integer_tile(integers), value_of(scheme), lanes_of(integers), encoder_of(scheme))


def columns_of(levels):
    """A kernel `(stored)` -> the levels of four vectors' nibbles."""

    @inlined
    def columns(stored):
        a, b, c, d = stored
        return levels(a), levels(b), levels(c), levels(d)

    return columns


# Called, not inlined: LLVM then computes the levels and dot products before where they are used, which takes fewer
# registers (AVX2, four tokens in blocks of 16: 469 instructions a group and not 487).


def scale_at(at):
    """A kernel `(w)` -> the scales of 16 rows, as multiples of their row scales, from bytes `at` a group's begin."""

    @kernel
    def scale(w):
        return to_f32(load_u8(w + at)) - splat_f32(float32(MAX_SCALE))

    return scale


def offset_at(at, shift, zero_point):
    """A kernel `(w, scale)` -> what levels have to be raised by, scaled: the shift, less what makes them unsigned."""

    @kernel
    def offset(w, scale):
        return scale * where_odd(load_u8(w + at), float32(shift - zero_point), float32(-zero_point))

    return offset


def value_of(scheme):
    nbytes, block = scheme.group_bytes, scheme.block
    shift, level_of = scheme.grid.shift, lookup_int(scheme.grid.levels)

    @kernel
    def value(w, r, k):
        group, k = w + ROW_SCALES_BYTES + k // GROUP * nbytes, k % GROUP
        code = u8(group + NIBBLES_BYTES + k // block * 16 + r)
        both = u8(group + (k % 16) // 4 * 64 + 4 * r + k % 4)
        level = level_of(both >> 4 if k >= 16 else both & 15) + (code & 1) * int32(shift)
        return float32(level) * (float32(code - int32(MAX_SCALE)) * f32(w + 4 * r))

    return value


def nearest_of(levels):
    """A kernel `(t)`: the codebook entries nearest to t, by bisection; on a tie, the lower one."""
    middle = (levels[7] + levels[8]) / 2
    middles = lookup_floats((*((a + b) / 2 for a, b in pairwise(levels)), 0.0))

    @kernel
    def nearest(t):
        i = add_above(zero_i32(), t, splat_f32(float32(middle)), int32(8))
        i = add_above(i, t, middles(i + splat_i32(int32(3))), int32(4))
        i = add_above(i, t, middles(i + splat_i32(int32(1))), int32(2))
        return add_above(i, t, middles(i), int32(1))

    return nearest


def level_of(levels, nearest):
    """A kernel `(t, shift)`: the level, raised by `shift`, that is nearest to t."""

    @kernel
    def level(t, shift):
        return levels(nearest(t - shift)) + shift

    return level


def error_of(level):
    """A kernel: sum(weight * (x - scale * level)**2) of a block [columns, 16] rounded on a given scale."""

    @kernel
    def error_on(x, scratch, columns, scale, shift):
        inverse, error = reciprocal(scale), zero_f32()
        for k in range(columns):
            v = load_f32(x + 64 * k)
            e = v - scale * level(v * inverse, shift)
            error = error + load_f32(scratch + SCRATCH.weight + 64 * k) * e * e
        return error

    return error_on


def code_of(level, shift_size):
    """A kernel that finds the scale byte of a block [columns, 16] and writes it to `codes`.

    The best of three neighbouring multiples of the row's scale, with and without shift. `scale_at`: address of the
    scales that the search gave. Leaves the scale that can be read back, and its shift, in the scratch memory.
    """
    error_on = error_of(level)

    @kernel
    def store_codes(x, scratch, columns, row, scale_at, codes):
        target, half = load_f32(scale_at) * reciprocal(row), splat_f32(float32(ABOUT_HALF))
        best = splat_f32(float32(3e38))
        code, kept, kept_shift = zero_f32(), zero_f32(), zero_f32()
        for bit in range(2):
            # Even bytes hold odd multiples, -127..127; odd bytes even ones, -126..128.
            shift, odd = splat_f32(float32(bit * shift_size)), splat_f32(float32(1 - bit))
            middle = to_f32(round_i32((target - odd) * half))
            for move in range(-1, 2):
                n = middle + splat_f32(float32(move))
                n = min_f32(max_f32(n, splat_f32(float32(bit - 64))), splat_f32(float32(bit + 63)))
                multiple = n + n + odd
                candidate = multiple * row
                error = error_on(x, scratch, columns, candidate, shift)
                number = multiple + splat_f32(float32(MAX_SCALE))
                code, kept = where_above(best, error, number, code), where_above(best, error, candidate, kept)
                kept_shift = where_above(best, error, shift, kept_shift)
                best = where_above(best, error, error, best)
        store_i32_as_i8(codes, round_i32(code))
        store_f32(scratch + SCRATCH.stored, kept)
        store_f32(scratch + SCRATCH.shift, kept_shift)

    return store_codes


@cache
def block_encoder(grid):
    """A kernel that encodes a tile in blocks of any width; schemes of one grid share it."""
    nearest, levels = nearest_of(grid.levels), lookup_floats(tuple(float(level) for level in grid.levels))
    level = level_of(levels, nearest)
    search, store_codes = search_of(level), code_of(level, grid.shift)
    shifts, ends = (float32(0.0), float32(grid.shift)), (float32(grid.low), float32(grid.levels[-1]))
    candidates, step = grid.candidates, grid.step

    @kernel
    def row_scale(x, importance, cols, columns, scratch):
        """The scale of every block, left after the scratch record -> the scales of the rows."""
        largest = zero_f32()
        for n in range(cols // columns):
            block, scale = x + n * columns * 64, scratch + SCRATCH_BYTES + 64 * n
            weigh(block, scratch, importance + n * columns * 4 if importance != 0 else int64(0), columns)
            start_search(scratch, scale)
            for shift in shifts:
                for end in ends:
                    search(block, scratch, columns, end + shift, candidates, float32(step), splat_f32(shift), scale)
            largest = max_f32(largest, absolute(load_f32(scale)))
        return largest * splat_f32(float32(1.0 / MAX_SCALE))

    @kernel
    def encode_block(x, scratch, columns, first, row, scale_at, row_peak, codes, errors):
        """Columns from `first` of a group on: the scale byte to `codes`, the entries to the scratch memory."""
        store_codes(x, scratch, columns, row, scale_at, codes)
        scale, shift = load_f32(scratch + SCRATCH.stored), load_f32(scratch + SCRATCH.shift)
        inverse = reciprocal(scale)
        for k in range(columns):
            i = nearest(load_f32(x + 64 * k) * inverse - shift)
            store_i32(scratch + SCRATCH.level + 64 * (first + k), i)
            note_error(x, k, scale * (levels(i) + shift), row_peak, errors)

    @kernel
    def encode(columns, nbytes, x, importance, cols, row_peak, out, scratch, errors):
        row = row_scale(x, importance, cols, columns, scratch)
        store_f32(out, row * row_peak)
        group = out + ROW_SCALES_BYTES
        for n in range(cols // columns):
            block, first = x + n * columns * 64, n * columns % GROUP
            weigh(block, scratch, importance + n * columns * 4 if importance != 0 else int64(0), columns)
            codes, scale_at = group + NIBBLES_BYTES + first // columns * 16, scratch + SCRATCH_BYTES + 64 * n
            encode_block(block, scratch, columns, first, row, scale_at, row_peak, codes, errors)
            if first + columns == GROUP:
                store_nibbles(scratch + SCRATCH.level, group)
                group += nbytes
        return int64(0)

    return encode


def encoder_of(scheme):
    """The encoder of one tile (`weights.SchemeKernels.encode`)."""
    encode_blocks, columns, nbytes = block_encoder(scheme.grid), scheme.block, scheme.group_bytes

    @kernel
    def encode(plain, x, importance, cols, row_peak, out, scratch, errors):
        return encode_blocks(int64(columns), int64(nbytes), x, importance, cols, row_peak, out, scratch, errors)

    return encode
