"""A Numba target that stops at LLVM IR: no machine code for this processor, no Python wrappers.

`kernel` is the one decorator of every kernel. Numba's own `njit` would compile each function for the
building machine as soon as another one calls it, a third of the whole build's time.
Compile-time only.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

from numba.core import codegen
from numba.core.registry import CPUDispatcher, CPUTarget, cpu_target


class _Library(codegen.AOTCodeLibrary):
    """One function's module: Numba's own copy the code of everything that they call into it, again and again."""

    def finalize(self) -> None:
        self._finalized = True


class _Codegen(codegen.AOTCPUCodegen):
    _library_class = _Library


class _IrTarget(CPUTarget):
    """The typing rules of Numba's CPU target, with a code generator that keeps modules as they are."""

    @cached_property
    def _toplevel_target_context(self) -> Any:
        plain = _Codegen("edge_lfm", "generic")
        return cpu_target.target_context.subtarget(_internal_codegen=plain)

    @property
    def typing_context(self) -> Any:
        return cpu_target.typing_context


class _Kernel(CPUDispatcher):
    """A kernel: callable from other kernels only, each signature a piece of LLVM IR."""

    targetdescr = _IrTarget("cpu")

    def __init__(self, function: Any, inlined: bool = False) -> None:
        # No fastmath: it would remove the NaN tests.
        super().__init__(
            function,
            targetoptions={
                "nopython": True,
                "error_model": "numpy",
                "boundscheck": False,
                "no_cpython_wrapper": True,
                "no_cfunc_wrapper": True,
                "forceinline": inlined,
            },
        )
        compiler: Any = vars(self)["_compiler"]
        compiler._customize_flags = _stop_at_ir

    def add_overload(self, result: Any) -> None:
        key = object()  # stands for the machine code's entry point, which there is none of
        self.targetctx.insert_user_function(key, result.fndesc, [result.library])
        self.overloads[tuple(result.signature.args)] = result._replace(entry_point=key)


def _stop_at_ir(flags: Any) -> Any:
    flags.no_compile, flags.nrt = True, False
    return flags


def kernel(function: Any) -> Any:
    """Make a Python function a kernel."""
    return _Kernel(function)


def inlined(function: Any) -> Any:
    """Make a Python function a kernel that becomes a part of its callers before anything is optimised.

    For the pieces of inner loops: LLVM then sees one function, whose instructions stand in the order of the source.
    """
    return _Kernel(function, inlined=True)


def ir_of(function: Any, argument_types: tuple[Any, ...]) -> tuple[Any, str]:
    """The Numba library of one kernel for one signature, and the mangled name of its function."""
    function.compile(argument_types)
    result = function.overloads[argument_types]
    return result.library, result.fndesc.llvm_func_name


def modules_of(library: Any, seen: dict[int, str] | None = None) -> dict[int, str]:
    """The LLVM IR of a library and of everything that it calls, each module once."""
    seen = {} if seen is None else seen
    if id(library) not in seen:
        seen[id(library)] = str(library._final_module)
        for other in library._linking_libraries:
            modules_of(other, seen)
    return seen
