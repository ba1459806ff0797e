"""What `lanes.py` and `byte_tiles.py` share: blocks of 16 tokens packed once for many tiles of weights, and weights
unpacked into memory once for many tokens.

A block of 16 tokens: for each group of 32 columns 512 bytes of activations, arranged as the tier multiplies them; then
for each group four float32 x 16, the tokens' records of that group (`layout.ACTIVATION`). A group of weights: a panel
of eight vectors as dot products read them, then scales and offsets (`layout.LANES`).
"""

from edge_lfm.kernels.lang.register_tiles import interleave, unsigned_levels
from edge_lfm.kernels.lang.simd import inlined, kernel, store_f32, store_i8
from edge_lfm.kernels.ops.integer_tiles import shifted_by
from edge_lfm.kernels.ops.weights import offset_of
from edge_lfm.kernels.spec.layout import ACTIVATION_BYTES, GROUP, LANE_TOKENS

VALUES_BYTES, RECORDS_BYTES = LANE_TOKENS * GROUP, LANE_TOKENS * ACTIVATION_BYTES  # of 32 columns of a block of tokens
BLOCK_BYTES = (VALUES_BYTES + RECORDS_BYTES) // GROUP  # a column's
PANEL_BYTES, SCALES_BYTES = 512, 256  # of a group of weights


def pack_of(arrange, work_bytes):
    """A kernel `(q, s, cols, count, area)`: as many whole blocks of 16 tokens as `count` has, beside `work_bytes` of
    work memory at `area`; returns their number.

    q: int8 [count, cols]; s: their ACTIVATION records [count, cols / 32]. arrange: `(x, cols, to)`, 32 columns of 16
    tokens `cols` bytes apart.
    """

    @kernel
    def pack_blocks(q, s, cols, count, area):
        groups, to = cols // GROUP, area + work_bytes
        for n in range(count // LANE_TOKENS):
            x, r = q + n * LANE_TOKENS * cols, s + n * LANE_TOKENS * groups * ACTIVATION_BYTES
            for g in range(groups):
                arrange(x + g * GROUP, cols, to + g * VALUES_BYTES)
                records = to + cols * LANE_TOKENS + g * RECORDS_BYTES
                interleave(r + g * ACTIVATION_BYTES, groups * ACTIVATION_BYTES, records)
            to += cols * BLOCK_BYTES
        return count // LANE_TOKENS

    return pack_blocks


@inlined
def store_four(at, a, b, c, d):
    store_i8(at, a)
    store_i8(at + 64, b)
    store_i8(at + 128, c)
    store_i8(at + 192, d)


def store_scales(integers, block):
    """A kernel `(w, at)`: the scales of 16 rows, then their offsets."""
    scale_of, offset = block.scale, offset_of(integers, block)
    has_offset = offset is not None

    @inlined
    def store(w, at):
        scale = scale_of(w)
        store_f32(at, scale)
        if has_offset:
            store_f32(at + 64, offset(w, scale))

    return store


def unpack_part(integers, part):
    """A kernel `(stored, w, panel, scales)`: 32 columns of a group into memory; levels that are `signed` plus
    `dots.SIGNED_ZERO_POINT`."""
    blocks = integers.parts[part]
    first, last = [columns for block in blocks for columns in block.columns]
    first_shifted, last_shifted = shifted_by(blocks[0]), shifted_by(blocks[-1])
    first_scales, last_scales = store_scales(integers, blocks[0]), store_scales(integers, blocks[-1])
    halves, signed = len(blocks) == 2, integers.levels == "signed"

    @inlined
    def unpack(stored, w, panel, scales):
        a, b, c, d = first_shifted(first(stored), w)
        e, f, g, h = last_shifted(last(stored), w)
        if signed:
            a, b, c, d = unsigned_levels(a), unsigned_levels(b), unsigned_levels(c), unsigned_levels(d)
            e, f, g, h = unsigned_levels(e), unsigned_levels(f), unsigned_levels(g), unsigned_levels(h)
        store_four(panel, a, b, c, d)
        store_four(panel + 256, e, f, g, h)
        first_scales(w, scales)
        if halves:
            last_scales(w, scales + 128)

    return unpack
