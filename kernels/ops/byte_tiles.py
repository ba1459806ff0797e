"""Weights times many activations in tiles of bytes, on processors that multiply such tiles (AMX).

A product takes 16 tokens, 16 rows, and one block of columns that share a scale: 32 of the 64 that a tile has room for,
or 16. So its int32 sums are those of a block in `integer_tiles.py`, exact; they are scaled and added up by the same
operations in the same order. Every output is that of a register tile, to the bit, and that of a tier without tiles.

Weights are unpacked for `TILE_GROUPS` groups at a time, and used for all blocks of tokens. A block's totals stay in
registers meanwhile, 16 of AVX-512's 32. In a block of tokens (`panels.py`) the 32 columns of a token lie side by side.
"""

from functools import cache

from numba import float32, int64

from edge_lfm.kernels.lang.byte_tiles import multiply_tiles, release_tiles, set_shapes
from edge_lfm.kernels.lang.register_tiles import (
    fold_halves_tile,
    load_int_tile,
    load_tile,
    scale_tile,
    start_tile,
    store_tile,
)
from edge_lfm.kernels.lang.simd import copy_bytes, inlined, kernel, load_f32, smaller, splat_f32, store_f32
from edge_lfm.kernels.ops.integer_tiles import SUMS
from edge_lfm.kernels.ops.panels import (
    BLOCK_BYTES,
    PANEL_BYTES,
    RECORDS_BYTES,
    SCALES_BYTES,
    VALUES_BYTES,
    pack_of,
    unpack_part,
)
from edge_lfm.kernels.ops.weights import in_turn, prefetch_group
from edge_lfm.kernels.spec.layout import GROUP, LANE_TOKENS, TILE_GROUPS, TILES, offsets

WORK = offsets(TILES)
WORK_BYTES = TILES.itemsize
TOTALS_BYTES = LANE_TOKENS * 64  # of a block of tokens
SUM, FIRST_SUM, LAST_SUM = (LANE_TOKENS * at for at in (SUMS.sum, SUMS.first_sum, SUMS.last_sum))
PANEL, SCALES, VALUES, RECORDS = (int64(n) for n in (PANEL_BYTES, SCALES_BYTES, VALUES_BYTES, RECORDS_BYTES))

multiply_first, multiply_second = multiply_tiles(0), multiply_tiles(1)
load_totals, store_totals, load_sums = load_tile(LANE_TOKENS), store_tile(LANE_TOKENS), load_int_tile(LANE_TOKENS)
scaled, fold_halves = scale_tile(LANE_TOKENS), fold_halves_tile(LANE_TOKENS)


@inlined
def side_by_side(x, cols, to):
    for t in range(LANE_TOKENS):
        copy_bytes(to + t * GROUP, x + t * cols, int64(GROUP))


pack_blocks = pack_of(side_by_side, WORK_BYTES)


def fold_of(zero_point):
    """A kernel: total + sums * both scales, with sums that start as in `integer_tiles.block_step`."""
    start = start_tile(LANE_TOKENS, zero_point)

    @inlined
    def fold(total, sums, scales, record, at_sum):
        started = start(load_sums(sums, int64(64)), record + at_sum, int64(4))
        return scaled(total, started, load_f32(scales), record, int64(4))

    return fold


@cache
def add_whole_of(zero_point):
    fold = fold_of(zero_point)

    @kernel
    def add_whole(x, s, parts, work, totals):
        """The products of `parts` groups of 32 columns that share a scale, added to the totals of a block of tokens.

        x, s: where the block's activations and records of the first group begin.
        """
        total = load_totals(totals, int64(64))
        panel, scales = work + WORK.panel, work + WORK.scales
        first, second = work + WORK.sums, work + WORK.sums + TOTALS_BYTES
        for _pair in range(parts // 2):
            multiply_first(x, panel, first)
            multiply_second(x + VALUES, panel + PANEL, second)
            total = fold(total, first, scales, s, SUM)
            total = fold(total, second, scales + SCALES, s + RECORDS, SUM)
            x, panel, s, scales = x + 2 * VALUES, panel + 2 * PANEL, s + 2 * RECORDS, scales + 2 * SCALES
        if parts % 2 == 1:
            multiply_first(x, panel, first)
            total = fold(total, first, scales, s, SUM)
        store_totals(totals, total, int64(64))

    return add_whole


@cache
def add_halves_of(zero_point):
    start = start_tile(LANE_TOKENS, zero_point)

    @kernel
    def add_halves(x, s, parts, work, totals):
        """The same of groups whose halves have a scale each."""
        total = load_totals(totals, int64(64))
        panel, scales = work + WORK.panel, work + WORK.scales
        first, second = work + WORK.sums, work + WORK.sums + TOTALS_BYTES
        for _part in range(parts):
            multiply_first(x, panel, first)
            multiply_second(x + GROUP // 2, panel + PANEL // 2, second)
            low = start(load_sums(first, int64(64)), s + FIRST_SUM, int64(4))
            high = start(load_sums(second, int64(64)), s + LAST_SUM, int64(4))
            total = fold_halves(total, low, high, load_f32(scales), load_f32(scales + SCALES // 2), s, int64(4))
            x, panel, s, scales = x + VALUES, panel + PANEL, s + RECORDS, scales + SCALES
        store_totals(totals, total, int64(64))

    return add_halves


def unpack_nth(integers, n):
    """A kernel `(stored, w, panel, scales)` -> stored: part n of a group into memory; part 0 begins at `panel`."""
    unpack = unpack_part(integers, n)

    @inlined
    def nth(stored, w, panel, scales):
        unpack(stored, w, panel + n * PANEL, scales + n * SCALES)
        return stored

    return nth


def tiles_of(integers):
    """A kernel `(w, x, blocks, cols, work)`: a tile of weights times blocks of tokens, left in `totals` of `work`."""
    scheme = integers.scheme
    header, columns, nbytes = scheme.header_bytes, scheme.columns, scheme.group_bytes
    load, fetch, parts = integers.load, prefetch_group(nbytes), len(integers.parts)
    unpack = in_turn([unpack_nth(integers, n) for n in range(parts)])
    shapes, add_of = set_shapes(scheme.block), add_halves_of if len(integers.parts[0]) == 2 else add_whole_of
    add, span = add_of(integers.zero_point), TILE_GROUPS // parts

    @kernel
    def tiles(w, x, blocks, cols, work):
        for m in range(LANE_TOKENS * blocks):
            store_f32(work + WORK.totals + 64 * m, splat_f32(float32(0.0)))
        shapes()
        w += header
        s, groups = x + cols * LANE_TOKENS, cols // columns
        for begin in range(0, groups, span):
            count = smaller(int64(span), groups - begin)
            for g in range(count):
                fetch(w)
                unpack(load(w), w, work + WORK.panel + g * parts * PANEL, work + WORK.scales + g * parts * SCALES)
                w += nbytes
            for n in range(blocks):
                at, totals = n * cols * BLOCK_BYTES, work + WORK.totals + n * TOTALS_BYTES
                add(x + at, s + at, count * parts, work, totals)
            x += count * parts * VALUES
            s += count * parts * RECORDS
        release_tiles()

    return tiles


@inlined
def totals_of(work, m):
    """16 rows' sums of token m."""
    return load_f32(work + WORK.totals + 64 * m)
