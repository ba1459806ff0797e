"""Rounding by output error: the loops over columns, for 64 rows side by side. Definition: `spec/ref_feedback.py`.

A task is a record FEEDBACK. Columns come in steps of 32, and what a step changes is spread over all other columns at
once, by a matrix that lies in panels, float32 [K / 16, K, 16]: [p, j, i] is the element of row 16 p + i, column j.
Values of a column are four vectors of rows, float32 [K, 64].
"""

from numba import float32, int64

from edge_lfm.kernels.lang.lowering import ISA
from edge_lfm.kernels.lang.outer_tiles import load_outer_tile, outer_tile, store_outer_tile
from edge_lfm.kernels.lang.parts import entry
from edge_lfm.kernels.lang.register_tiles import load_tile
from edge_lfm.kernels.lang.simd import (
    f32,
    i64,
    kernel,
    load_f32,
    round_i32,
    splat_f32,
    store_f32,
    store_i32,
    where_above,
    zero_f32,
)
from edge_lfm.kernels.ops.search import absolute
from edge_lfm.kernels.spec.layout import FEEDBACK, FEEDBACK_ROWS, FEEDBACK_STEP, offsets

TASK = offsets(FEEDBACK)
COLUMN_BYTES = 4 * FEEDBACK_ROWS  # of 64 rows
HALF = 16  # columns of a panel; two are a step
COLUMNS, VECTORS = ISA.inner_tile
"""Of a tile of `spread`. With AVX-512 a tile of two by two waits for its own sums, which take four cycles each: for 16
multiply-adds llvm-mca counts 24.1 cycles of a Zen 4 core, and 20.0 in tiles of four by four."""
load_rows, take_products = load_tile(VECTORS), outer_tile(COLUMNS, VECTORS, 4 * HALF, takes_off=True)
load_sums = load_outer_tile(COLUMNS, VECTORS, (COLUMN_BYTES, 64))
store_sums = store_outer_tile(COLUMNS, VECTORS, (COLUMN_BYTES, 64))


@kernel
def spread(panel, x, out, first, columns):
    """out[j] -= sum of panel[j, i] * x[i], for columns j from `first` on; x: float32 [16, 64].

    A few columns and vectors of rows at a time: what is loaded serves all of them, and their sums stay in registers.
    """
    for j in range(first, columns, COLUMNS):
        for lane in range(0, COLUMN_BYTES, 64 * VECTORS):
            at, row = out + COLUMN_BYTES * j + lane, panel + 4 * HALF * j
            sums = load_sums(at)
            for i in range(HALF):
                sums = take_products(sums, load_rows(x + COLUMN_BYTES * i + lane, 64), row + 4 * i)
            store_sums(at, sums)


@kernel
def spread_step(task, x, out, at, first, columns):
    """`spread` of the 32 columns of x from `at` on, a multiple of 32."""
    for half in range(0, FEEDBACK_STEP, HALF):
        panel = i64(task + TASK.matrix) + (at + half) // HALF * columns * 4 * HALF
        spread(panel, x + COLUMN_BYTES * half, out, first, columns)


@kernel
def element(task, row, column, columns):
    """The matrix's element, all over a vector."""
    panel = i64(task + TASK.matrix) + row // HALF * columns * 4 * HALF
    return splat_f32(f32(panel + 4 * (HALF * column + row % HALF)))


@kernel
def take_off(task, at, first, to, last, columns, error, lane):
    """Of the columns of a step from `to` to `last`, at `at`, what the error of column `first` makes of them."""
    for j in range(to, last):
        place = at + COLUMN_BYTES * (j - last + FEEDBACK_STEP) + lane
        store_f32(place, load_f32(place) - element(task, first, j, columns) * error)


@kernel
def nearest_level(task, t):
    """(index as float32, level) of the level nearest to t; on a tie the lower one."""
    points, count = i64(task + TASK.points), i64(task + TASK.count)
    below = f32(points)
    index, level = zero_f32(), splat_f32(below)
    for p in range(1, count):
        above = f32(points + 4 * p)
        middle = splat_f32((below + above) * float32(0.5))
        index = where_above(t, middle, splat_f32(float32(p)), index)
        level = where_above(t, middle, splat_f32(above), level)
        below = above
    return index, level


