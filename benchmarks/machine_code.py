"""Speed on paper: cycles of the decode loops on ARM's cores by LLVM's machine-code analyser, beside their memory.

    python benchmarks/machine_code.py [--mca llvm-mca-19] [--json]

For each core and scheme: the inner loop of one token's row tile, its cycles per byte of weights, the bytes per second
that the device's cores could consume at that rate, and what its memory delivers. The lesser of the two binds decode.
Needs llvm-mca, 16 or newer for the models of Neoverse (Debian: apt install llvm-19).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from edge_lfm.devices.targets import find_target
from edge_lfm.kernels.schemes import SCHEMES


@dataclass(frozen=True)
class Board:
    """A device by its fast cores. model: the scheduling model; LLVM has none of Cortex-A76 and X1 and takes that of
    Cortex-A57, so their siblings of the same core, Neoverse N1 and V1, stand in."""

    name: str
    target: str
    model: str
    cores: int
    ghz: float
    memory_gbps: float


# Bandwidth: what a specification promises (RPi 5: 4267 MT/s x 32 bit = 17 GB/s), so that computing is judged against
# more than the memory will deliver.
BOARDS = (
    Board("Raspberry Pi 4", "cortex-a72", "cortex-a72", 4, 1.8, 12.8),
    Board("Raspberry Pi 5", "cortex-a76", "neoverse-n1", 4, 2.4, 17.0),
    Board("RK3588, A76 only", "cortex-a76", "neoverse-n1", 4, 2.4, 34.1),
    Board("Cortex-X1 laptop, X1 only", "cortex-x1", "neoverse-v1", 4, 3.0, 68.3),
)
LOOPS = {"int4_g32": "int4_tile", "codebook4_g32": "codebook_g32_tile", "codebook4_g16": "codebook_g16_tile",
         "int8_g32": "int8_tile"}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One board and scheme. consumed_gbps: bytes of weights that all its cores take in a second by the analyser."""

    board: str
    scheme: str
    loop_bytes: int
    cycles: float
    bytes_per_cycle: float
    consumed_gbps: float
    memory_gbps: float
    binds: str


def assembly_of(board: Board, scheme: str) -> str:
    """The assembly of one token's row tile; in a process of its own, whose tier is a constant of it."""
    target = find_target(board.target)
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "tile.s"
        settings = {"EDGE_LFM_BUILD_ISA": target.isa.name, "NUMBA_OPT": "0"}
        command = [sys.executable, "-P", __file__, "--emit", scheme, board.target, str(output)]
        subprocess.run(command, env=os.environ | settings, check=True)
        return output.read_text(encoding="utf-8")


def emit(scheme: str, target: str, output: Path) -> None:
    """Compile `tile(w, x, s, cols)` of one token, stored to memory, and write its assembly."""
    from numba import types

    from edge_lfm.kernels import matmul
    from edge_lfm.kernels.compiler import compile_modules
    from edge_lfm.kernels.register_tiles import store_tile
    from edge_lfm.kernels.target import ir_of, kernel, modules_of

    tile, store = getattr(matmul, LOOPS[scheme])(1), store_tile(1)

    @kernel
    def probe(w, x, s, cols, out):  # type: ignore[no-untyped-def]
        store(out, tile(w, x, s, cols), 64)

    library, mangled = ir_of(probe, (types.int64,) * 5)
    _, assembly = compile_modules(list(modules_of(library).values()), {mangled}, find_target(target).isa)
    output.write_text(assembly(), encoding="utf-8")


