"""The integer dot product of every tier: 16 rows of weights with the activations of some tokens.

One branch per instruction (`Isa.dot`); every one is exact, none saturates. Knows vectors of integers, neither scales
nor layouts. Compile-time only, like `lowering.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

from llvmlite import ir

from edge_lfm.kernels.lang.lowering import I8, I16, I32, ISA, call, join, part

SIGNED_ZERO_POINT = 128 if ISA.dot == "vpdpbusd" else 0
"""What is added to signed weights: `vpdpbusd` multiplies unsigned by signed bytes, so it reads them
as w + 128, and 128 * sum of the activations must be taken off."""

_LANES = ISA.register_lanes
_ORDER_ALL, _ORDER_LOOKED_UP = ISA.ordered == "all", ISA.ordered != "none"
_TOGETHER = 2 if ISA.dot in ("pmaddubsw", "smull") else 1
"""Fours of levels (0..63) whose products are added up in int16, pairs of two of them: 2 * 2 * 63 * 127 = 32,004."""

Step = Callable[[ir.IRBuilder, Any, list[Any], list[Any]], Any]
"""`(builder, sums, weights, activations)` -> sums: of one register of rows, and of as many fours as go together."""


def dot_block(
    b: ir.IRBuilder, sums: list[Any], weights: list[Any], xs: list[Any], signed: bool, looked_up: bool
) -> list[Any]:
    """For each token m, sums[m][r] + the dot of row r's 16 weights with the token's 16 bytes at address xs[m].

    sums: int32 x 16. Byte 4r + b of weights[j], int8 x 64, is row r's column 4j + b; `signed` ones are -127..127 (plus
    SIGNED_ZERO_POINT as read), others 0..63. Activations are -127..127.
    """
    if signed and SIGNED_ZERO_POINT:
        weights = [as_unsigned(b, w) for w in weights]
    ordered = _ORDER_ALL or (looked_up and _ORDER_LOOKED_UP)

    def step(b: ir.IRBuilder, a: Any, ws: list[Any], xs: list[Any]) -> Any:
        return _dot(b, a, ws, xs, signed)

    by_token, together = ordered and ISA.token_by_token, 1 if signed else _TOGETHER
    return _by_registers(b, sums, weights, xs, step, ordered, by_token, together)


def as_unsigned(b: ir.IRBuilder, weights: Any) -> Any:
    """Signed weights plus 128."""
    return b.xor(weights, ir.Constant(weights.type, [-128] * 64))


def _by_registers(
    b: ir.IRBuilder,
    sums: list[Any],
    weights: list[Any],
    xs: list[Any],
    step: Step,
    ordered: bool,
    by_token: bool = False,
    together: int = 1,
) -> list[Any]:
    """`step` for every token and every register of rows.

    `together` fours at a time: with `ordered` after the ones before, and with `by_token` a token after the other.
    """
    width = sums[0].type.count // 16 * _LANES
    accs = [[part(b, a, n, width) for n in range(0, a.type.count, width)] for a in sums]
    xs, lanes = list(xs), range(0, 64, 4 * _LANES)
    for j in range(0, len(weights), together):
        rows = [[part(b, w, n, 4 * _LANES) for w in weights[j : j + together]] for n in lanes]
        for m, acc in enumerate(accs):
            fours = [_four_bytes(b, xs[m], i) for i in range(j, j + together)]
            accs[m] = [step(b, a, row, fours) for a, row in zip(acc, rows, strict=True)]
            if by_token and m + 1 < len(accs):
                xs[m + 1] = after(b, xs[m + 1], accs[m])
        if ordered:
            xs = [after(b, x, [a for acc in accs for a in acc]) for x in xs]
    return [join(b, acc) for acc in accs]


def lane_block(b: ir.IRBuilder, sums: list[Any], weights: Any, x: Any, small: bool) -> list[Any]:
    """For each row m, sums[m][t] + the dot of its 16 weights with token t's 16 activations, 16 tokens in lanes.

    weights: where row 0's first four lie as dot products read them, 0..63; the next row's 4 bytes on, the next four
    64 bytes on. x: where the tokens' first fours lie; the next 64 bytes on. `small`: sums are `SMALL_SUMS`.
    """
    step: Step = _add_pairwise if small else lambda b, a, w, x: _dot(b, a, w, x, signed=False)
    together = 1 if small else _TOGETHER
    width = sums[0].type.count // 16 * _LANES
    accs = [[part(b, a, n, width) for n in range(0, a.type.count, width)] for a in sums]
    for first in range(0, 4, together):
        few = range(first, first + together)
        vectors = [
            b.load(b.inttoptr(b.add(x, x.type(64 * j)), ir.VectorType(I8, 64).as_pointer()), align=1) for j in few
        ]
        for m, acc in enumerate(accs):
            fours = [_four_bytes(b, b.add(weights, weights.type(64 * j + 4 * m)), 0) for j in few]
            for r in range(16 // _LANES):
                tokens = [part(b, v, 4 * _LANES * r, 4 * _LANES) for v in vectors]
                acc[r] = step(b, acc[r], fours, tokens)
        x = after(b, x, [a for acc in accs for a in acc])
    return [join(b, acc) for acc in accs]


def after(b: ir.IRBuilder, address: Any, values: list[Any]) -> Any:
    """An address that LLVM believes to come from the values, so that what it is used for is done after them."""
    register = "x" if ISA.machine == "x86_64" else "w"
    signature = ir.FunctionType(address.type, [address.type, *[v.type for v in values]])
    return b.asm(signature, "", ",".join(["=r", "0", *[register] * len(values)]), [address, *values], False)


def _four_bytes(b: ir.IRBuilder, address: Any, j: int) -> Any:
    """The j-th four of 16 bytes at an address, again and again in a register.

    On x86 a load that repeats; on ARM a lane of a register that all j share, which dot products read in place.
    """
    many = ir.VectorType(I32, _LANES)
    if ISA.machine == "x86_64":
        one = b.load(b.inttoptr(b.add(address, address.type(4 * j)), I32.as_pointer()), align=1)
        fours, j = b.insert_element(ir.Constant(many, ir.Undefined), one, I32(0)), 0
    else:
        fours = b.load(b.inttoptr(address, many.as_pointer()), align=1)
    fours = b.shuffle_vector(fours, fours, ir.Constant(many, [j] * _LANES))
    return b.bitcast(fours, ir.VectorType(I8, 4 * _LANES))


def _dot(b: ir.IRBuilder, a: Any, ws: list[Any], xs: list[Any], signed: bool) -> Any:
    if ISA.dot == "pmaddubsw":
        return _dot_pairs(b, a, ws, xs, signed)
    if ISA.dot == "smull":
        return b.add(a, _sums_of_neon(b, *_products(b, ws, xs)))
    (w,), (x,) = ws, xs
    if ISA.dot == "vpdpbusd":
        return call(b, f"llvm.x86.avx512.vpdpbusd.{32 * _LANES}", a.type, a, w, x)
    if ISA.dot == "sdot":
        return call(b, "llvm.aarch64.neon.sdot.v4i32.v16i8", a.type, a, w, x)
    return _dot_plain(b, a, w, x)


_SIGN, _PAIRS, _SUMS = (
    ("llvm.x86.ssse3.psign.b.128", "llvm.x86.ssse3.pmadd.ub.sw.128", "llvm.x86.sse2.pmadd.wd")
    if _LANES == 4
    else tuple(f"llvm.x86.avx2.{name}" for name in ("psign.b", "pmadd.ub.sw", "pmadd.wd"))
)


def _dot_pairs(b: ir.IRBuilder, a: Any, ws: list[Any], xs: list[Any], signed: bool) -> Any:
    """`pmaddubsw` saturates at 32767: |w| and x * sign(w) keep a pair at 2 * 127 * 127 = 32258."""
    if signed:
        xs = [call(b, _SIGN, x.type, x, w) for x, w in zip(xs, ws, strict=True)]
        ws = [call(b, f"llvm.abs.v{w.type.count}i8", w.type, w, ir.Constant(ir.IntType(1), 0)) for w in ws]
    pairs = [call(b, _PAIRS, ir.VectorType(I16, 2 * _LANES), w, x) for w, x in zip(ws, xs, strict=True)]
    return b.add(a, _sums_of_pairs(b, reduce(b.add, pairs)))


def _sums_of_pairs(b: ir.IRBuilder, v: Any) -> Any:
    return call(b, _SUMS, ir.VectorType(I32, _LANES), v, ir.Constant(v.type, [1] * v.type.count))


_PRODUCTS, _PAIRS_NEON = "llvm.aarch64.neon.smull.v8i16", "llvm.aarch64.neon.addp.v8i16"
_WIDE = ir.VectorType(I16, 8)


def _products(b: ir.IRBuilder, ws: list[Any], xs: list[Any]) -> list[Any]:
    """Of the lower and the upper half of all fours, summed over them: lane 4r + b is row r's column b."""
    halves = []
    for n in (0, 8):
        products = [call(b, _PRODUCTS, _WIDE, part(b, w, n, 8), part(b, x, n, 8)) for w, x in zip(ws, xs, strict=True)]
        halves.append(reduce(b.add, products))
    return halves


