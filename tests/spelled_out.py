"""The kernels of a tier that this processor cannot run, with the tier's own instructions spelled out in plain LLVM.

    python -m spelled_out TIER OUTPUT.o

What a tier does around its instructions, the order of weights, offsets, sums, is then tested on every machine; that the
processor's instructions do what is written here is left to machines that have them.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from edge_lfm.kernels.load.library import Kernels, _link
from edge_lfm.kernels.spec.isa import TIERS, Isa, find_isa, runnable_tiers


def _dot(lanes: int) -> str:
    """Four unsigned by signed bytes and the sum with an int32, for each lane."""
    wide, narrow, sums = f"<{4 * lanes} x i32>", f"<{4 * lanes} x i8>", f"<{lanes} x i32>"
    lines = [f"%u = zext {narrow} %w to {wide}", f"%s = sext {narrow} %x to {wide}", f"%p = mul {wide} %u, %s"]
    total = "%a"
    for k in range(4):
        mask = ", ".join(f"i32 {4 * lane + k}" for lane in range(lanes))
        lines += [f"%p{k} = shufflevector {wide} %p, {wide} poison, {sums} <{mask}>"]
        lines += [f"%t{k} = add {sums} {total}, %p{k}"]
        total = f"%t{k}"
    body = "\n  ".join([*lines, f"ret {sums} {total}"])
    # Not inlined: in every product of every tile they would take LLVM minutes.
    return (
        f"define {sums} @plain.vpdpbusd.{32 * lanes}({sums} %a, {narrow} %w, {narrow} %x) noinline {{\n  {body}\n}}\n"
    )


def _permute(name: str, count: int, index: str, value: str) -> str:
    """table[index], of whose bits only those that count are read."""
    lines, result, values, indices = [], "poison", f"<{count} x {value}>", f"<{count} x {index}>"
    for n in range(count):
        lines += [f"%i{n} = extractelement {indices} %i, i32 {n}", f"%m{n} = and {index} %i{n}, {count - 1}"]
        lines += [f"%v{n} = extractelement {values} %t, {index} %m{n}"]
        lines += [f"%r{n} = insertelement {values} {result}, {value} %v{n}, i32 {n}"]
        result = f"%r{n}"
    body = "\n  ".join([*lines, f"ret {values} {result}"])
    return f"define {values} @plain.permvar.{name}.512({values} %t, {indices} %i) noinline {{\n  {body}\n}}\n"


PLAIN = _dot(16) + _dot(8) + _permute("qi", 64, "i8", "i8") + _permute("sf", 16, "i32", "float")
TESTED: tuple[Isa, ...] = tuple(
    tier for tier in TIERS if tier in runnable_tiers() or tier.machine == runnable_tiers()[0].machine == "x86_64"
)
"""Tiers that run here, with their instructions or without; AMX's are not spelled out, but emulated (`emulated.py`)."""


_HEAD = 'target triple = ""\ntarget datalayout = ""\n'
_ORDER = re.compile(r'call i64 asm "", "=r,0[,x]*"\(i64 ([^,]+), .*\)')
"""`dots.after`, which orders instructions and computes nothing: this processor may lack registers for its vectors."""


def load_spelled_out(tier: Isa) -> Kernels:
    """Compile them, in a process of their own, and place them in memory."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "kernels.o"
        subprocess.run([sys.executable, "-P", __file__, tier.name, str(output)], check=True)
        return _link(tier, output.read_bytes())


def spell_out(modules: list[str]) -> list[str]:
    """LLVM modules without the tier's instructions, and a module with functions that do what those do."""
    plain = [re.sub(r"llvm\.x86\.avx512\.(vpdpbusd|permvar)", r"plain.\1", text) for text in modules]
    return [*(_ORDER.sub(r"add i64 \1, 0", text) for text in plain), _HEAD + PLAIN]


def main(tier: str, output: Path) -> None:
    os.environ |= {"EDGE_LFM_BUILD_ISA": tier, "NUMBA_OPT": "0"}
    from edge_lfm.kernels.build import compiler

    able = runnable_tiers()[0]
    isa = replace(find_isa(tier), cpu=able.cpu, features=able.features)
    code, _ = compiler.compile_parts(compiler.all_parts(), isa, lambda _percent: None, spell_out)
    assert b"plain.vpdpbusd" in code, f"no instruction of {tier} is known here"
    output.write_bytes(code)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