def group_loop(assembly: str, group: int) -> tuple[list[str], int]:
    """The instructions of one iteration over groups, its inner loops unrolled, and the bytes of weights that it reads.

    It is the loop one of whose pointers advances by whole groups.
    """
    lines = [line.split("//")[0].rstrip() for line in assembly.splitlines()]
    starts: dict[str, int] = {}
    inner: list[tuple[int, int, int]] = []  # first line, last line, iterations
    for n, line in enumerate(lines):
        label = re.match(r"(\.L\w+):", line)
        if label:
            starts[label[1]] = n
        branch = re.match(r"\s+(?:b\.\w+|cbnz\s+\w+,|tbnz.*,)\s*(\.L\w+)$", line)
        if not branch or branch[1] not in starts:
            continue
        body = lines[starts[branch[1]] : n + 1]
        steps = [int(m[1]) for x in body if (m := re.match(r"\s+add\s+x\d+, x\d+, #(\d+)$", x))]
        whole = [step for step in steps if step % group == 0]
        if whole:
            return unrolled(lines, starts[branch[1]], n, inner), max(whole)
        inner.append((starts[branch[1]], n, iterations(body)))
    raise SystemExit(f"no loop over groups of {group} bytes was found")


def iterations(body: list[str]) -> int:
    """Of a loop that ends with `cmp xN, #end`, from 0 in steps of `add xN, xN, #step`."""
    for line in body:
        end = re.match(r"\s+cmp\s+(x\d+), #(\d+)$", line)
        step = end and re.search(rf"\tadd\t{end[1]}, {end[1]}, #(\d+)", "\n".join(body))
        if end and step:
            return int(end[2]) // int(step[1])
    raise SystemExit("an inner loop without a constant end")


def unrolled(lines: list[str], first: int, last: int, inner: list[tuple[int, int, int]]) -> list[str]:
    """The instructions of lines first..last, as often as inner loops repeat them."""
    found: list[str] = []
    n = first
    while n <= last:
        loop = next((loop for loop in inner if loop[0] == n), None)
        end, times = (loop[1], loop[2]) if loop else (n, 1)
        found += [x for x in lines[n : end + 1] if re.match(r"\s+[a-z]", x)] * times
        n = end + 1
    return found


def cycles_of(body: list[str], mca: str, model: str) -> float:
    """Cycles per iteration, over 300 of them."""
    with tempfile.NamedTemporaryFile("w", suffix=".s", encoding="utf-8") as file:
        file.write("\n".join(re.sub(r"\.L\w+$", "0", line) for line in body) + "\n")
        file.flush()
        command = [mca, "-mtriple=aarch64", f"-mcpu={model}", "-mattr=+dotprod,+fullfp16", "-iterations=300", file.name]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    total = re.search(r"Total Cycles:\s+(\d+)", done.stdout)
    if not total:
        raise SystemExit(done.stdout)
    return int(total[1]) / 300


def measure(board: Board, scheme: str, mca: str) -> Row:
    body, size = group_loop(assembly_of(board, scheme), SCHEMES[scheme].group_bytes)
    cycles = cycles_of(body, mca, board.model)
    consumed = size / cycles * board.ghz * board.cores
    binds = "memory" if consumed > board.memory_gbps else "computing"
    return Row(board.name, scheme, size, cycles, size / cycles, consumed, board.memory_gbps, binds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mca", default="llvm-mca-19", help="the analyser's program (default llvm-mca-19)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--emit", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.emit:
        emit(args.emit[0], args.emit[1], Path(args.emit[2]))
        return
    if shutil.which(args.mca) is None:
        raise SystemExit(f"{args.mca} is not installed: sudo apt install llvm-19, or name another with --mca")
    rows = [measure(board, scheme, args.mca) for board in BOARDS for scheme in LOOPS]
    if args.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
        return
    print(
        "| board | scheme | cycles per iteration | bytes per cycle and core | all cores, GB/s | memory, GB/s | binds |"
    )
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row.board} | {row.scheme} | {row.cycles:.1f} for {row.loop_bytes} B | {row.bytes_per_cycle:.2f} "
            f"| {row.consumed_gbps:.1f} | {row.memory_gbps:g} | {row.binds} |"
        )


if __name__ == "__main__":
    main()
