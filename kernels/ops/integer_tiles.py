"""A register tile of 16 rows of integer weights x a few tokens, for any scheme.

The integer dot products of a block of columns are scaled by the block's and the activations' scales. What weights carry
on top of their levels is one number a block and row, and comes off as that number times the sum of the activations: a
fused multiply-add per block and token. Where many tokens share a tile it costs a load (`Isa.starts_sums`): a row's own
part is added to its levels, once for all tokens, and for the rest sums do not start at 0. On a Zen 4 core that saves
6 % of the time of `codebook4_g32` and 10 % of `codebook4_g16` (ADR 38). There two blocks of 16 columns are added up
before the scale of their activations multiplies them: another 11 % (ADR 40).
"""

from edge_lfm.kernels.lang.lowering import ISA
from edge_lfm.kernels.lang.register_tiles import (
    add_halves_tile,
    dot_small_tile,
    dot_tile,
    fma_tile,
    scale_rows_tile,
    scale_tile,
    start_tile,
    widen_tile,
    zero_int_tile,
    zero_small_tile,
    zero_tile,
)
from edge_lfm.kernels.lang.simd import inlined, kernel
from edge_lfm.kernels.ops.weights import factors_of, in_turn, offset_of, prefetch_group
from edge_lfm.kernels.spec.layout import ACTIVATION, ACTIVATION_BYTES, GROUP, offsets

SUMS = offsets(ACTIVATION)


@inlined
def same(value, *arguments):
    return value


def products(levels, count):
    """(zero sums, their dot product, their conversion to int32) for `count` tokens."""
    if levels == "small":
        return zero_small_tile(count), dot_small_tile(count), widen_tile(count)
    looked_up = levels == "looked_up"
    return zero_int_tile(count), dot_tile(count, signed=levels == "signed", looked_up=looked_up), same


def integer_tile(integers):
    """The maker of register tiles of a scheme (`weights.SchemeKernels.tile`)."""
    scheme = integers.scheme
    header, columns, nbytes = scheme.header_bytes, scheme.columns, scheme.group_bytes
    records = columns // GROUP * ACTIVATION_BYTES
    fetch = prefetch_group(nbytes)

    factors = factors_of(scheme, integers.unit)
    has_factors, factors_at = factors is not None, factors or same

    def make(count):
        zeros, by_rows = zero_tile(count), scale_rows_tile(count)
        load, group = integers.load, in_turn(group_steps(integers, count))

        @kernel
        def tile(w, x, s, cols):
            total, first = zeros(), w
            stride = cols // GROUP * ACTIVATION_BYTES
            w += header
            for _g in range(cols // columns):
                fetch(w)
                total = group(total, load(w), w, x, s, cols, stride)
                w += nbytes
                x += columns
                s += records
            return by_rows(total, factors_at(first)) if has_factors else total

        return tile

    return make


def group_steps(integers, count):
    """For each block of a group a kernel `(total, stored, w, x, s, cols, stride)` -> total."""
    steps, column = [], 0
    for part, blocks in enumerate(integers.parts):
        if ISA.starts_sums and len(blocks) == 2:
            steps.append(halves_step(integers, blocks, count, column, part * ACTIVATION_BYTES))
            column += GROUP
            continue
        sums = (SUMS.sum,) if len(blocks) == 1 else (SUMS.first_sum, SUMS.last_sum)
        for block, at_sum in zip(blocks, sums, strict=True):
            steps.append(block_step(integers, block, count, column, part * ACTIVATION_BYTES, at_sum))
            column += 16 * len(block.columns)
    return steps


def shifted_by(block):
    """A kernel `(levels, w)` -> the levels of 16 columns of a block at w with their shift."""
    shift = block.shift
    if shift is None:
        return same

    @inlined
    def shifted(levels, w):
        a, b, c, d = levels
        by = shift(w)
        return a + by, b + by, c + by, d + by

    return shifted


def halves_step(integers, blocks, count, column, record):
    """Two blocks of 16 columns of a group, as `block_step` takes one (ADR 40)."""
    if integers.levels == "signed" or any(offset_of(integers, block) is not None for block in blocks):
        raise ValueError(f"{integers.scheme.name}: halves are of levels without a sign and without an offset")
    add = add_halves_tile(count, integers.zero_point, looked_up=integers.levels == "looked_up")
    ((first,), (last,)), (first_scale, last_scale) = [b.columns for b in blocks], [b.scale for b in blocks]
    first_shifted, last_shifted = (shifted_by(block) for block in blocks)

    @inlined
    def step(total, stored, w, x, s, cols, stride):
        levels = first_shifted(first(stored), w) + last_shifted(last(stored), w)
        return add(total, levels, (first_scale(w), last_scale(w)), x + column, cols, s + record, stride)

    return step


def block_step(integers, block, count, column, record, at_sum):
    """A block whose activations lie `column` bytes, and their record `record` bytes, from those of the group.

    at_sum: where in the record the sum of the block's activations stands.
    """
    zeros, dot, widened = products(integers.levels, count)
    scaled, plus, scale_of, offset = scale_tile(count), fma_tile(count), block.scale, offset_of(integers, block)
    starts, has_offset, shifted = ISA.starts_sums, offset is not None, shifted_by(block)
    start = start_tile(count, integers.zero_point if starts else 0)
    first, last, is_wide = block.columns[0], block.columns[-1], len(block.columns) == 2

    @inlined
    def step(total, stored, w, x, s, cols, stride):
        a, b, c, d = shifted(first(stored), w)
        sums = zeros()
        if starts:
            sums = start(sums, s + record + at_sum, stride)
        sums = dot(sums, a, b, c, d, x + column, cols)
        if is_wide:
            a, b, c, d = shifted(last(stored), w)
            sums = dot(sums, a, b, c, d, x + column + 16, cols)
        scale = scale_of(w)
        total = scaled(total, widened(sums), scale, s + record, stride)
        if has_offset:
            total = plus(total, offset(w, scale), s + record + at_sum, stride)
        return total

    return step
