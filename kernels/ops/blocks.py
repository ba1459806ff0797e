"""Whole blocks of 16 tokens, on tiers that have a way of their own to multiply them: in lanes, or in tiles of bytes."""

from numba import int64

from edge_lfm.kernels.lang.lowering import ISA
from edge_lfm.kernels.lang.simd import kernel, load_f32, store_f32
from edge_lfm.kernels.ops import byte_tiles, lanes
from edge_lfm.kernels.ops.integer_tiles import same
from edge_lfm.kernels.ops.weights import factors_of
from edge_lfm.kernels.spec.layout import LANE_TOKENS

_way = byte_tiles if ISA.has_byte_tiles else lanes
pack_blocks, totals_of, WORK_BYTES = _way.pack_blocks, _way.totals_of, _way.WORK_BYTES


def blocks_of(integers):
    """A kernel `(w, x, blocks, cols, work)`: a tile of weights times blocks of tokens at x, left in `work`.

    None where the tier, or weights of this kind, have no use for it.
    """
    return byte_tiles.tiles_of(integers) if ISA.has_byte_tiles else lanes.lanes_of(integers)


@kernel
def pack_none(q, s, cols, count, area):
    """For schemes that are multiplied by register tiles only."""
    return int64(0)


def pack_for(kernels):
    """What packs tokens for a scheme."""
    return pack_none if kernels.blocks is None else pack_blocks


def multiply_for(kernels):
    """A kernel `(w, packed, cols, out)`: a tile of weights times packed blocks; nothing where the scheme packs none.

    packed, out: `operands.Packed`, `operands.Outputs`.
    """
    blocks, factors = kernels.blocks, factors_of(kernels.scheme, kernels.unit)
    has_factors, factors_at = factors is not None, factors or same
    if blocks is None:
        return skip_blocks

    @kernel
    def multiply_blocks(w, packed, cols, out):
        area, at = packed.area, out.at
        blocks(w, area + WORK_BYTES, packed.blocks, cols, area)
        for m in range(LANE_TOKENS * packed.blocks):
            value = totals_of(area, m)
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
