"""Weights times many activations: 16 tokens in the lanes of a register, on tiers without a dot product of fours.

There the tiles of `integer_tiles.py` spend a third of their instructions on unpacking weights for four tokens and on
repeating activations all over registers. Here weights are unpacked once for a batch, and a repeated four of weights
serves 16 tokens; signed bytes, which need no unpacking and whose products are four instructions, gain nothing. Every
output is summed as there, to the bit.

In a block of tokens (`panels.py`) byte 4t + b of vector j of a group is token t's column 4j + b.
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
from edge_lfm.kernels.lang.simd import inlined, kernel, load_column, splat_f32, store_f32
from edge_lfm.kernels.ops.integer_tiles import SUMS, same
from edge_lfm.kernels.ops.panels import BLOCK_BYTES, RECORDS_BYTES, VALUES_BYTES, pack_of, unpack_part
from edge_lfm.kernels.ops.weights import in_turn, prefetch_group
from edge_lfm.kernels.spec.layout import GROUP, LANE_TOKENS, LANES, offsets

WORK = offsets(LANES)
WORK_BYTES = LANES.itemsize
TOTALS_BYTES = 16 * LANE_TOKENS * 4  # of a block of tokens
SUM, FIRST_SUM, LAST_SUM = (LANE_TOKENS * at for at in (SUMS.sum, SUMS.first_sum, SUMS.last_sum))


@inlined
def by_lanes(x, cols, to):
    interleave(x, cols, to)
    interleave(x + 16, cols, to + VALUES_BYTES // 2)


pack_blocks = pack_of(by_lanes, WORK_BYTES)


def part_step(integers, part):
    """A kernel `(work, stored, w, x, s, blocks, cols)` -> work: part `part` of a group, 32 columns, added to `totals`.

    x, s: where the activations and the records of the group begin in the first block of tokens.
    """
    rows = ISA.lane_rows
    unpack, halves, fold = unpack_part(integers, part), len(integers.parts[part]) == 2, lane_fold(rows)
    if integers.levels == "small":
        zeros, dot, widened = zero_small_tile(rows), lane_small_dot_tile(rows), widen_tile(rows)
    else:
        zeros, dot, widened = zero_int_tile(rows), lane_dot_tile(rows), same

    @inlined
    def step(work, stored, w, x, s, blocks, cols):
        unpack(stored, w, work + WORK.panel, work + WORK.scales)
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


@inlined
def totals_of(work, m):
    """16 rows' sums of token m."""
    return load_column(work + WORK.totals + m // LANE_TOKENS * TOTALS_BYTES + m % LANE_TOKENS * 4, int64(64))
