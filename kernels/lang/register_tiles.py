"""Register tiles: one operation for the accumulators of several tokens, whose data lie `stride` bytes apart.

A tile is `count` vectors held in registers (`simd.Tile`). Each function makes the operation for one count, so that
LLVM sees straight-line code. What a matmul is made of; compile-time only, like `simd.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types

from edge_lfm.kernels.lang import dots
from edge_lfm.kernels.lang.simd import (
    F32,
    I8,
    I32,
    LANES,
    LL,
    Build,
    Tile,
    Vec,
    call_of,
    operation,
    pointer,
    scalar_at,
    splat_of,
)
from edge_lfm.kernels.spec.layout import ACTIVATION, RAISED, offsets

_FMA = "llvm.fmuladd.v16f32"
SUMS = offsets(ACTIVATION)


def _fma(b: ir.IRBuilder, x: Any, y: Any, z: Any) -> Any:
    return call_of(b, _FMA, F32.ll, [x, y, z])


def _each(tile: Tile, build: Callable[..., Any]) -> Build:
    """`build(b, m, offset of token m in bytes of `a[-1]`, a)` for every token, gathered into a tile."""

    def every(b: ir.IRBuilder, a: Sequence[Any]) -> Any:
        out = ir.Constant(tile.ll, ir.Undefined)
        for m in range(tile.count):
            at = b.mul(a[-1], LL["i64"](m))
            out = b.insert_value(out, build(b, m, at, a), m)
        return out

    return every


def zero_tile(count: int) -> Any:
    """float32 accumulators of `count` tokens, all zero."""
    tile = Tile(F32, count)
    return operation(tile, [], lambda b, a: ir.Constant(tile.ll, None))


def zero_int_tile(count: int) -> Any:
    """int32 accumulators of `count` tokens, all zero."""
    tile = Tile(I32, count)
    return operation(tile, [], lambda b, a: ir.Constant(tile.ll, None))


def _block(tile: Tile, dot: Callable[..., list[Any]]) -> Any:
    def build(b: ir.IRBuilder, a: Sequence[Any]) -> Any:
        sums, weights, x, stride = a[0], list(a[1:5]), a[5], a[6]
        xs = [b.add(x, b.mul(stride, LL["i64"](m))) for m in range(tile.count)]
        out = ir.Constant(tile.ll, ir.Undefined)
        for m, value in enumerate(dot(b, [b.extract_value(sums, m) for m in range(tile.count)], weights, xs)):
            out = b.insert_value(out, value, m)
        return out

    return operation(tile, [tile, I8, I8, I8, I8, types.int64, types.int64], build)


def dot_tile(count: int, signed: bool, looked_up: bool = False) -> Any:
    """`(acc, w0, w1, w2, w3, x, stride)`: add to each token's lanes the dot of 16 weights with its 16 bytes at x.

    `signed`: weights are int8; otherwise levels, 0..63. The tier may read signed weights as
    unsigned with an offset of `dots.SIGNED_ZERO_POINT`. `looked_up`: they come from a table, not from memory.
    """
    return _block(
        Tile(I32, count), lambda b, sums, weights, xs: dots.dot_block(b, sums, weights, xs, signed, looked_up)
    )


bytes_of_lanes = operation(
    I8,
    [I32, types.int32],
    lambda b, a: b.bitcast(b.mul(a[0], splat_of(b, b.mul(a[1], LL["i32"](0x01010101)), I32)), I8.ll),
)
"""bytes_of_lanes(i, n): n times each lane, 0..127, in all four of its bytes."""
unsigned_levels = operation(I8, [I8], lambda b, a: dots.as_unsigned(b, a[0]))
"""Signed levels as tiers read them that multiply unsigned by signed bytes (`dots.SIGNED_ZERO_POINT`)."""


def zero_small_tile(count: int) -> Any:
    """Accumulators for `dot_small_tile`, all zero."""
    tile = Tile(Vec(*dots.SMALL_SUMS), count)
    return operation(tile, [], lambda b, a: ir.Constant(tile.ll, None))


def dot_small_tile(count: int) -> Any:
    """`dot_tile` for weights of 0..15 and two blocks of 16 columns at most."""
    return _block(Tile(Vec(*dots.SMALL_SUMS), count), dots.dot_small_block)


def widen_tile(count: int) -> Any:
    """What `dot_small_tile` summed, as int32 accumulators."""
    small, tile = Tile(Vec(*dots.SMALL_SUMS), count), Tile(I32, count)

    def build(b: ir.IRBuilder, a: Sequence[Any]) -> Any:
        out = ir.Constant(tile.ll, ir.Undefined)
        for m in range(count):
            out = b.insert_value(out, dots.widen_small(b, b.extract_value(a[0], m)), m)
        return out

    return operation(tile, [small], build)


def _lanes(tile: Tile, small: bool) -> Any:
    def build(b: ir.IRBuilder, a: Sequence[Any]) -> Any:
        out = ir.Constant(tile.ll, ir.Undefined)
        sums = [b.extract_value(a[0], m) for m in range(tile.count)]
        for m, value in enumerate(dots.lane_block(b, sums, a[1], a[2], small)):
            out = b.insert_value(out, value, m)
        return out

    return operation(tile, [tile, types.int64, types.int64], build)


def lane_dot_tile(rows: int) -> Any:
    """`(acc, weights, x)`: add to each row's 16 tokens the dots of 16 columns (`dots.lane_block`)."""
    return _lanes(Tile(I32, rows), small=False)


