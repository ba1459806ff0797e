"""Products of tiles of bytes, AMX's: 16 tokens x columns of int8 times those columns x 16 rows of levels.

Tile registers have numbers that are chosen here, not by LLVM: product n uses 0 + n for sums, 2 + n for tokens and 4 + n
for weights. Their shapes are set once, before the first product. Compile-time only, like `register_tiles.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from edge_lfm.kernels.lang.simd import LANES, LL, call_of, operation, pointer
from edge_lfm.kernels.spec.layout import GROUP, LANE_TOKENS

PRODUCTS = 2
"""Products that do not wait for each other: the next one begins while the sums of the last one are being stored."""

_VECTOR = 4 * LANES


def set_shapes(columns: int) -> Any:
    """`()`: tiles for products over so many columns, 16 or 32, from now on; all are zero."""
    bytes_per_row, rows = [0] * 16, [0] * 16
    for n in range(PRODUCTS):
        shapes = ((LANE_TOKENS, _VECTOR), (LANE_TOKENS, columns), (columns // 4, _VECTOR))  # sums, tokens, weights
        for kind, shape in enumerate(shapes):
            rows[kind * PRODUCTS + n], bytes_per_row[kind * PRODUCTS + n] = shape
    palette = bytearray([1, 0, *[0] * 14])
    wide = b"".join(count.to_bytes(2, "little") for count in bytes_per_row)
    data = ir.Constant(ir.ArrayType(LL["i8"], 64), palette + wide + bytearray(rows))

    def build(b: ir.IRBuilder, a: Sequence[Any]) -> None:
        place = cgutils.global_constant(b.module, "shapes", data)
        call_of(b, "llvm.x86.ldtilecfg", ir.VoidType(), [b.bitcast(place, LL["i8"].as_pointer())])

    return operation(types.void, [], build)


def _tile(b: ir.IRBuilder, name: str, *operands: Any) -> None:
    call_of(b, f"llvm.x86.{name}", ir.VoidType(), operands)


release_tiles = operation(types.void, [], lambda b, a: _tile(b, "tilerelease"))
"""Tiles have no contents and no shapes any more: a thread that sleeps then has none to be saved."""


def _numbers(n: int) -> list[Any]:
    """Of product n's sums, tokens and weights."""
    return [LL["i8"](kind * PRODUCTS + n) for kind in range(3)]


def multiply_tiles(n: int) -> Any:
    """`(x, weights, sums)`: int32 [16 tokens, 16 rows] at `sums`, the products of two tiles; n: 0 or 1.

    x: int8 [16, columns], tokens 32 bytes apart; weights: vectors as `dots.dot_block` reads them, 64 bytes apart.
    """
    sums, tokens, weights = _numbers(n)

    def build(b: ir.IRBuilder, a: Sequence[Any]) -> None:
        x, levels, out = (pointer(b, address, LL["i8"]) for address in a)
        _tile(b, "tilezero", sums)
        _tile(b, "tileloadd64", tokens, x, LL["i64"](GROUP))
        _tile(b, "tileloadd64", weights, levels, LL["i64"](_VECTOR))
        _tile(b, "tdpbsud", sums, tokens, weights)  # signed times unsigned bytes
        _tile(b, "tilestored64", sums, out, LL["i64"](_VECTOR))

    return operation(types.void, [types.int64] * 3, build)


def add_products(n: int) -> Any:
    """`(line)`: product n's sums + the products of two tiles, each of whose rows is what lies at `line`."""
    sums, tokens, weights = _numbers(n)

    def build(b: ir.IRBuilder, a: Sequence[Any]) -> None:
        line = pointer(b, a[0], LL["i8"])
        _tile(b, "tileloadd64", tokens, line, LL["i64"](0))
        _tile(b, "tileloadd64", weights, line, LL["i64"](0))
        _tile(b, "tdpbsud", sums, tokens, weights)

    return operation(types.void, [types.int64], build)


def sums_of(n: int) -> Any:
    """`()` -> the address of product n's sums, int32 [16, 16], in memory of this call of the kernel."""

    def build(b: ir.IRBuilder, a: Sequence[Any]) -> Any:
        place = cgutils.alloca_once(b, ir.ArrayType(LL["i8"], LANE_TOKENS * _VECTOR))
        _tile(b, "tilestored64", _numbers(n)[0], b.bitcast(place, LL["i8"].as_pointer()), LL["i64"](_VECTOR))
        return b.ptrtoint(place, LL["i64"])

    return operation(types.int64, [], build)
