"""What differs between processors, but for the dot product (`dots.py`): look-ups, float16, the pause of a spin loop.

One function per operation, with a branch for each value of the trait that it depends on (`Isa`); everything else is
plain LLVM vector code that its back ends lower well by themselves.
Compile-time only. The tier is that of this process: `EDGE_LFM_BUILD_ISA`, set by `compiler.py`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba.core import cgutils

from edge_lfm.kernels.spec.isa import find_isa

ISA = find_isa(os.environ["EDGE_LFM_BUILD_ISA"])
I8, I16, I32 = ir.IntType(8), ir.IntType(16), ir.IntType(32)


def call(b: ir.IRBuilder, name: str, result: ir.Type, *args: Any) -> Any:
    function = cgutils.get_or_insert_function(b.module, ir.FunctionType(result, [a.type for a in args]), name)
    return b.call(function, args)


def part(b: ir.IRBuilder, v: Any, first: int, count: int) -> Any:
    return b.shuffle_vector(v, v, ir.Constant(ir.VectorType(I32, count), list(range(first, first + count))))


def join(b: ir.IRBuilder, parts: list[Any]) -> Any:
    while len(parts) > 1:
        n = parts[0].type.count
        both = ir.Constant(ir.VectorType(I32, 2 * n), list(range(2 * n)))
        parts = [b.shuffle_vector(x, y, both) for x, y in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


# Look-ups in tables of 16 or 8 entries: one shuffle where the processor has it.


def lookup_nibbles(b: ir.IRBuilder, table: tuple[int, ...], q: Any, high: bool) -> Any:
    """table[nibble] for the low or the high nibbles of int8 x 64; the table's entries are bytes of either sign."""
    signed = [(v + 128) % 256 - 128 for v in table]
    if ISA.shuffle_bytes == 64:
        # vpermb reads six bits of an index: four copies of the table make the two above a nibble not matter.
        if high:
            halves = ir.VectorType(I16, 32)
            q = b.bitcast(b.lshr(b.bitcast(q, halves), ir.Constant(halves, [4] * 32)), q.type)
        return call(b, "llvm.x86.avx512.permvar.qi.512", q.type, ir.Constant(q.type, signed * 4), q)
    fifteen, four = (ir.Constant(q.type, [n] * 64) for n in (15, 4))
    index = b.lshr(q, four) if high else b.and_(q, fifteen)
    size = ISA.shuffle_bytes or 16
    return join(b, [_shuffle_bytes(b, signed, part(b, index, first, size)) for first in range(0, 64, size)])


def lookup_thirds(b: ir.IRBuilder, table: tuple[int, ...], q: Any, high: bool) -> Any:
    """table[bits 0-2], or table[bits 3-5], of int8 x 64; the table has 8 entries, bytes of either sign."""
    signed = [(v + 128) % 256 - 128 for v in table]
    if ISA.shuffle_bytes == 64:  # vpermb reads six bits of an index: either three are without meaning for its table
        entries = [signed[n >> 3 if high else n & 7] for n in range(64)]
        return call(b, "llvm.x86.avx512.permvar.qi.512", q.type, ir.Constant(q.type, entries), q)
    index = b.and_(_shifted_right(b, q, 3) if high else q, ir.Constant(q.type, [7] * 64))
    size = ISA.shuffle_bytes or 16
    return join(b, [_shuffle_bytes(b, signed, part(b, index, first, size)) for first in range(0, 64, size)])


def fourth_thirds(b: ir.IRBuilder, vectors: Sequence[Any]) -> Any:
    """Bits 6-7 of three int8 x 64 as bits 0-1, 2-3 and 4-5 of one; what is above them has no meaning."""
    first, second, third = (_shifted_right(b, q, n) for q, n in zip(vectors, (6, 4, 2), strict=True))
    masks = [ir.Constant(first.type, [n] * 64) for n in (0x03, 0x0C, 0x30)]
    first, second, third = (b.and_(q, mask) for q, mask in zip((first, second, third), masks, strict=True))
    return b.or_(b.or_(first, second), third)


