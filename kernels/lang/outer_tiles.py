"""Register tiles of an outer product: `rows` scalars times `vectors` neighbouring vectors, for attention.

Vector j of row m is the tile's vector m * vectors + j. Strides that are the same in every call are compile-time
numbers, so that addresses need no registers. Compile-time only, like `register_tiles.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba import types

from edge_lfm.kernels.lang import lowering
from edge_lfm.kernels.lang.simd import F32, I8, I32, LANES, LL, Tile, call_of, operation, pointer, scalar_at, splat_of


def load_kept_tile(vectors: int, in_int8: bool) -> Any:
    """`(address, stride)`: `vectors` runs of 16 float16, or of 16 int8, `stride` bytes apart, widened to float32."""
    tile, kept = Tile(F32, vectors), LL["i8" if in_int8 else "i16"]

    def build(b: ir.IRBuilder, a: Sequence[Any]) -> Any:
        out = ir.Constant(tile.ll, ir.Undefined)
        for j in range(vectors):
            at = pointer(b, b.add(a[0], b.mul(a[1], LL["i64"](j))), ir.VectorType(kept, LANES))
            run = b.load(at, align=1)
            wide = b.sitofp(b.sext(run, I32.ll), F32.ll) if in_int8 else lowering.half_to_float(b, run)
            out = b.insert_value(out, wide, j)
        return out

    return operation(tile, [types.int64, types.int64], build)


def outer_tile(rows: int, vectors: int, stride: int, takes_off: bool = False) -> Any:
    """`(acc, v, x)`: every acc[m, j] + v[j] * the float32 at x + m * stride; `takes_off`: less that."""
    tile, wide = Tile(F32, rows * vectors), Tile(F32, vectors)

    def build(b: ir.IRBuilder, a: Sequence[Any]) -> Any:
        out = a[0]
        for m in range(rows):
            one = scalar_at(b, b.add(a[2], LL["i64"](m * stride)), "f32")
            x = splat_of(b, b.fneg(one) if takes_off else one, F32)
            for j in range(vectors):
                n = m * vectors + j
                factors = [b.extract_value(a[1], j), x, b.extract_value(a[0], n)]
                out = b.insert_value(out, call_of(b, "llvm.fmuladd.v16f32", F32.ll, factors), n)
        return out

    return operation(tile, [tile, wide, types.int64], build)


def _places(b: ir.IRBuilder, address: Any, rows: int, vectors: int, strides: tuple[int, int]) -> list[Any]:
    """Where the vectors of a tile lie: rows strides[0] bytes apart, their vectors strides[1]."""
    steps = [m * strides[0] + j * strides[1] for m in range(rows) for j in range(vectors)]
    return [pointer(b, b.add(address, LL["i64"](step)), F32.ll) for step in steps]


def load_outer_tile(rows: int, vectors: int, strides: tuple[int, int]) -> Any:
    """`(address)`: the tile that `store_outer_tile` wrote."""
    tile = Tile(F32, rows * vectors)

    def build(b: ir.IRBuilder, a: Sequence[Any]) -> Any:
        out = ir.Constant(tile.ll, ir.Undefined)
        for n, at in enumerate(_places(b, a[0], rows, vectors, strides)):
            out = b.insert_value(out, b.load(at, align=1), n)
        return out

    return operation(tile, [types.int64], build)


def store_outer_tile(rows: int, vectors: int, strides: tuple[int, int]) -> Any:
    """`(address, tile)`: write every vector, rows strides[0] bytes apart, a row's vectors strides[1]."""

    def build(b: ir.IRBuilder, a: Sequence[Any]) -> None:
        for n, at in enumerate(_places(b, a[0], rows, vectors, strides)):
            b.store(b.extract_value(a[1], n), at, align=1)

    return operation(types.void, [types.int64, Tile(F32, rows * vectors)], build)


def _load_fours(b: ir.IRBuilder, a: Sequence[Any]) -> Any:
    columns = b.load(pointer(b, a[0], I8.ll), align=1)
    order = [LANES * n + p for p in range(LANES) for n in range(4)]
    return b.shuffle_vector(columns, columns, ir.Constant(ir.VectorType(LL["i32"], 4 * LANES), order))


load_fours = operation(I8, [types.int64], _load_fours)
"""Four columns of 16 int8, one after the other, as a dot product reads them: byte 4p + n is entry p of column n."""


def splat_tile(rows: int) -> Any:
    """`(address)`: a vector of each of so many int32."""
    tile = Tile(I32, rows)

    def build(b: ir.IRBuilder, a: Sequence[Any]) -> Any:
        out = ir.Constant(tile.ll, ir.Undefined)
        for m in range(rows):
            out = b.insert_value(out, splat_of(b, scalar_at(b, b.add(a[0], LL["i64"](4 * m)), "i32"), I32), m)
        return out

    return operation(tile, [types.int64], build)


def store_sums(rows: int, stride: int, adds: bool = False) -> Any:
    """`(address, high, low, v, factors)`: float32 of (128 * high + low) * factor * v, rows `stride` bytes apart.

    factors: float32 [rows]. `adds`: to what is there.
    """
    tile = Tile(I32, rows)

    def build(b: ir.IRBuilder, a: Sequence[Any]) -> None:
        seven = ir.Constant(I32.ll, [7] * LANES)
        for m in range(rows):
            factor = splat_of(b, scalar_at(b, b.add(a[4], LL["i64"](4 * m)), "f32"), F32)
            total = b.add(b.shl(b.extract_value(a[1], m), seven), b.extract_value(a[2], m))
            value = b.fmul(b.sitofp(total, F32.ll), b.fmul(factor, a[3]))
            at = pointer(b, b.add(a[0], LL["i64"](m * stride)), F32.ll)
            b.store(b.fadd(b.load(at, align=1), value) if adds else value, at, align=1)

    return operation(types.void, [types.int64, tile, tile, F32, types.int64], build)
