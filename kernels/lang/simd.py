"""SIMD vectors as Numba values: a type that lowers to an LLVM vector, and the operations on it.

Kernels are ordinary Python functions over these operations and raw addresses (int64): no arrays, no
reference counts, no exceptions, so what comes out is plain LLVM IR for any target. Every vector has 16
lanes of 32 bits (or 64 of 8 bits); LLVM splits it into the registers that the target has. The only
operation that needs care per processor is the integer dot product (`lowering.py`).

Compile-time only: imported by `compiler.py` in a process of its own, never by the runtime.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from inspect import Parameter, Signature
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.datamodel.models import PrimitiveModel
from numba.extending import intrinsic, lower_builtin, register_model, type_callable

from edge_lfm.kernels.lang import lowering
from edge_lfm.kernels.lang.target import inlined as inlined
from edge_lfm.kernels.lang.target import kernel as kernel

LANES = 16
LL = {
    "i8": ir.IntType(8),
    "i16": ir.IntType(16),
    "i32": ir.IntType(32),
    "i64": ir.IntType(64),
    "f16": ir.HalfType(),
    "f32": ir.FloatType(),
}
SCALAR = {"i8": types.int8, "i32": types.int32, "i64": types.int64, "f32": types.float32}


class Vec(types.Type):
    """`lanes` values of one scalar `kind`, held in registers."""

    def __init__(self, kind: str, lanes: int = LANES) -> None:
        self.kind, self.lanes = kind, lanes
        super().__init__(name=f"vec<{lanes} x {kind}>")

    @property
    def ll(self) -> ir.Type:
        return ir.VectorType(LL[self.kind], self.lanes)


class Tile(types.Type):
    """`count` vectors: the accumulators of a register tile, one per token."""

    def __init__(self, vec: Vec, count: int) -> None:
        self.vec, self.count = vec, count
        super().__init__(name=f"tile<{count} x {vec.name}>")

    @property
    def ll(self) -> ir.Type:
        return ir.ArrayType(self.vec.ll, self.count)


class _RegisterModel(PrimitiveModel):
    def __init__(self, manager: Any, fe_type: Any) -> None:
        super().__init__(manager, fe_type, fe_type.ll)


register_model(Vec)(_RegisterModel)
register_model(Tile)(_RegisterModel)

I8, I32, F16, F32 = Vec("i8", 4 * LANES), Vec("i32"), Vec("f16"), Vec("f32")
Build = Callable[[ir.IRBuilder, Sequence[Any]], Any]


def operation(result: types.Type, params: Sequence[types.Type], build: Build) -> Any:
    """An intrinsic with a fixed signature; `build(builder, args)` returns its LLVM value, or None."""

    def codegen(context: Any, builder: ir.IRBuilder, _signature: Any, args: Sequence[Any]) -> Any:
        value = build(builder, args)
        return context.get_dummy_value() if value is None else value

    made = (result(*params), codegen)

    def typed(_typingctx: Any, *_params: Any) -> Any:
        return made

    # Numba reads the arity from the signature.
    names = [Parameter(f"a{n}", Parameter.POSITIONAL_OR_KEYWORD) for n in range(1 + len(params))]
    vars(typed)["__signature__"] = Signature(names)
    return intrinsic(typed)


def pointer(b: ir.IRBuilder, address: Any, ll: ir.Type) -> Any:
    return b.inttoptr(address, ll.as_pointer())


def splat_of(b: ir.IRBuilder, scalar: Any, vec: Vec) -> Any:
    undefined = ir.Constant(vec.ll, ir.Undefined)
    one = b.insert_element(undefined, scalar, LL["i32"](0))
    return b.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(LL["i32"], vec.lanes), None))


def call_of(b: ir.IRBuilder, name: str, result: ir.Type, args: Sequence[Any]) -> Any:
    function = cgutils.get_or_insert_function(b.module, ir.FunctionType(result, [a.type for a in args]), name)
    return b.call(function, args)


def _constant(vec: Vec, value: float) -> ir.Constant:
    return ir.Constant(vec.ll, [value] * vec.lanes)


# Memory


def scalar_at(b: ir.IRBuilder, address: Any, kind: str) -> Any:
    return b.load(pointer(b, address, LL[kind]), align=1)


def _load(t: Any, ll: ir.Type) -> Any:
    return operation(t, [types.int64], lambda b, a: b.load(pointer(b, a[0], ll), align=1))


def _store(t: Any, ll: ir.Type) -> Any:
    def build(b: ir.IRBuilder, a: Sequence[Any]) -> None:
        b.store(a[1], pointer(b, a[0], ll), align=1)

    return operation(types.void, [types.int64, t], build)


load_i8, load_i32, load_f32 = (_load(v, v.ll) for v in (I8, I32, F32))
store_i8, store_i32, store_f32 = (_store(v, v.ll) for v in (I8, I32, F32))
i64, i32, f32 = (_load(SCALAR[k], LL[k]) for k in ("i64", "i32", "f32"))
set_i64, set_i32, set_f32, set_i8 = (_store(SCALAR[k], LL[k]) for k in ("i64", "i32", "f32", "i8"))
"""Scalar loads `i64(address)` and stores `set_i64(address, value)`."""

load_f16 = operation(
    F32,
    [types.int64],
    lambda b, a: lowering.half_to_float(b, b.load(pointer(b, a[0], ir.VectorType(LL["i16"], LANES)), align=1)),
)
"""Sixteen float16 values, widened to float32."""


def _store_f16(b: ir.IRBuilder, a: Sequence[Any]) -> None:
    half = lowering.float_to_half(b, a[1])
    b.store(half, pointer(b, a[0], half.type), align=1)


store_f16 = operation(types.void, [types.int64, F32], _store_f16)


def _set_f16_column(b: ir.IRBuilder, a: Sequence[Any]) -> None:
    half = lowering.float_to_half(b, a[1])
    for lane in range(LANES):
        at = pointer(b, b.add(a[0], LL["i64"](32 * lane)), LL["i16"])
        b.store(b.extract_element(half, LL["i32"](lane)), at, align=2)


set_f16_column = operation(types.void, [types.int64, F32], _set_f16_column)
"""Sixteen values as float16, each 32 bytes below the last: one column of a transposed block."""


def _set_i8_column(b: ir.IRBuilder, a: Sequence[Any]) -> None:
    narrow = b.trunc(a[1], ir.VectorType(LL["i8"], LANES))
    for lane in range(LANES):
        at = pointer(b, b.add(a[0], LL["i64"](16 * lane)), LL["i8"])
        b.store(b.extract_element(narrow, LL["i32"](lane)), at, align=1)


set_i8_column = operation(types.void, [types.int64, I32], _set_i8_column)
"""Sixteen values as int8, each 16 bytes below the last."""


def _store_i32_as_i8(b: ir.IRBuilder, a: Sequence[Any]) -> None:
    narrow = ir.VectorType(LL["i8"], LANES)
    b.store(b.trunc(a[1], narrow), pointer(b, a[0], narrow), align=1)


store_i32_as_i8 = operation(types.void, [types.int64, I32], _store_i32_as_i8)


def _load_i8_as_f32(b: ir.IRBuilder, a: Sequence[Any]) -> Any:
    narrow = b.load(pointer(b, a[0], ir.VectorType(LL["i8"], LANES)), align=1)
    return b.sitofp(b.sext(narrow, I32.ll), F32.ll)


load_i8_as_f32 = operation(F32, [types.int64], _load_i8_as_f32)
"""Sixteen signed bytes, widened to float32."""


def _prefetch(b: ir.IRBuilder, address: Any, locality: int) -> None:
    read_data = [LL["i32"](n) for n in (0, locality, 1)]
    call_of(b, "llvm.prefetch.p0", ir.VoidType(), [pointer(b, address, LL["i8"]), *read_data])


prefetch = operation(types.void, [types.int64], lambda b, a: _prefetch(b, a[0], 3))
prefetch_far = operation(types.void, [types.int64], lambda b, a: _prefetch(b, a[0], 2))
"""Into the second level of the cache only: what is read much later."""


load_u8 = operation(
    I32,
    [types.int64],
    lambda b, a: b.zext(b.load(pointer(b, a[0], ir.VectorType(LL["i8"], LANES)), align=1), I32.ll),
)
"""Sixteen bytes, widened to int32 of 0..255."""


def _column(kind: str) -> Any:
    def build(b: ir.IRBuilder, a: Sequence[Any]) -> Any:
        out = ir.Constant(F32.ll, ir.Undefined)
        for lane in range(LANES):
            at = pointer(b, b.add(a[0], b.mul(a[1], LL["i64"](lane))), LL[kind])
            out = b.insert_element(out, b.load(at, align=1), LL["i32"](lane))
        return out

    return operation(F32, [types.int64, types.int64], build)


load_column = _column("f32")
"""`(address, stride)`: sixteen float32, `stride` bytes apart."""

u8 = operation(types.int32, [types.int64], lambda b, a: b.zext(scalar_at(b, a[0], "i8"), LL["i32"]))
"""One byte, as an int32 of 0..255."""


def _half(b: ir.IRBuilder, a: Sequence[Any]) -> Any:
    bits = b.insert_element(ir.Constant(ir.VectorType(LL["i16"], LANES), None), scalar_at(b, a[0], "i16"), LL["i32"](0))
    return b.extract_element(lowering.half_to_float(b, bits), LL["i32"](0))


half = operation(types.float32, [types.int64], _half)
"""One float16, widened."""


def _copy_bytes(b: ir.IRBuilder, a: Sequence[Any]) -> None:
    to, source = (pointer(b, address, LL["i8"]) for address in a[:2])
    signature = ir.FunctionType(ir.VoidType(), [to.type, source.type, LL["i64"], ir.IntType(1)])
    function = cgutils.get_or_insert_function(b.module, signature, "llvm.memcpy.p0.p0.i64")
    b.call(function, [to, source, a[2], ir.IntType(1)(0)])


copy_bytes = operation(types.void, [types.int64, types.int64, types.int64], _copy_bytes)
"""copy_bytes(to, from, count)."""


# Making and converting vectors

zero_i32 = operation(I32, [], lambda b, a: ir.Constant(I32.ll, None))
zero_f32 = operation(F32, [], lambda b, a: ir.Constant(F32.ll, None))
lane_numbers = operation(F32, [], lambda b, a: ir.Constant(F32.ll, [float(n) for n in range(LANES)]))
"""0, 1, ... 15."""
splat_f32 = operation(F32, [types.float32], lambda b, a: splat_of(b, a[0], F32))
splat_i32 = operation(I32, [types.int32], lambda b, a: splat_of(b, a[0], I32))
to_f32 = operation(F32, [I32], lambda b, a: b.sitofp(a[0], F32.ll))
round_i32 = operation(I32, [F32], lambda b, a: b.fptosi(call_of(b, "llvm.rint.v16f32", F32.ll, [a[0]]), I32.ll))
"""float32 to int32, halves to even."""
bits_of = operation(I32, [F32], lambda b, a: b.bitcast(a[0], I32.ll))
from_bits = operation(F32, [I32], lambda b, a: b.bitcast(a[0], F32.ll))
bits_to_float = operation(types.float32, [types.int32], lambda b, a: b.bitcast(a[0], LL["f32"]))
low_nibbles = operation(I8, [I8], lambda b, a: b.and_(a[0], _constant(I8, 15)))
high_nibbles = operation(I8, [I8], lambda b, a: b.lshr(a[0], _constant(I8, 4)))


def lookup_nibbles(table: tuple[int, ...], high: bool) -> Any:
    """table[nibble] for the low or the high nibbles of 64 bytes."""
    return operation(I8, [I8], lambda b, a: lowering.lookup_nibbles(b, table, a[0], high))


def lookup_thirds(table: tuple[int, ...], high: bool) -> Any:
    """table[n] for bits 0-2 or for bits 3-5 of 64 bytes."""
    return operation(I8, [I8], lambda b, a: lowering.lookup_thirds(b, table, a[0], high))


def lookup_fifths(table: tuple[int, ...]) -> Any:
    """table[n] for bits 0-4 of 64 bytes."""
    return operation(I8, [I8], lambda b, a: lowering.lookup_fifths(b, table, a[0]))


def last_fifths(n: int) -> Any:
    """The n-th of three vectors that lie in the upper bits of five."""
    return operation(I8, [I8] * 5, lambda b, a: lowering.last_fifths(b, a)[n])


def table_of(values: Sequence[float]) -> Any:
    """`()` -> the address of float32 constants that belong to the compiled code."""
    data = ir.Constant(ir.ArrayType(LL["f32"], len(values)), list(map(float, values)))
    at = cgutils.global_constant
    return operation(types.int64, [], lambda b, a: b.ptrtoint(at(b.module, "table", data), LL["i64"]))


fourth_thirds = operation(I8, [I8, I8, I8], lowering.fourth_thirds)
"""Bits 6-7 of three vectors, as bits 0-1, 2-3 and 4-5 of one."""


def lookup_floats(table: tuple[float, ...]) -> Any:
    """table[i] for 16 int32 of 0..15."""
    return operation(F32, [I32], lambda b, a: lowering.lookup_floats(b, table, a[0]))


def lookup_int(table: tuple[int, ...]) -> Any:
    """table[i] for one int32."""

    def build(b: ir.IRBuilder, a: Sequence[Any]) -> Any:
        kept = cgutils.alloca_once_value(b, ir.Constant(ir.ArrayType(LL["i32"], len(table)), list(table)))
        return b.load(b.gep(kept, [LL["i32"](0), a[0]]))

    return operation(types.int32, [types.int32], build)


load_bf16 = operation(
    F32,
    [types.int64],
    lambda b, a: b.bitcast(
        b.shl(b.zext(b.load(pointer(b, a[0], ir.VectorType(LL["i16"], LANES)), align=1), I32.ll), _constant(I32, 16)),
        F32.ll,
    ),
)
"""Sixteen bfloat16, widened to float32."""


def _below(b: ir.IRBuilder, a: Sequence[Any]) -> Any:
    lanes = ir.Constant(I32.ll, list(range(LANES)))
    keep = b.icmp_signed("<", lanes, splat_of(b, a[1], I32))
    return b.select(keep, a[0], _constant(F32, float("-inf")))


first_lanes = operation(F32, [F32, types.int32], _below)
"""The first n lanes of a vector; the others become -inf."""


def _between(b: ir.IRBuilder, a: Sequence[Any]) -> Any:
    lanes = ir.Constant(I32.ll, list(range(LANES)))
    reached = b.icmp_signed(">=", lanes, splat_of(b, a[1], I32))
    keep = b.and_(reached, b.icmp_signed("<", lanes, splat_of(b, a[2], I32)))
    return b.select(keep, a[0], splat_of(b, a[3], F32))


lanes_between = operation(F32, [F32, types.int32, types.int32, types.float32], _between)
"""`(v, first, end, other)`: v in lanes [first, end), `other` in the others."""


# Arithmetic


def _arithmetic(op: Any, vec: Vec, name: str) -> None:
    type_callable(op)(lambda context: lambda x, y: vec if x is vec and y is vec else None)

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Sequence[Any]) -> Any:
        return getattr(builder, name)(args[0], args[1])

    lower_builtin(op, vec, vec)(lower)


for _op, _f32, _i32 in ((operator.add, "fadd", "add"), (operator.sub, "fsub", "sub"), (operator.mul, "fmul", "mul")):
    _arithmetic(_op, F32, _f32)
    _arithmetic(_op, I32, _i32)
_arithmetic(operator.add, I8, "add")
_arithmetic(operator.truediv, F32, "fdiv")
_arithmetic(operator.and_, I32, "and_")
_arithmetic(operator.or_, I32, "or_")

fma = operation(F32, [F32, F32, F32], lambda b, a: call_of(b, "llvm.fmuladd.v16f32", F32.ll, a))
"""a * b + c, fused where the processor can."""
shift_left_23 = operation(I32, [I32], lambda b, a: b.shl(a[0], _constant(I32, 23)))
shift_left = operation(I32, [I32, types.int32], lambda b, a: b.shl(a[0], splat_of(b, a[1], I32)))
shift_right = operation(I32, [I32, types.int32], lambda b, a: b.lshr(a[0], splat_of(b, a[1], I32)))
max_f32 = operation(F32, [F32, F32], lambda b, a: b.select(b.fcmp_ordered(">", a[0], a[1]), a[0], a[1]))
min_f32 = operation(F32, [F32, F32], lambda b, a: b.select(b.fcmp_ordered("<", a[0], a[1]), a[0], a[1]))
where_above = operation(F32, [F32, F32, F32, F32], lambda b, a: b.select(b.fcmp_ordered(">", a[0], a[1]), a[2], a[3]))
"""where_above(a, b, x, y): x in the lanes where a > b, otherwise y."""
where_odd = operation(
    F32,
    [I32, types.float32, types.float32],
    lambda b, a: b.select(
        b.icmp_signed("!=", b.and_(a[0], _constant(I32, 1)), _constant(I32, 0)),
        splat_of(b, a[1], F32),
        splat_of(b, a[2], F32),
    ),
)
"""where_odd(i, x, y): x in the lanes where i is odd, otherwise y."""
add_above = operation(
    I32,
    [I32, F32, F32, types.int32],
    lambda b, a: b.add(
        a[0], b.select(b.fcmp_ordered(">", a[1], a[2]), splat_of(b, a[3], I32), ir.Constant(I32.ll, None))
    ),
)
"""add_above(i, a, b, n): i + n in the lanes where a > b, otherwise i."""
max_i32 = operation(I32, [I32, I32], lambda b, a: b.select(b.icmp_signed(">", a[0], a[1]), a[0], a[1]))
sum_i32 = operation(types.int32, [I32], lambda b, a: call_of(b, "llvm.vector.reduce.add.v16i32", LL["i32"], a))
largest_i32 = operation(types.int32, [I32], lambda b, a: call_of(b, "llvm.vector.reduce.smax.v16i32", LL["i32"], a))


def _tree_sum(b: ir.IRBuilder, a: Sequence[Any]) -> Any:
    """Pairwise, so that the order of additions is the same on every target."""
    v = a[0]
    for width in (8, 4, 2, 1):
        index = ir.VectorType(LL["i32"], width)
        left = b.shuffle_vector(v, v, ir.Constant(index, list(range(width))))
        v = b.fadd(left, b.shuffle_vector(v, v, ir.Constant(index, list(range(width, 2 * width)))))
    return b.extract_element(v, LL["i32"](0))


def _tree_max(b: ir.IRBuilder, a: Sequence[Any]) -> Any:
    v = a[0]
    for width in (8, 4, 2, 1):
        index = ir.VectorType(LL["i32"], width)
        left = b.shuffle_vector(v, v, ir.Constant(index, list(range(width))))
        right = b.shuffle_vector(v, v, ir.Constant(index, list(range(width, 2 * width))))
        v = b.select(b.fcmp_ordered(">", left, right), left, right)
    return b.extract_element(v, LL["i32"](0))


sum_f32 = operation(types.float32, [F32], _tree_sum)
largest_f32 = operation(types.float32, [F32], _tree_max)


smaller = operation(
    types.int64, [types.int64, types.int64], lambda b, a: b.select(b.icmp_signed("<", a[0], a[1]), a[0], a[1])
)
"""The smaller of two int64."""
larger = operation(
    types.int64, [types.int64, types.int64], lambda b, a: b.select(b.icmp_signed(">", a[0], a[1]), a[0], a[1])
)
"""The larger of two int64."""


# Threads


def _atomic_add(b: ir.IRBuilder, a: Sequence[Any]) -> Any:
    return b.atomic_rmw("add", pointer(b, a[0], LL["i64"]), a[1], "acq_rel")


def _atomic_load(b: ir.IRBuilder, a: Sequence[Any]) -> Any:
    return b.load_atomic(pointer(b, a[0], LL["i64"]), "acquire", 8)


def _atomic_store(b: ir.IRBuilder, a: Sequence[Any]) -> None:
    b.store_atomic(a[1], pointer(b, a[0], LL["i64"]), "release", 8)


atomic_add = operation(types.int64, [types.int64, types.int64], _atomic_add)
atomic_load = operation(types.int64, [types.int64], _atomic_load)
atomic_store = operation(types.void, [types.int64, types.int64], _atomic_store)
pause = operation(types.void, [], lambda b, a: lowering.pause(b))
fence = operation(types.void, [], lambda b, a: b.fence("seq_cst"))
"""No load behind it is done before the stores in front of it are seen by all threads."""


def _futex(b: ir.IRBuilder, address: Any, private_operation: int, value: Any) -> None:
    nothing = LL["i64"](0)
    number, kind = LL["i64"](lowering.futex_number()), LL["i64"](private_operation)
    call_of(b, "syscall", LL["i64"], [number, address, kind, value, nothing, nothing, nothing])


sleep_while = operation(types.void, [types.int64, types.int64], lambda b, a: _futex(b, a[0], 128, a[1]))
"""`(address, value)`: sleep until `wake_all(address)`, but not if the four bytes there are not those of `value`."""
wake_all = operation(types.void, [types.int64], lambda b, a: _futex(b, a[0], 129, LL["i64"](0x7FFFFFFF)))
"""Wake all threads that sleep at an address."""


# The operating system


def static_area(name: str, nbytes: int) -> Any:
    """`()` -> the address of `nbytes` bytes that belong to the compiled code, zeros at first, the same everywhere."""

    def build(b: ir.IRBuilder, a: Sequence[Any]) -> Any:
        known = {variable.name: variable for variable in b.module.global_values}
        variable = known.get(name)
        if variable is None:
            variable = ir.GlobalVariable(b.module, ir.ArrayType(LL["i8"], nbytes), name)
            variable.initializer, variable.linkage, variable.align = ir.Constant(variable.value_type, None), "weak", 16
        return b.ptrtoint(variable, LL["i64"])

    return operation(types.int64, [], build)


def _map_zeros(b: ir.IRBuilder, a: Sequence[Any]) -> None:
    read_write, private_fixed_anonymous = 3, 0x32
    numbers = [LL["i64"](n) for n in (read_write, private_fixed_anonymous, -1, 0)]
    call_of(b, "mmap", LL["i64"], [*a, *numbers])


map_zeros = operation(types.void, [types.int64, types.int64], _map_zeros)
"""`(address, bytes)`: private pages of zeros, in place of what is mapped there."""


def _default_handler(b: ir.IRBuilder, a: Sequence[Any]) -> None:
    call_of(b, "signal", LL["i64"], [a[0], LL["i64"](0)])


default_handler = operation(types.void, [types.int64], _default_handler)
"""`(signal)`: from now on it does what it does to any process."""
