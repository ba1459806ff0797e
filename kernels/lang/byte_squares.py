"""Squares of 16 by 16 int8 in the two orders that dot products of bytes read: by fours of a row, by fours of a column.

What dot products read as unsigned is stored as such (`dots.SIGNED_ZERO_POINT`). Compile-time only, like
`register_tiles.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba import types

from edge_lfm.kernels.lang.dots import SIGNED_ZERO_POINT, as_unsigned
from edge_lfm.kernels.lang.simd import I8, LANES, LL, operation, pointer

_RUN = ir.VectorType(LL["i8"], LANES)


def _shuffled(b: ir.IRBuilder, x: Any, y: Any, lanes: list[int]) -> Any:
    return b.shuffle_vector(x, y, ir.Constant(ir.VectorType(LL["i32"], len(lanes)), lanes))


def _joined(b: ir.IRBuilder, runs: list[Any]) -> Any:
    """Vectors one after another."""
    while len(runs) > 1:
        lanes = list(range(2 * runs[0].type.count))
        runs = [_shuffled(b, x, y, lanes) for x, y in zip(runs[::2], runs[1::2], strict=True)]
    return runs[0]


def _rows(b: ir.IRBuilder, a: Sequence[Any]) -> list[Any]:
    """Four vectors, each of four rows of the square."""
    runs = [b.load(pointer(b, b.add(a[0], b.mul(a[1], LL["i64"](n))), _RUN), align=1) for n in range(LANES)]
    fours = [_joined(b, runs[n : n + 4]) for n in range(0, LANES, 4)]
    return [as_unsigned(b, four) for four in fours] if SIGNED_ZERO_POINT else fours


def _store(b: ir.IRBuilder, to: Any, n: int, vector: Any) -> None:
    b.store(vector, pointer(b, b.add(to, LL["i64"](64 * n)), I8.ll), align=1)


def _pack_rows(b: ir.IRBuilder, a: Sequence[Any]) -> None:
    ints = ir.VectorType(LL["i32"], LANES)
    first, second, third, last = (b.bitcast(four, ints) for four in _rows(b, a))
    for n in range(4):
        lanes = [4 * r + n for r in range(4)] + [16 + 4 * r + n for r in range(4)]
        upper, lower = _shuffled(b, first, second, lanes), _shuffled(b, third, last, lanes)
        _store(b, a[2], n, b.bitcast(_joined(b, [upper, lower]), I8.ll))


def _pack_columns(b: ir.IRBuilder, a: Sequence[Any]) -> None:
    lanes = [LANES * n + c for c in range(LANES) for n in range(4)]
    for n, four in enumerate(_rows(b, a)):
        _store(b, a[2], n, _shuffled(b, four, four, lanes))


pack_rows = operation(types.void, [types.int64, types.int64, types.int64], _pack_rows)
"""`(address, stride, to)`: 16 runs of 16 int8 -> four vectors at `to`: byte 4r + b of the n-th is value 4n + b of r."""

pack_columns = operation(types.void, [types.int64, types.int64, types.int64], _pack_columns)
"""`(address, stride, to)`: the same runs; byte 4c + b of the n-th vector is value c of run 4n + b."""
