"""codebook4_g32, codebook4_g16 and code3_g32: entries of 16 or 8 levels in blocks that a byte scales, times the row's
scale.

A tile begins with 16 float32 scales of rows. A group is four vectors of nibbles, or three of threes of bits, then 16
scale bytes for each block of columns (`spec/definitions/codebook.py`).
"""

from functools import cache
from itertools import pairwise

from numba import float32, int32, int64

from edge_lfm.kernels.lang.lowering import ISA
from edge_lfm.kernels.lang.register_tiles import bytes_of_lanes
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
    lookup_thirds,
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
from edge_lfm.kernels.ops.blocks import blocks_of
from edge_lfm.kernels.ops.integer_tiles import integer_tile
from edge_lfm.kernels.ops.search import (
    SCRATCH,
    SCRATCH_BYTES,
    absolute,
    note_error,
    reciprocal,
    search_of,
    start_search,
    store_nibbles,
    store_thirds,
    weigh,
)
from edge_lfm.kernels.ops.weights import Block, Integers, SchemeKernels, load_nibbles, load_thirds
from edge_lfm.kernels.spec.layout import GROUP, RAISED
from edge_lfm.kernels.spec.schemes import ABOUT_ONE, MAX_SCALE

ROW_SCALES_BYTES = 64  # the header of a tile


def kernels_of(scheme):
    grid = scheme.grid
    zero_point = zero_point_of(grid)
    unsigned = tuple(level + zero_point for level in grid.levels)  # as dot products read them
    load, columns = nibbles_of(unsigned) if len(unsigned) == 16 else thirds_of(unsigned)
    of_blocks = (columns,) if scheme.block == GROUP else tuple((half,) for half in columns)
    blocks = tuple(
        Block(vectors, scale_at(at), **undone_at(at, grid))
        for vectors, at in zip(of_blocks, range(scheme.value_bytes, scheme.group_bytes, 16), strict=True)
    )
    integers = Integers(scheme, "looked_up", load, (blocks,), zero_point=zero_point)
    return SchemeKernels(scheme, integer_tile(integers), value_of(scheme), blocks_of(integers), encoder_of(scheme))


def nibbles_of(levels):
    """What loads a group of entries of four bits, and what makes levels of its first and its last 16 columns."""
    return load_nibbles, tuple(columns_of(lookup_nibbles(levels, high=is_high)) for is_high in (False, True))


def columns_of(levels):
    """A kernel `(stored)` -> the levels of four vectors' nibbles."""

    @inlined
    def columns(stored):
        a, b, c, d = stored
        return levels(a), levels(b), levels(c), levels(d)

    return columns


def thirds_of(levels):
    """The same of entries of three bits."""
    low, high = lookup_thirds(levels, high=False), lookup_thirds(levels, high=True)

    @inlined
    def first(stored):
        a, b, _, _ = stored
        return low(a), high(a), low(b), high(b)

    @inlined
    def last(stored):
        _, _, c, d = stored
        return low(c), high(c), low(d), high(d)

    return load_thirds, (first, last)


# Called, not inlined: LLVM then computes the levels and dot products before where they are used, which takes fewer
# registers (AVX2, four tokens in blocks of 16: 469 instructions a group and not 487).


def scale_at(at):
    """A kernel `(w)` -> the scales of 16 rows, as multiples of their row scales, from bytes `at` a group's begin."""

    @kernel
    def scale(w):
        return to_f32(load_u8(w + at)) - splat_f32(float32(MAX_SCALE))

    return scale


def zero_point_of(grid):
    """What levels are raised by, as dot products read them: to 0..63, or by what sums start with."""
    return RAISED if ISA.starts_sums else -grid.low


def undone_at(at, grid):
    """How a block undoes what its levels are raised by (arguments of `Block`)."""
    if ISA.starts_sums:
        return {"shift": shift_at(at, grid)}
    return {"offset": offset_at(at, grid, zero_point_of(grid))}


def shift_at(at, grid):
    """A kernel `(w)` -> what the levels of rows have to be raised by."""
    size, last = grid.shift, grid.shifts - 1

    @inlined
    def shift(w):
        return bytes_of_lanes(load_u8(w + at) & splat_i32(int32(last)), int32(size))

    return shift


def offset_at(at, grid, zero_point):
    """A kernel `(w, scale)` -> what levels have to be raised by, scaled: the shift, less what makes them unsigned."""
    size, last = grid.shift, grid.shifts - 1

    @kernel
    def either(w, scale):
        return scale * where_odd(load_u8(w + at), float32(size - zero_point), float32(-zero_point))

    @kernel
    def one_of_many(w, scale):
        shifts = to_f32(load_u8(w + at) & splat_i32(int32(last)))
        return scale * (shifts * splat_f32(float32(size)) - splat_f32(float32(zero_point)))

    return either if grid.shifts == 2 else one_of_many