def lookup_fifths(b: ir.IRBuilder, table: tuple[int, ...], q: Any) -> Any:
    """table[bits 0-4] of int8 x 64; the table has 32 entries, bytes of either sign."""
    signed = [(v + 128) % 256 - 128 for v in table]
    if ISA.shuffle_bytes == 64:  # the sixth bit of an index is without meaning
        return call(b, "llvm.x86.avx512.permvar.qi.512", q.type, ir.Constant(q.type, signed * 2), q)
    index, size = b.and_(q, ir.Constant(q.type, [31] * 64)), ISA.shuffle_bytes or 16
    return join(b, [_shuffle_halves(b, signed, part(b, index, first, size)) for first in range(0, 64, size)])


def _shuffle_halves(b: ir.IRBuilder, table: list[int], index: Any) -> Any:
    """A table of 32: one shuffle of two registers on ARM, elsewhere two of one register each."""
    if ISA.shuffle_bytes == 0:
        return _steps(b, table, index)
    if ISA.machine != "x86_64":
        halves = [ir.Constant(index.type, table[:16]), ir.Constant(index.type, table[16:])]
        return call(b, "llvm.aarch64.neon.tbl2.v16i8", index.type, *halves, index)
    low, high = _shuffle_bytes(b, table[:16], index), _shuffle_bytes(b, table[16:], index)
    return b.select(b.icmp_signed(">", index, ir.Constant(index.type, [15] * index.type.count)), high, low)


def last_fifths(b: ir.IRBuilder, vectors: Sequence[Any]) -> list[Any]:
    """Three int8 x 64 of 0..31 out of the upper bits of five (`vectors.to_fifths`)."""

    def bits(vector: int, shift: int, mask: int) -> Any:
        q = _shifted_right(b, vectors[vector], shift)
        return b.and_(q, ir.Constant(q.type, [mask] * 64))

    return [
        b.or_(bits(0, 5, 0x07), bits(1, 2, 0x18)),
        b.or_(b.or_(bits(2, 5, 0x07), bits(1, 4, 0x08)), bits(3, 1, 0x10)),
        b.or_(bits(4, 5, 0x07), bits(3, 3, 0x18)),
    ]


def _shifted_right(b: ir.IRBuilder, q: Any, count: int) -> Any:
    """The bytes of int8 x 64 shifted right; on x86, which shifts no bytes, bits of their neighbours come in above."""
    if ISA.machine != "x86_64":
        return b.lshr(q, ir.Constant(q.type, [count] * 64))
    halves = ir.VectorType(I16, 32)
    return b.bitcast(b.lshr(b.bitcast(q, halves), ir.Constant(halves, [count] * 32)), q.type)


