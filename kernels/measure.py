"""What the hardware can do, measured with the instructions that the kernels use: read bandwidth, int8 peak."""

from numba import int64

from edge_lfm.kernels.register_tiles import dot_tile, sum_tile, zero_int_tile
from edge_lfm.kernels.simd import bits_of, kernel, load_f32, load_i8, sum_i32, zero_i32

PEAK_TILE = 12
zeros, dot, total = zero_int_tile(PEAK_TILE), dot_tile(PEAK_TILE, signed=False), sum_tile(PEAK_TILE)


@kernel
def read_bytes(address, count):
    """Read `count` bytes, a multiple of 256, and return a sum of them, so that the reads are not dropped."""
    a, b, c, d = zero_i32(), zero_i32(), zero_i32(), zero_i32()
    for at in range(address, address + count, 256):
        a = a + bits_of(load_f32(at))
        b = b + bits_of(load_f32(at + 64))
        c = c + bits_of(load_f32(at + 128))
        d = d + bits_of(load_f32(at + 192))
    return int64(sum_i32(a + b + (c + d)))


@kernel
def dot_many(address, rounds):
    """`rounds` dot products of 16 rows x 12 tokens x 4 columns from one cache line: 1536 operations each."""
    acc = zeros()
    for _ in range(rounds):
        acc = dot(acc, load_i8(address), address, int64(4))
    return int64(total(acc))
