"""Weights times activations: out[t] (+)= W x[t], for every scheme of the table.

A weight matrix is tiles of 16 rows, each a header and a run of groups of columns, in vectors of 64 bytes such that byte
4r + b belongs to row r: so the 4-way dot product of one vector with 4 broadcast activation bytes gives 16 rows at once,
on every processor. Activations: `activations.py`; layouts: `spec/definitions/`.

A register tile is 16 rows x `count` tokens; weights are unpacked once for all its tokens. The sizes of
the tier (`Isa.token_tiles`) cover any number of tokens, largest first; before, some tiers take whole blocks of 16
tokens another way (`blocks.py`). Each output is summed in one fixed order, so results depend neither on the threads nor
on the batch.
"""

from numba import int64

from edge_lfm.kernels.lang.lowering import ISA
from edge_lfm.kernels.lang.parts import entry, fields_of, part
from edge_lfm.kernels.lang.register_tiles import add_tiles, load_tile, store_tile
from edge_lfm.kernels.lang.simd import i64, kernel, load_f32, smaller, store_f32
from edge_lfm.kernels.lang.sync import claim_run
from edge_lfm.kernels.ops.blocks import multiply_for, pack_for
from edge_lfm.kernels.ops.operands import Inputs, Outputs, Packed, from_token, outputs_from
from edge_lfm.kernels.ops.schemes import by_scheme, tile_bytes
from edge_lfm.kernels.spec.layout import ACTIVATION_BYTES, GROUP, LANE_TOKENS, MATRIX, PRODUCT, TOKEN_BATCH, offsets

MAT, PRO = offsets(MATRIX), offsets(PRODUCT)
SAME_SET, SET_LINES = 4096, 8
"""Addresses so far apart have the same place in a cache of the first level, which holds so many of them. Twelve tokens
of 4,096 columns put each other out: on a Zen 4 core a token and group of `codebook4_g32` took 5.1 ns, and with 4,160
columns 3.0. Tiles of eight take 3.0 for both."""


def any_tokens(make_tile, sizes, value_bytes):
    """A kernel of 16 rows x any number of tokens, from register tiles of `sizes`, largest first.

    `value_bytes`: bytes of one activation, 1 for int8 and 4 for float32.
    """
    size, last = sizes[0], len(sizes) == 1
    tile, load, store, plus = make_tile(size), load_tile(size), store_tile(size), add_tiles(size)
    fits = size <= SET_LINES
    fewer = tile if last else any_tokens(make_tile, sizes[1:], value_bytes)

    @kernel
    def rows(w, x, s, cols, out, out_stride, count, add):
        while count >= size and (fits or cols * value_bytes % SAME_SET != 0):
            value = tile(w, x, s, cols)
            if add != 0:
                value = plus(value, load(out, out_stride))
            store(out, value, out_stride)
            x += size * cols * value_bytes
            s += size * (cols // GROUP) * ACTIVATION_BYTES
            out += size * out_stride
            count -= size
        if not last and count > 0:
            fewer(w, x, s, cols, out, out_stride, count, add)

    return rows


def tile_of(row):
    """A kernel `(w, x, cols, out, count, packed)`: a tile of a scheme x any number of tokens."""
    quantized = row.scheme.quantized
    rows, multiply_blocks = any_tokens(row.tile, ISA.token_tiles, 1 if quantized else 4), multiply_for(row)

    @kernel
    def multiply(w, x, cols, out, count, packed):
        if packed.blocks > 0:
            multiply_blocks(w, packed, cols, out)
        done = packed.blocks * LANE_TOKENS
        x, out = from_token(x, done, cols), outputs_from(out, done)
        rows(w, x.q if quantized else x.f, x.s, cols, out.at, out.stride, count - done, out.add)

    name = f"multiply_{row.scheme.name}"
    return part(name, multiply, [int64, fields_of(Inputs), int64, fields_of(Outputs), int64, fields_of(Packed)])


multiply_tile = by_scheme(tile_of)
"""`(scheme, w, x, cols, out, count, packed)`: the tile of 16 rows at w x `count` tokens.

x, out, packed: `operands.Inputs`, `Outputs`, and the `Packed` blocks that the first tokens are in.
"""

pack_inputs = by_scheme(pack_for)


@kernel
def pack_tokens(scheme, x, cols, count, area):
    """As many whole blocks of 16 tokens as `count` has, for schemes that are multiplied so: `operands.Packed`."""
    return Packed(area, pack_inputs(scheme, x.q, x.s, cols, count, area))


@kernel
def multiply_rows(matrix, first, last, x, out, count, area):
    """Row tiles [first, last) of a matrix record x `count` tokens, bias included; a batch of tokens after the other."""
    scheme, cols, bias = i64(matrix + MAT.scheme), i64(matrix + MAT.cols), i64(matrix + MAT.bias)
    size, weights = tile_bytes(scheme, cols), i64(matrix + MAT.address)
    for p in range(0, count, TOKEN_BATCH):
        batch = smaller(int64(TOKEN_BATCH), count - p)
        inputs = from_token(x, p, cols)
        packed = pack_tokens(scheme, inputs, cols, batch, area)
        for t in range(first, last):
            at = out.at + p * out.stride + t * 64
            multiply_tile(scheme, weights + t * size, inputs, cols, Outputs(at, out.stride, out.add), batch, packed)
            if bias != 0:
                for m in range(batch):
                    store_f32(at + m * out.stride, load_f32(at + m * out.stride) + load_f32(bias + t * 64))


@kernel
def multiply_matrix(ctx, matrix, x, out, tokens, area):
    """All rows of a matrix record x `tokens` tokens, shared out among the team in runs of row tiles.

    x, out: `operands.Inputs`, `Outputs`; row r of the result goes to `at + 4 * r`. area: of this thread, for blocks.
    """
    tiles = (i64(matrix + MAT.rows) + 15) // 16
    while True:
        first, run = claim_run(ctx, tiles)
        if first >= tiles:
            return
        multiply_rows(matrix, first, smaller(first + run, tiles), x, out, tokens, area)


@entry
def multiply(ctx, product, area):
    """What a PRODUCT record asks for; area: `scratch_bytes` of this thread, less what experts use."""
    x = Inputs(i64(product + PRO.f), i64(product + PRO.q), i64(product + PRO.s))
    out = Outputs(i64(product + PRO.out), i64(product + PRO.out_stride), i64(product + PRO.add))
    multiply_matrix(ctx, i64(product + PRO.matrix), x, out, i64(product + PRO.tokens), area)