def lane_small_dot_tile(rows: int) -> Any:
    """`lane_dot_tile` for weights of 0..15 and two blocks of 16 columns at most."""
    return _lanes(Tile(Vec(*dots.SMALL_SUMS), rows), small=True)


def lane_fold(rows: int) -> Any:
    """`(totals, acc, scales, s, sums)`: total += acc * both scales + offset * sum, for rows of 16 tokens in memory.

    scales: float32 of the rows, their offsets 64 bytes on; s, sums: float32 x 16 of the tokens.
    """
    acc = Tile(I32, rows)

    def build(b: ir.IRBuilder, a: Sequence[Any]) -> None:
        activation, sums = (b.load(pointer(b, at, F32.ll), align=1) for at in a[3:5])
        for m in range(rows):
            place = pointer(b, b.add(a[0], LL["i64"](64 * m)), F32.ll)
            weight, offset = (splat_of(b, scalar_at(b, b.add(a[2], LL["i64"](4 * m + n)), "f32"), F32) for n in (0, 64))
            value = b.sitofp(b.extract_value(a[1], m), F32.ll)
            total = _fma(b, b.fmul(weight, activation), value, b.load(place, align=1))
            b.store(_fma(b, offset, sums, total), place, align=1)

    return operation(types.void, [types.int64, acc, types.int64, types.int64, types.int64], build)


def _interleave(b: ir.IRBuilder, a: Sequence[Any]) -> None:
    few = ir.VectorType(LL["i32"], 4)

    def mixed(x: Any, y: Any, lanes: list[int]) -> Any:
        return b.shuffle_vector(x, y, ir.Constant(few, lanes))

    for quad in range(4):
        tokens = [b.add(a[0], b.mul(a[1], LL["i64"](4 * quad + t))) for t in range(4)]
        p, q, r, s = (b.load(pointer(b, at, few), align=1) for at in tokens)
        for half, lanes in enumerate(([0, 4, 1, 5], [2, 6, 3, 7])):
            first, last = mixed(p, q, lanes), mixed(r, s, lanes)
            for n, pick in enumerate(([0, 1, 4, 5], [2, 3, 6, 7])):
                at = b.add(a[2], LL["i64"](64 * (2 * half + n) + 16 * quad))
                b.store(mixed(first, last, pick), pointer(b, at, few), align=1)


interleave = operation(types.void, [types.int64, types.int64, types.int64], _interleave)
"""`(address, stride, to)`: 16 runs of 16 bytes -> four vectors at `to`, the first with the first fours of all runs."""


