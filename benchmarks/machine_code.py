"""Speed on paper: cycles of the loops over weights by LLVM's machine-code analyser, for processors that are not here.

    python benchmarks/machine_code.py            # decode on ARM's boards, beside their memory
    python benchmarks/machine_code.py --prefill  # products a cycle of the largest register tile, tier by tier
    options: --mca llvm-mca-19, --json

Decode: cycles of one token's row tile per group, the bytes per second that the device's cores could consume at that
rate, and what its memory delivers. The lesser of the two binds. The analyser knows pipelines, neither caches nor the
memory. Needs llvm-mca, 16 or newer for the models of Neoverse (Debian: apt install llvm-19).
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
from edge_lfm.kernels.spec.isa import Isa, find_isa
from edge_lfm.kernels.spec.layout import LANE_TOKENS, TOKEN_BATCH
from edge_lfm.kernels.spec.schemes import SCHEMES


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
MODELS = (
    ("amx", "sapphirerapids"), ("avx512vnni", "sapphirerapids"),
    ("avx512vnni", "znver4"), ("avx512vnni", "icelake-server"), ("avxvnni", "alderlake"), ("avx2", "znver3"),
    ("avx2", "skylake"), ("ssse3", "nehalem"), ("i8mm", "neoverse-v1"), ("dotprod", "neoverse-n1"),
    ("dotprod", "cortex-a55"), ("neon", "cortex-a72"),
)  # fmt: skip
"""Tiers, and processors of theirs that the analyser knows."""
LOOPS = tuple(scheme.name for scheme in SCHEMES.values() if scheme.quantized)


@dataclass(frozen=True)
class Decode:
    """One board and scheme. consumed_gbps: bytes of weights that all its cores take in a second by the analyser."""

    board: str
    scheme: str
    loop_bytes: int
    cycles: float
    bytes_per_cycle: float
    consumed_gbps: float
    memory_gbps: float
    binds: str


@dataclass(frozen=True)
class Prefill:
    """A tier on a processor. products: multiply-adds a cycle of one core, for each scheme."""

    tier: str
    model: str
    tokens: int
    products: dict[str, float]


def assembly_of(isa: Isa, scheme: str, tokens: int) -> str:
    """The assembly of one row tile; in a process of its own, whose tier is a constant of it."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "tile.s"
        settings = {"EDGE_LFM_BUILD_ISA": isa.name, "NUMBA_OPT": "0"}
        command = [sys.executable, "-P", __file__, "--emit", scheme, isa.name, str(tokens), str(output)]
        subprocess.run(command, env=os.environ | settings, check=True)
        return output.read_text(encoding="utf-8")


def emit(scheme: str, isa: Isa, tokens: int, output: Path) -> None:
    """Compile `tile(w, x, s, cols)`, stored to memory, and write its assembly."""
    from numba import types

    from edge_lfm.kernels.build.compiler import compile_modules
    from edge_lfm.kernels.lang.register_tiles import store_tile
    from edge_lfm.kernels.lang.target import ir_of, kernel, modules_of
    from edge_lfm.kernels.ops.schemes import KERNELS

    row = next(row for row in KERNELS if row.scheme.name == scheme)
    tile, store, blocks, count = row.tile(tokens), store_tile(tokens), row.blocks, tokens // LANE_TOKENS

    @kernel
    def one_tile(w, x, s, cols, out):  # type: ignore[no-untyped-def]
        store(out, tile(w, x, s, cols), 64)

    @kernel
    def all_blocks(w, x, s, cols, out):  # type: ignore[no-untyped-def]
        blocks(w, x, count, cols, out)

    probe = all_blocks if isa.has_byte_tiles and tokens > max(isa.token_tiles) else one_tile

    library, mangled = ir_of(probe, (types.int64,) * 5)
    _, assembly = compile_modules(list(modules_of(library).values()), {mangled}, isa)
    output.write_text(assembly(), encoding="utf-8")


def group_loop(assembly: str, mark: str = "") -> list[str]:
    """The instructions of the loop over groups: the longest run of lines from a label to a branch back to it.

    mark: what one of the lines must have in it.
    """
    lines = [re.split(r"//|#(?![\w-])", line)[0].rstrip() for line in assembly.splitlines()]
    starts: dict[str, int] = {}
    longest: list[str] = []
    for n, line in enumerate(lines):
        label, branch = re.match(r"(\.L\w+):", line), re.search(r"\s(\.L\w+)$", line)
        if label:
            starts[label[1]] = n
        elif branch and branch[1] in starts:
            body = [x for x in lines[starts[branch[1]] : n + 1] if re.match(r"\s+[a-z]", x)]
            longest = max(longest, body, key=len) if any(mark in line for line in body) else longest
    if not longest:
        raise SystemExit("no loop was found")
    return longest


