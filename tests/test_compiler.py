"""Kernels compiled for processors that this machine is not: each tier's own dot product, and nothing undefined."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edge_lfm.kernels.build.compiler import _side_by_side
from edge_lfm.kernels.spec.entry import ENTRIES
from edge_lfm.kernels.spec.isa import TIERS, runnable_tiers

pytestmark = pytest.mark.slow

FOREIGN = [tier.name for tier in TIERS if tier not in runnable_tiers()]
DOT_PRODUCT = {
    "amx": r"vpdpbusd\s.*zmm",  # and more, which `test_byte_tiles.py` counts
    "avx512vnni": r"vpdpbusd\s.*zmm",
    "avxvnni": r"vpdpbusd\s.*ymm",
    "avx2": r"vpmaddubsw\s.*ymm",
    "ssse3": r"\spmaddubsw\s.*xmm",
    "portable": r"pmaddwd",
    "i8mm": r"\ssdot\s",
    "dotprod": r"\ssdot\s",
    "neon": r"\s(smull|smlal)2?\s",
}
FROM_THE_SYSTEM = {"memcpy", "memset", "memmove", "sched_yield", "mmap", "signal", "syscall", "_GLOBAL_OFFSET_TABLE_"}


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_tiers_compile(name: str, tmp_path: Path) -> None:
    """ARM's tiers on x86 and the other way round: machine code whose inner loops use the tier's instruction."""
    output, assembly = tmp_path / "k.o", tmp_path / "k.s"
    command = [sys.executable, "-P", "-m", "edge_lfm.kernels.build.compiler", "--isa", name, "-o", str(output),
               "--assembly", str(assembly)]  # fmt: skip
    subprocess.run(command, check=True, timeout=300)
    assert output.read_bytes()[:4] == b"\x7fELF"
    text = assembly.read_text(encoding="utf-8")
    assert len(re.findall(DOT_PRODUCT[name], text)) > 20
    defined = set(re.findall(r"^(\w+):", text, re.MULTILINE))
    assert {entry.symbol for entry in ENTRIES} <= defined
    called = set(re.findall(r"^\s+(?:callq?|jmp|bl|b)\s+(\w+)", text, re.MULTILINE))
    assert {name for name in called - defined if not name.startswith(("_ZN", "edge_lfm"))} <= FROM_THE_SYSTEM


def test_parts_are_compiled_side_by_side(tmp_path: Path) -> None:
    """Each in a process of its own; one that ends badly is named, and nothing waits for the others."""
    parts = [SimpleNamespace(symbol=f"part_{n}") for n in range(5)]

    def write(part: Any) -> None:
        if part.symbol == "part_3":
            os._exit(9)
        (tmp_path / part.symbol).write_text(str(os.getpid()), encoding="utf-8")

    assert len(list(_side_by_side(write, parts[:3]))) == 3
    assert len({(tmp_path / part.symbol).read_text(encoding="utf-8") for part in parts[:3]} | {str(os.getpid())}) == 4
    with pytest.raises(SystemExit, match="part_3: exit code 9"):
        list(_side_by_side(write, parts[3:]))


SMALL_PARTS = """
import os, sys
from pathlib import Path
from edge_lfm.kernels.build import compiler
from edge_lfm.kernels.spec.isa import find_isa
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(sys.argv[1])])
code, _ = compiler.compile_parts(compiler.all_parts()[-5:], find_isa("dotprod"), lambda _percent: None)
Path(sys.argv[2]).write_bytes(code)
"""
OTHER_ARGUMENTS = """
from dataclasses import replace
from edge_lfm.kernels.build import compiler
compiler.ENTRIES = [replace(entry, arguments=(*entry.arguments, "more")) for entry in compiler.ENTRIES[:1]]
compiler.all_parts()
"""


def _in_compiler(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"EDGE_LFM_BUILD_ISA": "dotprod", "NUMBA_OPT": "0"}
    command = [sys.executable, "-P", "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=120)


def test_the_bytes_do_not_depend_on_how_many_parts_are_compiled_at_once(tmp_path: Path) -> None:
    for processors in ("1", "2"):
        done = _in_compiler(SMALL_PARTS, processors, str(tmp_path / processors))
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


def test_an_entry_point_with_other_arguments_than_the_table_is_refused() -> None:
    done = _in_compiler(OTHER_ARGUMENTS)
    assert done.stderr.strip().splitlines()[-1] == "ValueError: forward takes 4 arguments, not 5"
