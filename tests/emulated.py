"""The kernels of the tier `amx` on processors without tiles, whose AMX instructions `tile_emulator.c` does in software.

All other machine code runs as it is, so the processor must have what the tier `avx512vnni` needs.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import pytest

from edge_lfm.kernels.load.library import Kernels, load_kernels
from edge_lfm.kernels.spec.isa import find_isa, processor_flags

AMX = find_isa("amx")
MISSING = sorted(find_isa("avx512vnni").requires - processor_flags())


@cache
def emulator() -> ctypes.CDLL:
    """The emulator, built with gcc and at work in this process from now on."""
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "tiles.so"
        source = Path(__file__).with_name("tile_emulator.c")
        flags = ["-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
        subprocess.run(["gcc", *flags, str(source), "-o", str(library)], check=True)
        made = ctypes.CDLL(str(library))
    made.emulated_instructions.restype = ctypes.c_int64
    assert made.emulate_tiles() == 0
    return made


def skip_without_emulation() -> None:
    """Skip a test where the tier can neither run nor be emulated."""
    if MISSING:
        pytest.skip(f"only AMX itself is emulated, and this processor lacks {', '.join(MISSING)}")
    if shutil.which("gcc") is None:
        pytest.skip("AMX is emulated by a program in C, and there is no gcc")


def load_emulated() -> Kernels:
    """The tier's kernels, with the emulator at work if this processor has no tiles."""
    if not AMX.requires <= processor_flags():
        skip_without_emulation()
        emulator()
    return load_kernels(AMX)