def _shuffle_bytes(b: ir.IRBuilder, table: list[int], index: Any) -> Any:
    if ISA.shuffle_bytes == 0:
        return _steps(b, table, index)
    x86 = "llvm.x86.ssse3.pshuf.b.128" if ISA.shuffle_bytes == 16 else "llvm.x86.avx2.pshuf.b"
    name = x86 if ISA.machine == "x86_64" else "llvm.aarch64.neon.tbl1.v16i8"
    return call(b, name, index.type, ir.Constant(index.type, table * (index.type.count // len(table))), index)


def _steps(b: ir.IRBuilder, table: list[int], index: Any) -> Any:
    """Without a byte shuffle (plain x86-64): the table's steps up to the index, added up."""
    value = ir.Constant(index.type, [table[0]] * index.type.count)
    for n in range(1, len(table)):
        step = ir.Constant(index.type, [(table[n] - table[n - 1] + 128) % 256 - 128] * index.type.count)
        reached = b.icmp_signed(">=", index, ir.Constant(index.type, [n] * index.type.count))
        value = b.add(value, b.select(reached, step, ir.Constant(index.type, None)))
    return value


def lookup_floats(b: ir.IRBuilder, table: tuple[float, ...], index: Any) -> Any:
    """table[index] for int32 x 16 of 0..15."""
    if ISA.register_lanes == 16:
        return call(b, "llvm.x86.avx512.permvar.sf.512", F32X, ir.Constant(F32X, list(table)), index)
    if ISA.register_lanes == 8:
        return join(b, [_lookup_eight(b, table, part(b, index, first, 8)) for first in (0, 8)])
    value = ir.Constant(F32X, ir.Undefined)
    kept = cgutils.alloca_once_value(b, ir.Constant(ir.ArrayType(ir.FloatType(), 16), list(table)))
    for lane in range(16):
        at = b.gep(kept, [I32(0), b.extract_element(index, I32(lane))])
        value = b.insert_element(value, b.load(at), I32(lane))
    return value


def _lookup_eight(b: ir.IRBuilder, table: tuple[float, ...], index: Any) -> Any:
    eight = ir.VectorType(ir.FloatType(), 8)
    halves = [
        call(b, "llvm.x86.avx2.permps", eight, ir.Constant(eight, list(part)), index) for part in (table[:8], table[8:])
    ]
    upper = b.icmp_signed(">", index, ir.Constant(index.type, [7] * 8))
    return b.select(upper, halves[1], halves[0])


# float16: hardware conversions where they exist. x86-64 without F16C (v3) has none, and LLVM would call a
# library function per value that not every machine has, so there the bits are converted by integers.

F16X, I16X, I32X, F32X = (ir.VectorType(t, 16) for t in (ir.HalfType(), I16, I32, ir.FloatType()))


def _splat(value: float, t: ir.VectorType) -> ir.Constant:
    return ir.Constant(t, [value] * 16)


def half_to_float(b: ir.IRBuilder, bits: Any) -> Any:
    """16 float16, given as int16 bits, to float32; exact, subnormals included."""
    if ISA.has_float16:
        return b.fpext(b.bitcast(bits, F16X), F32X)
    wide = b.zext(bits, I32X)
    sign = b.shl(b.and_(wide, _splat(0x8000, I32X)), _splat(16, I32X))
    shifted = b.shl(b.and_(wide, _splat(0x7FFF, I32X)), _splat(13, I32X))
    # The exponent bias grows from 15 to 127: a product by 2**112, which also normalizes subnormals.
    value = b.fmul(b.bitcast(shifted, F32X), _splat(2.0**112, F32X))
    special = b.icmp_unsigned(">=", shifted, _splat(0x1F << 23, I32X))
    magnitude = b.select(special, b.or_(shifted, _splat(0xFF << 23, I32X)), b.bitcast(value, I32X))
    return b.bitcast(b.or_(magnitude, sign), F32X)


def float_to_half(b: ir.IRBuilder, value: Any) -> Any:
    """16 float32 to float16 as int16 bits, halves to even, overflow to infinity."""
    if ISA.has_float16:
        return b.bitcast(b.fptrunc(value, F16X), I16X)
    bits = b.bitcast(value, I32X)
    sign = b.and_(b.lshr(bits, _splat(16, I32X)), _splat(0x8000, I32X))
    magnitude = b.and_(bits, _splat(0x7FFFFFFF, I32X))
    odd = b.and_(b.lshr(magnitude, _splat(13, I32X)), _splat(1, I32X))
    rounded = b.add(b.add(magnitude, _splat(0xFFF - (112 << 23), I32X)), odd)
    normal = b.lshr(rounded, _splat(13, I32X))
    # Below 2**-14: adding 0.5 leaves the subnormal's bits, rounded to even, at the end of the mantissa.
    tiny = b.sub(b.bitcast(b.fadd(b.bitcast(magnitude, F32X), _splat(0.5, F32X)), I32X), _splat(0x3F000000, I32X))
    half = b.select(b.icmp_unsigned("<", magnitude, _splat(113 << 23, I32X)), tiny, normal)
    half = b.select(b.icmp_unsigned(">=", magnitude, _splat(0x477FF000, I32X)), _splat(0x7C00, I32X), half)
    half = b.select(b.icmp_unsigned(">", magnitude, _splat(0x7F800000, I32X)), _splat(0x7E00, I32X), half)
    return b.trunc(b.or_(half, sign), I16X)


def pause(b: ir.IRBuilder) -> None:
    """Tell the core that this is a spin loop."""
    if ISA.machine == "x86_64":
        call(b, "llvm.x86.sse2.pause", ir.VoidType())
    else:
        call(b, "llvm.aarch64.hint", ir.VoidType(), I32(1))


SPIN_TURNS = 4096 if ISA.machine == "x86_64" else 32768
"""Turns of a spin loop with one `pause` that take about 100 us. A pause takes 40 to 140 cycles on x86, few on ARM."""


def futex_number() -> int:
    """Linux's number of the system call."""
    return 202 if ISA.machine == "x86_64" else 98
