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
