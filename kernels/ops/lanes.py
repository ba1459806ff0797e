"""Weights times many activations: 16 tokens in the lanes of a register, on tiers without a dot product of fours.

There the tiles of `integer_tiles.py` spend a third of their instructions on unpacking weights for four tokens and on
repeating activations all over registers. Here weights are unpacked once for a batch, and a repeated four of weights
serves 16 tokens; signed bytes, which need no unpacking and whose products are four instructions, gain nothing. Every
output is summed as there, to the bit.

A block of 16 tokens: for each group of 32 columns 512 bytes of activations, byte 4t + b of vector j being token t's
column 4j + b; then for each group four float32 x 16, the tokens' records of that group (`layout.ACTIVATION`).
"""

from numba import float32, int64

from edge_lfm.kernels.lang.lowering import ISA
from edge_lfm.kernels.lang.register_tiles import (
    interleave,
    lane_dot_tile,
    lane_fold,
    lane_small_dot_tile,
    widen_tile,
    zero_int_tile,
    zero_small_tile,
)
from edge_lfm.kernels.lang.simd import inlined, kernel, load_column, load_f32, splat_f32, store_f32, store_i8
from edge_lfm.kernels.ops.integer_tiles import SUMS, same
from edge_lfm.kernels.ops.weights import factors_of, in_turn, prefetch_group
from edge_lfm.kernels.spec.layout import ACTIVATION_BYTES, GROUP, LANE_TOKENS, LANES, offsets

WORK = offsets(LANES)
WORK_BYTES = LANES.itemsize
TOTALS_BYTES = 16 * LANE_TOKENS * 4  # of a block of tokens
VALUES_BYTES, RECORDS_BYTES = LANE_TOKENS * GROUP, LANE_TOKENS * ACTIVATION_BYTES  # of 32 columns of a block of tokens
BLOCK_BYTES = (VALUES_BYTES + RECORDS_BYTES) // GROUP  # a column's
SUM, FIRST_SUM, LAST_SUM = (LANE_TOKENS * at for at in (SUMS.sum, SUMS.first_sum, SUMS.last_sum))


