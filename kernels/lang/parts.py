"""Parts: kernels that are compiled each by itself, side by side, and that call each other by their C symbols.

Every entry point of `spec/entry.py` is one, and the matmul of every scheme: a call in a microsecond of work costs
nothing, and the compiler has as many pieces of work as a machine has processors. Compile-time only.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from llvmlite import ir
from numba import types

from edge_lfm.kernels.lang.simd import LL, call_of, kernel, operation
from edge_lfm.kernels.spec.entry import symbol_of


@dataclass(frozen=True)
class Part:
    """A kernel, the types of its arguments, int64 or named tuples of int64, and the symbol of its C function."""

    symbol: str
    function: Any
    arguments: tuple[Any, ...]

    @property
    def scalars(self) -> int:
        """How many int64 its C function takes: those of tuples one by one, as Numba passes them."""
        return sum(getattr(argument, "count", 1) for argument in self.arguments)


PARTS: dict[str, Part] = {}
"""By symbol, once the modules of `ops/` are imported."""


def part(name: str, function: Any, arguments: Sequence[Any]) -> Any:
    """Have a kernel compiled by itself, and return what other kernels call: `(*arguments)` -> int64, 0 for nothing."""
    made = Part(symbol_of(name), function, tuple(arguments))
    PARTS[made.symbol] = made

    def call(b: ir.IRBuilder, values: Sequence[Any]) -> Any:
        return call_of(b, made.symbol, LL["i64"], [scalar for value in values for scalar in _scalars(b, value)])

    return operation(types.int64, arguments, call)


def fields_of(record: type) -> Any:
    """The type of a named tuple of int64."""
    return types.NamedUniTuple(types.int64, len(record._fields), record)  # type: ignore[attr-defined]


def _scalars(b: ir.IRBuilder, value: Any) -> Iterator[Any]:
    if isinstance(value.type, ir.ArrayType):
        yield from (b.extract_value(value, n) for n in range(value.type.count))
    else:
        yield value


def entry(function: Any) -> Any:
    """Make a Python function an entry point: a part whose arguments are int64."""
    return part(function.__name__, kernel(function), [types.int64] * len(inspect.signature(function).parameters))
