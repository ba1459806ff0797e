"""Register tiles of dot products: `rows` rows times `columns` others, both along memory, for latent attention.

Product of row m and column n is the tile's vector m * columns + n: 16 partial sums, which are added up at the end, all
vectors of the tile together. Each sum has the order of `simd.sum_f32`. Compile-time only, like `register_tiles.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba import types

from edge_lfm.kernels.lang.simd import F32, LANES, LL, Tile, call_of, operation, pointer


def inner_tile(rows: int, columns: int) -> Any:
    """`(acc, x, c, stride)`: every acc[m, n] + the products of 16 float32 at x + m * stride and at c + n * stride."""
    tile = Tile(F32, rows * columns)

    def build(b: ir.IRBuilder, a: Sequence[Any]) -> Any:
        def load(address: Any, n: int) -> Any:
            return b.load(pointer(b, b.add(address, b.mul(a[3], LL["i64"](n))), F32.ll), align=1)

        out, others = a[0], [load(a[2], n) for n in range(columns)]
        for m in range(rows):
            x = load(a[1], m)
            for n, c in enumerate(others):
                at = m * columns + n
                out = b.insert_value(
                    out, call_of(b, "llvm.fmuladd.v16f32", F32.ll, [c, x, b.extract_value(a[0], at)]), at
                )
        return out

    return operation(tile, [tile, types.int64, types.int64, types.int64], build)


def add_sums(rows: int, columns: int, stride: int, with_factors: bool) -> Any:
    """`(at, acc, factors)`: the float32 [rows, columns] at `at`, rows `stride` bytes apart, += the sums of a tile.

    factors: the address of float32 [columns], which the sums are multiplied by, if `with_factors`.
    """
    tile, few = Tile(F32, rows * columns), ir.VectorType(LL["f32"], columns)

    def build(b: ir.IRBuilder, a: Sequence[Any]) -> None:
        sums = _sums_of(b, [b.extract_value(a[1], n) for n in range(tile.count)])
        for m in range(rows):
            value = _pick(b, sums, sums, [m * columns + n for n in range(columns)])
            if with_factors:
                value = b.fmul(value, b.load(pointer(b, a[2], few), align=1))
            at = pointer(b, b.add(a[0], LL["i64"](m * stride)), few)
            b.store(b.fadd(b.load(at, align=1), value), at, align=1)

    return operation(types.void, [types.int64, tile, types.int64], build)


def _pick(b: ir.IRBuilder, x: Any, y: Any, lanes: list[int]) -> Any:
    return b.shuffle_vector(x, y, ir.Constant(ir.VectorType(LL["i32"], len(lanes)), lanes))


def _sums_of(b: ir.IRBuilder, vectors: list[Any]) -> Any:
    """One vector of the sums of `vectors`, a power of two of them; as long as there are two, two are halved at once."""
    width = LANES
    while width > 1:
        pairs = list(zip(vectors[::2], vectors[1::2], strict=True)) if len(vectors) > 1 else [(vectors[0], None)]
        half, vectors = width // 2, []
        for x, y in pairs:
            lanes = x.type.count * (1 if y is None else 2)
            low = [first + n for first in range(0, lanes, width) for n in range(half)]
            other = x if y is None else y
            vectors.append(b.fadd(_pick(b, x, other, low), _pick(b, x, other, [n + half for n in low])))
        width = half
    return vectors[0]
