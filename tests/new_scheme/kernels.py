"""The compiled side of signs: levels 0 and 1, weight = row scale * (2 * level - 1)."""

from numba import float32, int32, int64

from edge_lfm.kernels.lang.simd import (
    add_above,
    f32,
    inlined,
    kernel,
    load_f32,
    load_i8,
    lookup_nibbles,
    shift_left,
    splat_f32,
    store_f32,
    store_i32,
    u8,
    where_above,
    zero_f32,
    zero_i32,
)
from edge_lfm.kernels.ops.blocks import blocks_of
from edge_lfm.kernels.ops.integer_tiles import integer_tile
from edge_lfm.kernels.ops.search import absolute, note_error
from edge_lfm.kernels.ops.weights import Block, Integers, SchemeKernels

HEADER, COLUMNS, GROUP_BYTES = 64, 64, 128


def kernels_of(scheme):
    parts = tuple((Block((columns_of(part, False), columns_of(part, True)), scale),) for part in (False, True))
    integers = Integers(scheme, "small", load, parts, zero_point=1)  # levels are read as 0 and 2
    return SchemeKernels(scheme, integer_tile(integers), value, blocks_of(integers), encode)


@inlined
def load(w):
    return load_i8(w), load_i8(w + 64)


def columns_of(second, high):
    bit0, bit1, bit2, bit3 = (lookup_nibbles(tuple(2 * (n >> j & 1) for n in range(16)), high) for j in range(4))

    @inlined
    def columns(stored):
        first, last = stored
        bits = last if second else first
        return bit0(bits), bit1(bits), bit2(bits), bit3(bits)

    return columns


@inlined
def scale(w):
    return splat_f32(float32(1.0))


@kernel
def value(w, r, k):
    byte = u8(w + HEADER + k // COLUMNS * GROUP_BYTES + k % COLUMNS // 32 * 64 + 4 * r + k % 4)
    level = byte >> int32(k % 32 // 4) & int32(1)
    return float32(2 * level - 1) * f32(w + 4 * r)


@kernel
def encode(plain, x, importance, cols, row_peak, out, scratch, errors):
    total = zero_f32()
    for k in range(cols):
        total = total + absolute(load_f32(x + 64 * k))
    row = total * splat_f32(float32(1.0) / float32(cols))
    store_f32(out, row * row_peak)
    for part in range(cols // 32):
        packed = zero_i32()
        for k in range(32):
            at = x + 64 * (32 * part + k)
            bit = add_above(zero_i32(), load_f32(at), zero_f32(), int32(1))
            packed = packed | shift_left(bit, int32(8 * (k % 4) + k // 4))
            note_error(at, 0, where_above(load_f32(at), zero_f32(), row, zero_f32() - row), row_peak, errors)
        store_i32(out + HEADER + 64 * part, packed)
    return int64(0)