@kernel
def nearest_value(task, column, target, lane):
    """(index, value) of the value of a column that is nearest to the target."""
    block = COLUMN_BYTES * (column // i64(task + TASK.block)) + lane
    scale, shift = load_f32(i64(task + TASK.scale) + block), load_f32(i64(task + TASK.shift) + block)
    t = where_above(absolute(scale), zero_f32(), target / scale, zero_f32()) - shift
    index, level = nearest_level(task, t)
    return index, (level + shift) * scale


@kernel
def nearest_pair(task, unit, v0, v1, a, b, c, lane):
    """(index, value, value) of the pair whose distances d, e from v0, v1 have the least a d d + 2 b d e + c e e."""
    points, count = i64(task + TASK.points), i64(task + TASK.count)
    block = COLUMN_BYTES * (unit * 2 // i64(task + TASK.block)) + lane
    scale, shift = load_f32(i64(task + TASK.scale) + block), load_f32(i64(task + TASK.shift) + block)
    best, index, x, y = splat_f32(float32(3e38)), zero_f32(), zero_f32(), zero_f32()
    twice = b + b
    for p in range(count):
        q0 = (splat_f32(f32(points + 8 * p)) + shift) * scale
        q1 = (splat_f32(f32(points + 8 * p + 4)) + shift) * scale
        d, e = q0 - v0, q1 - v1
        error = d * (a * d + twice * e) + c * e * e
        index = where_above(best, error, splat_f32(float32(p)), index)
        x, y = where_above(best, error, q0, x), where_above(best, error, q1, y)
        best = where_above(best, error, error, best)
    return index, x, y


@kernel
def first_of_pair(task, unit):
    """The first column of a pair; the other one lies half a block on."""
    block = i64(task + TASK.block)
    half = block // 2
    return unit // half * block + unit % half


@kernel
def note_index(task, unit, index, lane):
    store_i32(i64(task + TASK.index) + COLUMN_BYTES * unit + lane, round_i32(index))


@entry
def round_in_turn(task):
    """GPTQ: `w`, its columns in `order`, to `index`; `matrix`: the factor's panels."""
    columns, order, left = i64(task + TASK.columns), i64(task + TASK.order), i64(task + TASK.w)
    errors, pairs = i64(task + TASK.work), i64(task + TASK.pairs) != 0
    for first in range(0, columns, FEEDBACK_STEP):
        last, at = first + FEEDBACK_STEP, left + COLUMN_BYTES * first
        for lane in range(0, COLUMN_BYTES, 64):
            for k in range(first, last, 2 if pairs else 1):
                place = at + COLUMN_BYTES * (k - first) + lane
                to = errors + COLUMN_BYTES * (k - first) + lane
                v, own = load_f32(place), element(task, k, k, columns)
                if pairs:
                    unit, beside, other = i64(order + 4 * k), element(task, k, k + 1, columns), place + COLUMN_BYTES
                    second, w = element(task, k + 1, k + 1, columns), load_f32(other)
                    # The errors are d / own and (e - beside * d / own) / second: their squares as a form of d and e.
                    a, b = splat_f32(float32(1.0)) / (own * own), splat_f32(float32(1.0)) / (second * second)
                    across = beside / own
                    form = a + across * across * b
                    index, q0, q1 = nearest_pair(task, unit, v, w, form, zero_f32() - across * b, b, lane)
                    note_index(task, unit, index, lane)
                    error = (v - q0) / own
                    store_f32(to, error)
                    take_off(task, at, k, k + 1, last, columns, error, lane)
                    error = (load_f32(other) - q1) / second
                    store_f32(to + COLUMN_BYTES, error)
                    take_off(task, at, k + 1, k + 2, last, columns, error, lane)
                else:
                    column = i64(order + 8 * k)
                    index, value = nearest_value(task, column, v, lane)
                    note_index(task, column, index, lane)
                    error = (v - value) / own
                    store_f32(to, error)
                    take_off(task, at, k, k + 1, last, columns, error, lane)
        spread_step(task, errors, left, first, last, columns)
    return int64(0)


@kernel
def move_one(task, k, own, first, last, columns, lane):
    """The level of a column that is best while all others stay; `own`: the slopes of the step's columns."""
    at, slope = i64(task + TASK.w) + COLUMN_BYTES * k + lane, own + COLUMN_BYTES * (k - first) + lane
    before = load_f32(at)
    index, value = nearest_value(task, k, before + load_f32(slope) / element(task, k, k, columns), lane)
    note_index(task, k, index, lane)
    store_f32(at, value)
    moved = value - before
    store_f32(own + COLUMN_BYTES * (FEEDBACK_STEP + k - first) + lane, moved)
    take_off(task, own, k, k + 1, last, columns, moved, lane)


@kernel
def move_pair(task, unit, own, first, last, columns, lane):
    """The same for two columns."""
    k = first_of_pair(task, unit)
    m = k + i64(task + TASK.block) // 2
    at, other = i64(task + TASK.w) + COLUMN_BYTES * k + lane, i64(task + TASK.w) + COLUMN_BYTES * m + lane
    a, b, c = element(task, k, k, columns), element(task, k, m, columns), element(task, m, m, columns)
    g, h = load_f32(own + COLUMN_BYTES * (k - first) + lane), load_f32(own + COLUMN_BYTES * (m - first) + lane)
    before, before_other = load_f32(at), load_f32(other)
    inverse = splat_f32(float32(1.0)) / (a * c - b * b)
    best, best_other = before + (c * g - b * h) * inverse, before_other + (a * h - b * g) * inverse
    index, value, value_other = nearest_pair(task, unit, best, best_other, a, b, c, lane)
    note_index(task, unit, index, lane)
    store_f32(at, value)
    store_f32(other, value_other)
    moved, moved_other = value - before, value_other - before_other
    store_f32(own + COLUMN_BYTES * (FEEDBACK_STEP + k - first) + lane, moved)
    store_f32(own + COLUMN_BYTES * (FEEDBACK_STEP + m - first) + lane, moved_other)
    take_off(task, own, k, first, last, columns, moved, lane)
    take_off(task, own, m, first, last, columns, moved_other, lane)


@entry
def descend(task):
    """Coordinate descent, `sweeps` times: `w`, the values that stand, and `index`; `matrix`: the moments' panels.

    In the last sweep nobody asks any more for the slopes of the columns before.
    """
    columns, slopes, own = i64(task + TASK.columns), i64(task + TASK.slope), i64(task + TASK.work)
    pairs, half = i64(task + TASK.pairs) != 0, FEEDBACK_STEP // 2
    sweeps = i64(task + TASK.sweeps)
    for sweep in range(sweeps):
        for first in range(0, columns, FEEDBACK_STEP):
            last = first + FEEDBACK_STEP
            for at in range(0, FEEDBACK_STEP * COLUMN_BYTES, 64):
                store_f32(own + at, load_f32(slopes + COLUMN_BYTES * first + at))
            for lane in range(0, COLUMN_BYTES, 64):
                if pairs:
                    for unit in range(first // 2, first // 2 + half):
                        move_pair(task, unit, own, first, last, columns, lane)
                else:
                    for k in range(first, last):
                        move_one(task, k, own, first, last, columns, lane)
            behind = last if sweep == sweeps - 1 else int64(0)
            spread_step(task, own + FEEDBACK_STEP * COLUMN_BYTES, slopes, first, behind, columns)
    return int64(0)


@entry
def correlate_blocks(task):
    """Products of blocks of `w` [K, 64] through the moments: `slope` float32 [B, B, 64], B blocks."""
    columns, block, out = i64(task + TASK.columns), i64(task + TASK.block), i64(task + TASK.slope)
    values, through = i64(task + TASK.w), i64(task + TASK.work)
    blocks = columns // block
    for n in range(blocks):
        first = n * block
        for at in range(COLUMN_BYTES * first, COLUMN_BYTES * columns, 64):
            store_f32(through + at, zero_f32())
        for half in range(first, first + block, HALF):
            panel = i64(task + TASK.matrix) + half // HALF * columns * 4 * HALF
            spread(panel, values + COLUMN_BYTES * half, through, first, columns)
        for m in range(n, blocks):
            for lane in range(0, COLUMN_BYTES, 64):
                total = zero_f32()
                for k in range(m * block, (m + 1) * block):
                    total = total - load_f32(through + COLUMN_BYTES * k + lane) * load_f32(
                        values + COLUMN_BYTES * k + lane
                    )
                store_f32(out + COLUMN_BYTES * (n * blocks + m) + lane, total)
                store_f32(out + COLUMN_BYTES * (m * blocks + n) + lane, total)
    return int64(0)