def start_tile(count: int, zero_point: int) -> Any:
    """`(acc, starts, stride)`: acc of each token + what undoes levels raised by `zero_point`, 0 or a power of two.

    starts: int32 of each token, which would undo levels raised by `RAISED`.
    """
    if zero_point & (zero_point - 1):
        raise ValueError(f"a zero point of {zero_point} is no power of two")
    tile = Tile(I32, count)

    def one(b: ir.IRBuilder, m: int, at: Any, a: Sequence[Any]) -> Any:
        acc = b.extract_value(a[0], m)
        return b.add(acc, _start(b, b.add(a[1], at), zero_point)) if zero_point else acc

    return operation(tile, [tile, types.int64, types.int64], _each(tile, one))


def _start(b: ir.IRBuilder, at: Any, zero_point: int) -> Any:
    """What int32 sums of 16 rows start at (`start_tile`)."""
    if not zero_point:
        return ir.Constant(I32.ll, None)
    start = splat_of(b, scalar_at(b, at, "i32"), I32)
    if zero_point > RAISED:
        return b.shl(start, ir.Constant(I32.ll, [(zero_point // RAISED).bit_length() - 1] * LANES))
    if zero_point < RAISED:
        return b.ashr(start, ir.Constant(I32.ll, [(RAISED // zero_point).bit_length() - 1] * LANES))
    return start


def add_halves_tile(count: int, zero_point: int, looked_up: bool) -> Any:
    """`(total, levels, scales, x, cols, s, stride)`: total + 32 columns of weights times those of each token.

    levels: four vectors of the first 16 columns, four of the last; scales: of the rows, for either. x: the activations,
    int8, of tokens `cols` bytes apart; s: their ACTIVATION records, `stride` bytes apart.

    The halves of a token are added up first, so that its scale multiplies once: three operations in place of four. Two
    tokens after two, so that all totals, all levels and the sums of those two have room in 32 registers.
    """
    tile = Tile(F32, count)

    def build(b: ir.IRBuilder, a: Sequence[Any]) -> Any:
        total, scales, (x, cols, s, stride) = a[0], a[2], a[3:]
        levels = [[b.extract_value(a[1], 4 * half + n) for n in range(4)] for half in range(2)]
        for begin in range(0, count, 2):
            tokens = range(begin, min(begin + 2, count))
            parts: list[Any] = [None for _ in tokens]
            for half, at_sum in enumerate((SUMS.first_sum, SUMS.last_sum)):
                sums = [
                    _start(b, b.add(s, b.add(b.mul(stride, LL["i64"](m)), LL["i64"](at_sum))), zero_point)
                    for m in tokens
                ]
                xs = [b.add(x, b.add(b.mul(cols, LL["i64"](m)), LL["i64"](16 * half))) for m in tokens]
                sums = dots.dot_block(b, sums, levels[half], xs, signed=False, looked_up=looked_up)
                scale = b.extract_value(scales, half)
                values = [b.sitofp(v, F32.ll) for v in sums]
                parts = [_fma(b, v, scale, p) if half else b.fmul(v, scale) for v, p in zip(values, parts, strict=True)]
            for m, part in zip(tokens, parts, strict=True):
                factor = splat_of(b, scalar_at(b, b.add(s, b.mul(stride, LL["i64"](m))), "f32"), F32)
                total = b.insert_value(total, _fma(b, part, factor, b.extract_value(total, m)), m)
            x = dots.after(b, x, [b.extract_value(total, m) for m in tokens])
        return total

    return operation(tile, [tile, types.UniTuple(I8, 8), types.UniTuple(F32, 2), *[types.int64] * 4], build)


def fold_halves_tile(count: int) -> Any:
    """`(total, first, last, first scales, last scales, s, stride)` -> total + 32 columns, as `add_halves_tile` adds.

    first, last: int32 accumulators of the halves, started.
    """
    total, acc = Tile(F32, count), Tile(I32, count)

    def one(b: ir.IRBuilder, m: int, at: Any, a: Sequence[Any]) -> Any:
        first, last = (b.sitofp(b.extract_value(half, m), F32.ll) for half in a[1:3])
        factor = splat_of(b, scalar_at(b, b.add(a[5], at), "f32"), F32)
        part = _fma(b, last, a[4], b.fmul(first, a[3]))
        return _fma(b, part, factor, b.extract_value(a[0], m))

    return operation(total, [total, acc, acc, F32, F32, types.int64, types.int64], _each(total, one))


def scale_tile(count: int) -> Any:
    """`(total, acc, weight scales, activation scales, stride)` -> total + acc * both scales."""
    total, acc = Tile(F32, count), Tile(I32, count)

    def one(b: ir.IRBuilder, m: int, at: Any, a: Sequence[Any]) -> Any:
        scale = b.fmul(a[2], splat_of(b, scalar_at(b, b.add(a[3], at), "f32"), F32))
        value = b.sitofp(b.extract_value(a[1], m), F32.ll)
        return _fma(b, scale, value, b.extract_value(a[0], m))

    return operation(total, [total, acc, F32, types.int64, types.int64], _each(total, one))


def fma_tile(count: int) -> Any:
    """`(acc, v, x, stride)`: acc of each token + v * its float32 at x."""
    tile = Tile(F32, count)

    def one(b: ir.IRBuilder, m: int, at: Any, a: Sequence[Any]) -> Any:
        x = splat_of(b, scalar_at(b, b.add(a[2], at), "f32"), F32)
        return _fma(b, a[1], x, b.extract_value(a[0], m))

    return operation(tile, [tile, F32, types.int64, types.int64], _each(tile, one))


def scale_rows_tile(count: int) -> Any:
    """`(tile, v)`: each token's vector times v."""
    tile = Tile(F32, count)

    def build(b: ir.IRBuilder, a: Sequence[Any]) -> Any:
        out = a[0]
        for m in range(count):
            out = b.insert_value(out, b.fmul(b.extract_value(a[0], m), a[1]), m)
        return out

    return operation(tile, [tile, F32], build)


def sum_tile(count: int) -> Any:
    """The sum of all lanes of int32 accumulators; of one token's, it fits int32."""
    tile = Tile(I32, count)

    def build(b: ir.IRBuilder, a: Sequence[Any]) -> Any:
        out = LL["i64"](0)
        for m in range(count):
            one = call_of(b, "llvm.vector.reduce.add.v16i32", LL["i32"], [b.extract_value(a[0], m)])
            out = b.add(out, b.sext(one, LL["i64"]))
        return out

    return operation(types.int64, [tile], build)


def add_tiles(count: int) -> Any:
    """The sum of two tiles, token by token."""
    tile = Tile(F32, count)

    def build(b: ir.IRBuilder, a: Sequence[Any]) -> Any:
        out = a[0]
        for m in range(count):
            out = b.insert_value(out, b.fadd(b.extract_value(a[0], m), b.extract_value(a[1], m)), m)
        return out

    return operation(tile, [tile, tile], build)


def load_tile(count: int) -> Any:
    """`(address, stride)` -> one float32 vector per token."""
    tile = Tile(F32, count)
    return operation(
        tile,
        [types.int64, types.int64],
        _each(tile, lambda b, m, at, a: b.load(pointer(b, b.add(a[0], at), F32.ll), align=1)),
    )


def load_int_tile(count: int) -> Any:
    """`(address, stride)` -> int32 accumulators of `count` tokens."""
    tile = Tile(I32, count)
    return operation(
        tile,
        [types.int64, types.int64],
        _each(tile, lambda b, m, at, a: b.load(pointer(b, b.add(a[0], at), I32.ll), align=1)),
    )


def store_tile(count: int) -> Any:
    """`(address, tile, stride)`: write each token's vector."""
    tile = Tile(F32, count)

    def build(b: ir.IRBuilder, a: Sequence[Any]) -> None:
        for m in range(count):
            at = b.add(a[0], b.mul(a[2], LL["i64"](m)))
            b.store(b.extract_value(a[1], m), pointer(b, at, F32.ll), align=1)

    return operation(types.void, [types.int64, tile, types.int64], build)
