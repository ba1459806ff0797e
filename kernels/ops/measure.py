"""What the hardware can do, measured with the instructions that the kernels use: read bandwidth, peaks of int8 and
float32."""

from numba import int64

from edge_lfm.kernels.lang.byte_tiles import add_products, release_tiles, set_shapes, sums_of
from edge_lfm.kernels.lang.lowering import ISA
from edge_lfm.kernels.lang.parts import entry
from edge_lfm.kernels.lang.register_tiles import (
    dot_tile,
    fma_tile,
    load_int_tile,
    store_tile,
    sum_tile,
    zero_int_tile,
    zero_tile,
)
from edge_lfm.kernels.lang.simd import bits_of, kernel, load_f32, load_i8, sum_i32, zero_i32
from edge_lfm.kernels.spec.layout import GROUP

SUMS = 16 * ISA.peak_tile
float_zeros, multiply_add, store = zero_tile(ISA.peak_tile), fma_tile(ISA.peak_tile), store_tile(ISA.peak_tile)
zeros, dot, total = zero_int_tile(ISA.peak_tile), dot_tile(ISA.peak_tile, signed=False), sum_tile(ISA.peak_tile)


@entry
def read_bytes(address, count):
    """Read `count` bytes, a multiple of 256, and return a sum of them, so that the reads are not dropped."""
    a, b, c, d = zero_i32(), zero_i32(), zero_i32(), zero_i32()
    for at in range(address, address + count, 256):
        a = a + bits_of(load_f32(at))
        b = b + bits_of(load_f32(at + 64))
        c = c + bits_of(load_f32(at + 128))
        d = d + bits_of(load_f32(at + 192))
    return int64(sum_i32(a + b + (c + d)))


shapes, add_first, add_second, first_sums, second_sums = (
    set_shapes(GROUP), add_products(0), add_products(1), sums_of(0), sums_of(1),
)  # fmt: skip
load_sums, total_of_sums = load_int_tile(16), sum_tile(16)


@kernel
def tiles_many(address, rounds):
    """`rounds` times two products of tiles, 16 tokens x 16 rows x 32 columns, from 4 cache lines: the sum."""
    shapes()
    for n in range(rounds):
        add_first(address + 64 * (n % 4))
        add_second(address + 64 * (n % 4))
    sums = total_of_sums(load_sums(first_sums(), int64(64)))
    sums += total_of_sums(load_sums(second_sums(), int64(64)))
    release_tiles()
    return sums


@kernel
def vectors_many(address, rounds):
    """`rounds` times 16 rows x ISA.peak_tile tokens x 16 columns from 4 cache lines: the sum."""
    acc = zeros()
    for n in range(rounds):
        line = address + 64 * (n % 4)  # or else a compiler takes what does not change out of the loop
        w = load_i8(line)
        acc = dot(acc, w, w, w, w, line, int64(4))
    return total(acc)


many = tiles_many if ISA.has_byte_tiles else vectors_many


@entry
def dot_many(address, rounds):
    """Integer dot products, `rounds` times as many from 4 cache lines: the sum, for ones the number of products."""
    return many(address, rounds)


@entry
def fma_many(address, rounds):
    """`rounds` times ISA.peak_tile x 16 multiply-adds of float32 from 4 cache lines; returns their number.

    The sums [ISA.peak_tile, 16] are written behind the lines.
    """
    acc = float_zeros()
    for n in range(rounds):
        line = address + 64 * (n % 4)
        acc = multiply_add(acc, load_f32(line), line, int64(4))
    store(address + 256, acc, int64(64))
    return rounds * int64(SUMS)