def _sums_of_neon(b: ir.IRBuilder, low: Any, high: Any) -> Any:
    """Sums of pairs in int16, and of pairs of those in int32."""
    pairs = call(b, _PAIRS_NEON, _WIDE, low, high)
    return call(b, "llvm.aarch64.neon.saddlp.v4i32.v8i16", ir.VectorType(I32, 4), pairs)


def _dot_plain(b: ir.IRBuilder, a: Any, w: Any, x: Any) -> Any:
    """Widening multiplies and pairwise adds: 127 * 127 fits int16, sums are taken in int32."""
    wide = ir.VectorType(I16, 16)
    products = b.mul(b.sext(w, wide), b.sext(x, wide))
    return b.add(a, _add_pairs(b, _add_pairs(b, b.sext(products, ir.VectorType(I32, 16)))))


def _add_pairs(b: ir.IRBuilder, v: Any) -> Any:
    half = ir.VectorType(I32, v.type.count // 2)
    even = b.shuffle_vector(v, v, ir.Constant(half, list(range(0, v.type.count, 2))))
    return b.add(even, b.shuffle_vector(v, v, ir.Constant(half, list(range(1, v.type.count, 2)))))


# Weights of 0..15. Where there is no 4-way dot product, the products of a group's 32 columns fit int16 (pairs of them:
# 8 * 2 * 15 * 127 = 30,480), and are widened once a group: half of the instructions.

SMALL_SUMS = {"pmaddubsw": ("i16", 32), "smull": ("i16", 64)}.get(ISA.dot, ("i32", 16))
"""What 16 rows' sums of small weights are held in: values of one kind, so and so many."""


def dot_small_block(b: ir.IRBuilder, sums: list[Any], weights: list[Any], xs: list[Any]) -> list[Any]:
    """`dot_block` for weights of 0..15, with sums as `SMALL_SUMS` says, for two blocks at most."""
    if ISA.dot == "pmaddubsw":
        return _by_registers(b, sums, weights, xs, _add_pairwise, ordered=_ORDER_ALL)
    if ISA.dot == "smull":
        return _by_registers(b, sums, weights, xs, _add_products, ordered=False)
    return dot_block(b, sums, weights, xs, signed=False, looked_up=False)


def _add_pairwise(b: ir.IRBuilder, a: Any, ws: list[Any], xs: list[Any]) -> Any:
    return reduce(b.add, [call(b, _PAIRS, a.type, w, x) for w, x in zip(ws, xs, strict=True)], a)


def _add_products(b: ir.IRBuilder, a: Any, ws: list[Any], xs: list[Any]) -> Any:
    return join(b, [b.add(part(b, a, n, 8), half) for n, half in zip((0, 8), _products(b, ws, xs), strict=True)])


def widen_small(b: ir.IRBuilder, sums: Any) -> Any:
    """The sums of small weights as int32 x 16."""
    if ISA.dot == "pmaddubsw":
        return join(b, [_sums_of_pairs(b, part(b, sums, n, 2 * _LANES)) for n in range(0, 32, 2 * _LANES)])
    if ISA.dot == "smull":
        return join(b, [_sums_of_neon(b, part(b, sums, n, 8), part(b, sums, n + 8, 8)) for n in range(0, 64, 16)])
    return sums