@kernel
def pack_blocks(q, s, cols, count, area):
    """As many whole blocks of 16 tokens as `count` has, beside the work memory at `area`; returns their number.

    q: int8 [count, cols]; s: their ACTIVATION records [count, cols / 32].
    """
    groups, to = cols // GROUP, area + WORK_BYTES
    for n in range(count // LANE_TOKENS):
        x, r = q + n * LANE_TOKENS * cols, s + n * LANE_TOKENS * groups * ACTIVATION_BYTES
        for g in range(groups):
            values = to + g * VALUES_BYTES
            interleave(x + g * GROUP, cols, values)
            interleave(x + g * GROUP + 16, cols, values + VALUES_BYTES // 2)
            records = to + cols * LANE_TOKENS + g * RECORDS_BYTES
            interleave(r + g * ACTIVATION_BYTES, groups * ACTIVATION_BYTES, records)
        to += cols * BLOCK_BYTES
    return count // LANE_TOKENS


@kernel
def pack_none(q, s, cols, count, area):
    """For schemes that are multiplied by register tiles only."""
    return int64(0)


@inlined
def store_four(at, a, b, c, d):
    store_i8(at, a)
    store_i8(at + 64, b)
    store_i8(at + 128, c)
    store_i8(at + 192, d)


def store_scales(block):
    """A kernel `(w, at)`: the scales of 16 rows, then their offsets."""
    scale_of, offset_of = block.scale, block.offset

    @inlined
    def store(w, at):
        scale = scale_of(w)
        store_f32(at, scale)
        store_f32(at + 64, offset_of(w, scale))

    return store


def unpack_part(blocks):
    """A kernel `(stored, w, work)`: 32 columns of a group -> `panel` and `scales` of the work memory."""
    first, last = [columns for block in blocks for columns in block.columns]
    first_scales, last_scales, halves = store_scales(blocks[0]), store_scales(blocks[-1]), len(blocks) == 2

    @inlined
    def unpack(stored, w, work):
        a, b, c, d = first(stored)
        e, f, g, h = last(stored)
        panel, scales = work + WORK.panel, work + WORK.scales
        store_four(panel, a, b, c, d)
        store_four(panel + 256, e, f, g, h)
        first_scales(w, scales)
        if halves:
            last_scales(w, scales + 128)

    return unpack


def part_step(integers, part):
    """A kernel `(work, stored, w, x, s, blocks, cols)` -> work: part `part` of a group, 32 columns, added to `totals`.

    x, s: where the activations and the records of the group begin in the first block of tokens.
    """
    blocks_of_columns = integers.parts[part]
    rows = ISA.lane_rows
    unpack, halves, fold = unpack_part(blocks_of_columns), len(blocks_of_columns) == 2, lane_fold(rows)
    if integers.levels == "small":
        zeros, dot, widened = zero_small_tile(rows), lane_small_dot_tile(rows), widen_tile(rows)
    else:
        zeros, dot, widened = zero_int_tile(rows), lane_dot_tile(rows), same

    @inlined
    def step(work, stored, w, x, s, blocks, cols):
        unpack(stored, w, work)
        for n in range(blocks):
            first = x + part * VALUES_BYTES + n * cols * BLOCK_BYTES
            record = s + part * RECORDS_BYTES + n * cols * BLOCK_BYTES
            last = first + VALUES_BYTES // 2
            for r in range(0, 16, rows):
                totals = work + WORK.totals + n * TOTALS_BYTES + 64 * r
                panel, scales = work + WORK.panel + 4 * r, work + WORK.scales + 4 * r
                sums = dot(zeros(), panel, first)
                if halves:
                    fold(totals, widened(sums), scales, record, record + FIRST_SUM)
                    sums = dot(zeros(), panel + 256, last)
                    fold(totals, widened(sums), scales + 128, record, record + LAST_SUM)
                else:
                    sums = dot(sums, panel + 256, last)
                    fold(totals, widened(sums), scales, record, record + SUM)
        return work

    return step


def lanes_of(integers):
    """A kernel `(w, x, blocks, cols, work)`: a tile of weights times blocks of tokens at x, left in `totals` of `work`.

    None where the tier, or weights of this kind, have no use for it.
    """
    if ISA.lane_rows == 0 or integers.levels == "signed":
        return None
    scheme = integers.scheme
    header, columns, nbytes = scheme.header_bytes, scheme.columns, scheme.group_bytes
    load, fetch = integers.load, prefetch_group(nbytes)
    group = in_turn([part_step(integers, n) for n in range(len(integers.parts))])
    values, records = columns // GROUP * VALUES_BYTES, columns // GROUP * RECORDS_BYTES

    @kernel
    def lanes(w, x, blocks, cols, work):
        for r in range(16 * blocks):
            store_f32(work + WORK.totals + 64 * r, splat_f32(float32(0.0)))
        w += header
        s = x + cols * LANE_TOKENS
        for _g in range(cols // columns):
            fetch(w)
            group(work, load(w), w, x, s, blocks, cols)
            w += nbytes
            x += values
            s += records

    return lanes


def blocks_of(kernels):
    """A kernel `(w, packed, cols, out)`: a tile of weights times packed blocks; nothing where the scheme has no lanes.

    packed, out: `operands.Packed`, `operands.Outputs`.
    """
    lanes, factors = kernels.lanes, factors_of(kernels.scheme, kernels.unit)
    has_factors, factors_at = factors is not None, factors or same
    if lanes is None:
        return skip_blocks

    @kernel
    def multiply_blocks(w, packed, cols, out):
        area, at = packed.area, out.at
        lanes(w, area + WORK_BYTES, packed.blocks, cols, area)
        for m in range(LANE_TOKENS * packed.blocks):
            totals = area + WORK.totals + m // LANE_TOKENS * TOTALS_BYTES + m % LANE_TOKENS * 4
            value = load_column(totals, int64(64))
            if has_factors:
                value = value * factors_at(w)
            if out.add != 0:
                value = value + load_f32(at)
            store_f32(at, value)
            at += out.stride

    return multiply_blocks


@kernel
def skip_blocks(w, packed, cols, out):
    pass
