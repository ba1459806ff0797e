"""From the kernels' Python source to machine code for any tier: Numba's types, LLVM's optimiser.

    python -m edge_lfm.kernels.build.compiler --isa avx2 -o kernels.o

Prints the percentage that is done, a line each time that it has grown. Runs in a process of its own, so that the
runtime never imports Numba, and so that the tier is one constant of the process. Numba infers types and lowers to
LLVM IR for any 64-bit little-endian machine; from there on LLVM compiles for the tier's triple, processor and
features, whatever machine this is.

Parts (`lang/parts.py`) are typed and optimised side by side, each in a process that starts as a copy of this one. So
the result does not depend on how many there are at once.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from multiprocessing import connection, get_context
from pathlib import Path
from typing import Any

from edge_lfm.kernels.spec.entry import ENTRIES, symbol_of
from edge_lfm.kernels.spec.isa import TIERS, Isa, find_isa

_LONGEST = ("forward", "encode_rows", "attend_latents", "attend_tokens", "apply_ffn")
"""Parts whose types alone take 5 to 10 s on an AMD EPYC of family 23. They begin first, so that no processor is left
with one of them at the end."""
_MAX_AT_ONCE = 8
"""Each takes up to 0.2 GB of memory. More would end no sooner: the longest part takes an eighth of all their time."""
_BESIDE_PARTS = 1
"""Of the progress, what putting all parts together counts for: as much as one of them."""


def all_parts() -> list[Any]:
    """Every part, those first that take longest.

    Raises:
        ValueError: an entry point takes other arguments than the table says, which its callers would not notice.
    """
    for module in {entry.module: None for entry in ENTRIES}:
        importlib.import_module(f"edge_lfm.kernels.ops.{module}")
    from edge_lfm.kernels.lang.parts import PARTS

    for entry in ENTRIES:
        if PARTS[entry.symbol].scalars != len(entry.arguments):
            raise ValueError(f"{entry.name} takes {PARTS[entry.symbol].scalars} arguments, not {len(entry.arguments)}")
    first = [PARTS[symbol_of(name)] for name in _LONGEST]
    return first + [part for part in PARTS.values() if part not in first]


def _wrapper(part: Any, mangled: str) -> str:
    """A C function around Numba's calling convention (result and exception through pointers).

    Kernels raise no exceptions, so the status is dropped; those without a result leave it at 0.
    """
    values = [f"i64 %a{i}" for i in range(part.scalars)]
    types = ["i64"] * part.scalars
    return (
        f'declare i32 @"{mangled}"({", ".join(["ptr", "ptr", *types])})\n'
        f"define i64 @{part.symbol}({', '.join(values)}) {{\n"
        f"  %r = alloca i64\n  %e = alloca ptr\n  store i64 0, ptr %r\n"
        f'  %s = call i32 @"{mangled}"({", ".join(["ptr %r", "ptr %e", *values])})\n'
        f"  %v = load i64, ptr %r\n  ret i64 %v\n}}\n"
    )


def ir_of_parts(parts: Iterable[Any]) -> list[str]:
    """The LLVM modules of parts, of all kernels that they call, and of their C functions."""
    from edge_lfm.kernels.lang.target import ir_of, modules_of

    modules: dict[int, str] = {}
    wrappers = []
    for part in parts:
        library, mangled = ir_of(part.function, part.arguments)
        modules_of(library, modules)
        wrappers.append(_wrapper(part, mangled))
    return [*modules.values(), *wrappers]


def _for_target(module_ir: str, isa: Isa, layout: str) -> str:
    text = re.sub(r'target triple = ".*"', f'target triple = "{isa.triple}"', module_ir)
    return re.sub(r'target datalayout = ".*"', f'target datalayout = "{layout}"', text)


def _machine(isa: Isa) -> Any:
    import llvmlite.binding as llvm

    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    return llvm.Target.from_triple(isa.triple).create_target_machine(
        cpu=isa.cpu, features=isa.features, opt=3, reloc="pic", codemodel="small"
    )


def _linked(modules: Iterable[Any], exported: set[str], isa: Isa, machine: Any) -> Any:
    """One LLVM module of parsed ones, with all but some functions internal."""
    import llvmlite.binding as llvm

    head = _for_target('target triple = ""\ntarget datalayout = ""', isa, str(machine.target_data))
    linked = llvm.parse_assembly(head)
    for module in modules:
        linked.link_in(module)
    for function in linked.functions:
        if not function.is_declaration:
            function.linkage = "external" if function.name in exported else "internal"
    for variable in linked.global_variables:
        if not variable.is_declaration:
            variable.linkage = "internal"
    return linked


def optimized(modules: Sequence[str], exported: set[str], isa: Isa) -> Any:
    """LLVM modules as one that exports some functions, after the optimiser."""
    import llvmlite.binding as llvm

    machine = _machine(isa)
    layout = str(machine.target_data)
    parsed = (llvm.parse_assembly(_for_target(text, isa, layout)) for text in modules)
    module = _linked(parsed, exported, isa, machine)
    builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=3))
    inliner = llvm.create_new_module_pass_manager()
    inliner.add_always_inliner_pass()
    inliner.add_sroa_pass()
    inliner.add_sccp_pass()
    inliner.add_simplify_cfg_pass()  # one block, or else instructions sink to where the block of a callee was
    inliner.run(module, builder)
    builder.getModulePassManager().run(module, builder)
    return module


def compile_modules(modules: list[str], exported: set[str], isa: Isa) -> tuple[bytes, Callable[[], str]]:
    """LLVM modules as one object file that exports some functions, and a function that gives its assembly text."""
    return _emitted(optimized(modules, exported, isa), isa)


def _emitted(module: Any, isa: Isa) -> tuple[bytes, Callable[[], str]]:
    machine = _machine(isa)
    return machine.emit_object(module), lambda: machine.emit_assembly(module)


def compile_parts(
    parts: list[Any],
    isa: Isa,
    tell: Callable[[int], object],
    rewrite: Callable[[list[str]], list[str]] = lambda modules: modules,
) -> tuple[bytes, Callable[[], str]]:
    """All parts as one object file that exports the entry points, and a function that gives its assembly text.

    tell: called with the percentage that is done. rewrite: what the optimiser gets for the modules of a part.

    Raises:
        SystemExit: a part could not be compiled.
    """
    import llvmlite.binding as llvm

    with tempfile.TemporaryDirectory(prefix="edge-lfm-") as folder:

        def optimize(part: Any) -> None:
            module = optimized(rewrite(ir_of_parts([part])), {part.symbol}, isa)
            Path(folder, part.symbol).write_bytes(module.as_bitcode())

        ir_of_parts([min(parts, key=lambda part: part.symbol)])  # what every part would do again: Numba's registries
        for done, _ in enumerate(_side_by_side(optimize, parts), 1):
            tell(100 * done // (len(parts) + _BESIDE_PARTS))
        modules = [llvm.parse_bitcode(Path(folder, part.symbol).read_bytes()) for part in parts]
    return _emitted(_linked(modules, {entry.symbol for entry in ENTRIES}, isa, _machine(isa)), isa)


def _side_by_side(task: Callable[[Any], None], parts: list[Any]) -> Iterable[None]:
    """Run a task for every part in a copy of this process, as many at once as there are processors; yields each end."""
    waiting = list(reversed(parts))
    running: dict[Any, tuple[Any, Any]] = {}
    at_once = min(len(os.sched_getaffinity(0)), _MAX_AT_ONCE)
    while waiting or running:
        while waiting and len(running) < at_once:
            part = waiting.pop()
            process = get_context("fork").Process(target=task, args=(part,), daemon=True)
            process.start()
            running[process.sentinel] = (process, part)
        for sentinel in connection.wait(running):
            process, part = running.pop(sentinel)
            process.join()
            if process.exitcode:
                raise SystemExit(f"{part.symbol}: exit code {process.exitcode}")
            yield


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
    code, assembly = compile_parts(all_parts(), isa, lambda percent: print(percent, flush=True))
    args.output.write_bytes(code)
    print(100, flush=True)
    if args.assembly:
        args.assembly.write_text(assembly(), encoding="utf-8")


if __name__ == "__main__":
    main()
