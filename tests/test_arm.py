"""ARM's kernels in emulation: a static C program with each tier's object, on a processor that has just that tier.

`make test-arm` runs the whole engine and every kernel's tests in an arm64 system (`test_board.py`).
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT

from edge_lfm.devices.header import HEADER_NAME, header_text
from edge_lfm.devices.targets import find_target
from edge_lfm.kernels.load.library import object_code

QEMU = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
CROSS_CC: list[str] | None = None
if shutil.which("aarch64-linux-gnu-gcc"):
    CROSS_CC = ["aarch64-linux-gnu-gcc"]
elif importlib.util.find_spec("ziglang"):
    CROSS_CC = [sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-musl"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(QEMU is None, reason="needs qemu-user: sudo apt install qemu-user-static"),
    pytest.mark.skipif(CROSS_CC is None, reason="needs a C compiler for ARM: pip install ziglang"),
]


@pytest.fixture(scope="module")
def objects() -> Callable[[str], bytes]:
    """The object file for a target."""
    return lambda target: object_code(find_target(target).isa)


def run_example(code: bytes, processor: str, folder: Path) -> subprocess.CompletedProcess[str]:
    assert QEMU and CROSS_CC
    (folder / "kernels.o").write_bytes(code)
    (folder / HEADER_NAME).write_text(header_text(), encoding="utf-8")
    source, program = ROOT / "examples" / "c" / "multiply.c", folder / "multiply"
    command = [*CROSS_CC, "-static", f"-I{folder}", str(source), str(folder / "kernels.o"), "-lm", "-o", str(program)]
    subprocess.run(command, check=True, timeout=300)
    return subprocess.run([QEMU, "-cpu", processor, program], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("target", "processor"), [("cortex-a72", "cortex-a72"), ("cortex-a76", "cortex-a76"), ("apple-m2", "max")]
)
def test_kernels_in_emulation(objects: Callable[[str], bytes], target: str, processor: str, tmp_path: Path) -> None:
    done = run_example(objects(target), processor, tmp_path)
    assert done.returncode == 0 and done.stdout.count("rounding lost") == 4, done.stdout + done.stderr


def test_the_emulator_tells_processors_apart(objects: Callable[[str], bytes], tmp_path: Path) -> None:
    """The object for Cortex-A76 is illegal on an A72, which has no dot product."""
    done = run_example(objects("cortex-a76"), "cortex-a72", tmp_path)
    assert done.returncode != 0 and "rounding lost" not in done.stdout