def cycles_of(body: list[str], mca: str, isa: Isa, model: str) -> float:
    """Cycles per iteration, over 300 of them."""
    with tempfile.NamedTemporaryFile("w", suffix=".s", encoding="utf-8") as file:
        file.write("\n".join(re.sub(r"\.L\w+$", "0", line) for line in body) + "\n")
        file.flush()
        features = ["-mattr=+dotprod,+fullfp16,+i8mm"] if isa.machine == "aarch64" else []
        command = [mca, f"-mtriple={isa.machine}", f"-mcpu={model}", *features, "-iterations=300", file.name]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    total = re.search(r"Total Cycles:\s+(\d+)", done.stdout)
    if not total:
        raise SystemExit(done.stdout)
    return int(total[1]) / 300


def decode(board: Board, scheme: str, mca: str) -> Decode:
    isa, size = find_target(board.target).isa, SCHEMES[scheme].group_bytes
    cycles = cycles_of(group_loop(assembly_of(isa, scheme, 1)), mca, isa, board.model)
    consumed = size / cycles * board.ghz * board.cores
    binds = "memory" if consumed > board.memory_gbps else "computing"
    return Decode(board.name, scheme, size, cycles, size / cycles, consumed, board.memory_gbps, binds)


def prefill(tier: str, model: str, mca: str) -> Prefill:
    isa = find_isa(tier)
    tokens = TOKEN_BATCH if isa.has_byte_tiles else isa.token_tiles[0]
    products = {}
    for name in LOOPS:
        assembly, scheme = assembly_of(isa, name, tokens), SCHEMES[name]
        if isa.has_byte_tiles:  # one loop unpacks a group, the other multiplies one block of tokens
            body = group_loop(assembly, "tdpbsud")
            groups = sum("tdpbsud" in line for line in body) * scheme.block / scheme.columns
            multiplied = cycles_of(body, mca, isa, model) / groups * tokens / LANE_TOKENS
            cycles = multiplied + cycles_of(group_loop(assembly, "prefetch"), mca, isa, model)
        else:
            cycles = cycles_of(group_loop(assembly), mca, isa, model)
        products[name] = 16 * scheme.columns * tokens / cycles
    return Prefill(tier, model, tokens, products)


def show_decode(rows: list[Decode]) -> None:
    print(
        "| board | scheme | cycles per iteration | bytes per cycle and core | all cores, GB/s | memory, GB/s | binds |"
    )
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row.board} | {row.scheme} | {row.cycles:.1f} for {row.loop_bytes} B | {row.bytes_per_cycle:.2f} "
            f"| {row.consumed_gbps:.1f} | {row.memory_gbps:g} | {row.binds} |"
        )


def show_prefill(rows: list[Prefill]) -> None:
    print(f"| tier, processor | tokens of a tile | {' | '.join(LOOPS)} |\n|---|---|{'---|' * len(LOOPS)}")
    for row in rows:
        cells = " | ".join(f"{value:.1f}" for value in row.products.values())
        print(f"| `{row.tier}`, {row.model} | {row.tokens} | {cells} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prefill", action="store_true", help="products a cycle, in place of decode")
    parser.add_argument("--mca", default="llvm-mca-19", help="the analyser's program (default llvm-mca-19)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--emit", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.emit:
        scheme, tier, tokens, output = args.emit
        emit(scheme, find_isa(tier), int(tokens), Path(output))
        return
    if shutil.which(args.mca) is None:
        raise SystemExit(f"{args.mca} is not installed: sudo apt install llvm-19, or name another with --mca")
    decoded = [] if args.prefill else [decode(board, scheme, args.mca) for board in BOARDS for scheme in LOOPS]
    prefilled = [prefill(*pair, args.mca) for pair in MODELS] if args.prefill else []
    if args.json:
        print(json.dumps([asdict(row) for row in [*decoded, *prefilled]], indent=2))
    elif args.prefill:
        show_prefill(prefilled)
    else:
        show_decode(decoded)


if __name__ == "__main__":
    main()
