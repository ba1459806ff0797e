"""From the kernels' Python source to machine code for any tier: Numba's types, LLVM's optimiser.

    python -m edge_lfm.kernels.build.compiler --isa avx2 -o kernels.o

Prints the percentage that is done, a line each time that it has grown. Runs in a process of its own, so that the
runtime never imports Numba, and so that the tier is one constant of the process. Numba infers types and lowers to
LLVM IR for any 64-bit little-endian machine; from there on LLVM compiles for the tier's triple, processor and
features, whatever machine this is.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from edge_lfm.kernels.spec.entry import ENTRIES, Entry
from edge_lfm.kernels.spec.isa import TIERS, Isa, find_isa

_TYPING_PERCENT = 85
"""Of the time, for Numba's types: 35 of 41 s on an AMD Zen 3 beside other work. LLVM takes the rest."""


def _wrapper(entry: Entry, mangled: str) -> str:
    """A C function around Numba's calling convention (result and exception through pointers).

    Kernels raise no exceptions, so the status is dropped; those without a result leave it at 0.
    """
    values = [f"i64 %a{i}" for i in range(len(entry.arguments))]
    types = ["i64"] * len(entry.arguments)
    return (
        f'declare i32 @"{mangled}"({", ".join(["ptr", "ptr", *types])})\n'
        f"define i64 @{entry.symbol}({', '.join(values)}) {{\n"
        f"  %r = alloca i64\n  %e = alloca ptr\n  store i64 0, ptr %r\n"
        f'  %s = call i32 @"{mangled}"({", ".join(["ptr %r", "ptr %e", *values])})\n'
        f"  %v = load i64, ptr %r\n  ret i64 %v\n}}\n"
    )


def _all_ir() -> list[str]:
    """The LLVM modules of every entry point, of all that they call, and of their C wrappers."""
    from numba import types

    from edge_lfm.kernels.lang.target import ir_of, modules_of, watch

    functions = [getattr(importlib.import_module(f"edge_lfm.kernels.ops.{e.module}"), e.name) for e in ENTRIES]
    watch(_print_typing())
    modules: dict[int, str] = {}
    wrappers = []
    for entry, function in zip(ENTRIES, functions, strict=True):
        library, mangled = ir_of(function, (types.int64,) * len(entry.arguments))
        modules_of(library, modules)
        wrappers.append(_wrapper(entry, mangled))
    return [*modules.values(), *wrappers]


def _print_typing() -> Callable[[float], None]:
    """Prints the percentage for a share of all kernels that have types."""
    shown = 0

    def show(share: float) -> None:
        nonlocal shown
        percent = int(share * _TYPING_PERCENT)
        if percent > shown:
            shown = percent
            print(percent, flush=True)

    return show


def _for_target(module_ir: str, isa: Isa, layout: str) -> str:
    text = re.sub(r'target triple = ".*"', f'target triple = "{isa.triple}"', module_ir)
    return re.sub(r'target datalayout = ".*"', f'target datalayout = "{layout}"', text)


def compile_modules(modules: list[str], exported: set[str], isa: Isa) -> tuple[bytes, Any]:
    """LLVM modules as one object file that exports some functions, and a function that gives its assembly text."""
    import llvmlite.binding as llvm

    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    machine = llvm.Target.from_triple(isa.triple).create_target_machine(
        cpu=isa.cpu, features=isa.features, opt=3, reloc="pic", codemodel="small"
    )
    layout = str(machine.target_data)
    module = llvm.parse_assembly(_for_target('target triple = ""\ntarget datalayout = ""', isa, layout))
    for text in modules:
        module.link_in(llvm.parse_assembly(_for_target(text, isa, layout)))
    for function in module.functions:
        if not function.is_declaration:
            function.linkage = "external" if function.name in exported else "internal"
    for variable in module.global_variables:
        if not variable.is_declaration:
            variable.linkage = "internal"
    builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=3))
    inliner = llvm.create_new_module_pass_manager()
    inliner.add_always_inliner_pass()
    inliner.add_sroa_pass()
    inliner.add_sccp_pass()
    inliner.add_simplify_cfg_pass()  # one block, or else instructions sink to where the block of a callee was
    inliner.run(module, builder)
    builder.getModulePassManager().run(module, builder)
    return machine.emit_object(module), lambda: machine.emit_assembly(module)


def main() -> None:
    parser = argparse.ArgumentParser(description="Compile the kernels for one ISA tier into an object file.")
    parser.add_argument("--isa", required=True, choices=[tier.name for tier in TIERS])
    parser.add_argument("--cpu", help="LLVM's name of the processor whose pipeline to schedule for")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--assembly", type=Path, help="also write the assembly here")
    args = parser.parse_args()
    os.environ["EDGE_LFM_BUILD_ISA"] = args.isa
    os.environ["NUMBA_OPT"] = "0"  # keep the optimiser of the building machine off the IR
    isa = find_isa(args.isa)
    isa = replace(isa, cpu=args.cpu or isa.cpu)
    code, assembly = compile_modules(_all_ir(), {entry.symbol for entry in ENTRIES}, isa)
    args.output.write_bytes(code)
    print(100, flush=True)
    if args.assembly:
        args.assembly.write_text(assembly(), encoding="utf-8")


if __name__ == "__main__":
    main()