def entry_of(scheme):
    """A kernel `(group, r, k)` -> the entry of row r, column k of a group."""

    @kernel
    def nibble(group, r, k):
        both = u8(group + (k % 16) // 4 * 64 + 4 * r + k % 4)
        return both >> 4 if k >= 16 else both & 15

    @kernel
    def third(group, r, k):
        at = group + 4 * r + k % 4
        if k < 24:
            return (u8(at + k // 8 * 64) >> (k // 4 % 2 * 3)) & 7
        rest = (u8(at) >> 6) | (u8(at + 64) >> 6 << 2) | (u8(at + 128) >> 6 << 4)
        return (rest >> (k // 4 % 2 * 3)) & 7

    return nibble if len(scheme.grid.levels) == 16 else third


def value_of(scheme):
    nbytes, block, at = scheme.group_bytes, scheme.block, scheme.value_bytes
    shift, last = scheme.grid.shift, scheme.grid.shifts - 1
    entry, level_of = entry_of(scheme), lookup_int(scheme.grid.levels)

    @kernel
    def value(w, r, k):
        group, k = w + ROW_SCALES_BYTES + k // GROUP * nbytes, k % GROUP
        code = u8(group + at + k // block * 16 + r)
        level = level_of(int32(entry(group, r, k))) + (code & last) * int32(shift)
        return float32(level) * (float32(code - int32(MAX_SCALE)) * f32(w + 4 * r))

    return value


def padded(numbers):
    """A table of 16."""
    return (*map(float, numbers), *(0.0,) * (16 - len(numbers)))


def nearest_of(levels):
    """A kernel `(t)`: the codebook entries nearest to t, by bisection; on a tie, the lower one."""
    half = len(levels) // 2
    between = tuple((a + b) / 2 for a, b in pairwise(levels))
    middle, middles = between[half - 1], lookup_floats(padded(between))

    @kernel
    def nearest_of_eight(t):
        i = add_above(zero_i32(), t, splat_f32(float32(middle)), int32(4))
        i = add_above(i, t, middles(i + splat_i32(int32(1))), int32(2))
        return add_above(i, t, middles(i), int32(1))

    @kernel
    def nearest(t):
        i = add_above(zero_i32(), t, splat_f32(float32(middle)), int32(8))
        i = add_above(i, t, middles(i + splat_i32(int32(3))), int32(4))
        i = add_above(i, t, middles(i + splat_i32(int32(1))), int32(2))
        return add_above(i, t, middles(i), int32(1))

    return nearest if len(levels) == 16 else nearest_of_eight


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


def code_of(error_on, grid):
    """A kernel that finds the scale byte of a block [columns, 16] and writes it to `codes`.

    The best of three neighbouring multiples of the row's scale, with each shift. `scale_at`: address of the
    scales that the search gave. Leaves the scale that can be read back, and its shift, in the scratch memory.
    error_on: as `error_of` makes it.
    """
    shift_size, shifts = grid.shift, grid.shifts

    @kernel
    def store_codes(x, scratch, columns, row, scale_at, codes):
        target, share = load_f32(scale_at) * reciprocal(row), splat_f32(float32(ABOUT_ONE / shifts))
        best = splat_f32(float32(3e38))
        code, kept, kept_shift = zero_f32(), zero_f32(), zero_f32()
        for n in range(shifts):
            # A byte with n shifts holds a multiple `shifts * k + base` in -127..128.
            base = (n + 1) & (shifts - 1)
            shift, first = splat_f32(float32(n * shift_size)), splat_f32(float32(base))
            least = splat_f32(float32(-((MAX_SCALE + base) // shifts)))
            most = splat_f32(float32((MAX_SCALE + 1 - base) // shifts))
            middle = to_f32(round_i32((target - first) * share))
            for move in range(-1, 2):
                k = min_f32(max_f32(middle + splat_f32(float32(move)), least), most)
                multiple = splat_f32(float32(shifts)) * k + first
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
    nearest, levels = nearest_of(grid.levels), lookup_floats(padded(grid.levels))
    level = level_of(levels, nearest)
    search, store_codes = search_of(level), code_of(error_of(level), grid)
    shifts = tuple(float32(n * grid.shift) for n in range(grid.shifts))
    ends, is_nibble = (float32(grid.low), float32(grid.levels[-1])), len(grid.levels) == 16
    value_bytes, store_entries = (256, store_nibbles) if is_nibble else (192, store_thirds)
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
            codes, scale_at = group + value_bytes + first // columns * 16, scratch + SCRATCH_BYTES + 64 * n
            encode_block(block, scratch, columns, first, row, scale_at, row_peak, codes, errors)
            if first + columns == GROUP:
                store_entries(scratch + SCRATCH.level, group)
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
