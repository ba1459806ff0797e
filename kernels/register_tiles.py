"""Register tiles: one operation for the accumulators of several tokens, whose data lie `stride` bytes apart.

A tile is `count` vectors held in registers (`simd.Tile`). Each function makes the operation for one count, so that
LLVM sees straight-line code. What a matmul is made of; compile-time only, like `simd.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types

from edge_lfm.kernels import lowering
from edge_lfm.kernels.simd import F32, I8, I32, LL, Build, Tile, call_of, operation, pointer, scalar_at, splat_of


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


def dot_tile(count: int, signed: bool) -> Any:
    """`(acc, weights, x, stride)`: add to each token's lanes the dot of 4 weights with its 4 bytes at x.

    `signed`: weights are int8; otherwise they are 0..127. The lowering may read signed weights as
    unsigned with an offset of `lowering.SIGNED_ZERO_POINT`.
    """
    tile = Tile(I32, count)

    def one(b: ir.IRBuilder, m: int, at: Any, a: Sequence[Any]) -> Any:
        four = b.bitcast(splat_of(b, scalar_at(b, b.add(a[2], at), "i32"), I32), I8.ll)
        return lowering.dot(b, b.extract_value(a[0], m), a[1], four, signed)

    return operation(tile, [tile, I8, types.int64, types.int64], _each(tile, one))


def scale_tile(count: int) -> Any:
    """`(total, acc, weight scales, activation scales, stride)` -> total + acc * both scales."""
    total, acc = Tile(F32, count), Tile(I32, count)

    def one(b: ir.IRBuilder, m: int, at: Any, a: Sequence[Any]) -> Any:
        scale = b.fmul(a[2], splat_of(b, scalar_at(b, b.add(a[3], at), "f32"), F32))
        value = b.sitofp(b.extract_value(a[1], m), F32.ll)
        return call_of(b, "llvm.fmuladd.v16f32", F32.ll, [scale, value, b.extract_value(a[0], m)])

    return operation(total, [total, acc, F32, types.int64, types.int64], _each(total, one))


def fma_tile(count: int) -> Any:
    """`(acc, v, x, stride)`: acc of each token + v * its float32 at x."""
    tile = Tile(F32, count)

    def one(b: ir.IRBuilder, m: int, at: Any, a: Sequence[Any]) -> Any:
        x = splat_of(b, scalar_at(b, b.add(a[2], at), "f32"), F32)
        return call_of(b, "llvm.fmuladd.v16f32", F32.ll, [a[1], x, b.extract_value(a[0], m)])

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
    """The sum of all lanes of int32 accumulators."""
    tile = Tile(I32, count)

    def build(b: ir.IRBuilder, a: Sequence[Any]) -> Any:
        out = b.extract_value(a[0], 0)
        for m in range(1, count):
            out = b.add(out, b.extract_value(a[0], m))
        return call_of(b, "llvm.vector.reduce.add.v16i32", LL["i32"], [out])

    return operation(types.int32, [tile], build)


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


def store_tile(count: int) -> Any:
    """`(address, tile, stride)`: write each token's vector."""
    tile = Tile(F32, count)

    def build(b: ir.IRBuilder, a: Sequence[Any]) -> None:
        for m in range(count):
            at = b.add(a[0], b.mul(a[2], LL["i64"](m)))
            b.store(b.extract_value(a[1], m), pointer(b, at, F32.ll), align=1)

    return operation(types.void, [types.int64, tile, types.int64], build)
