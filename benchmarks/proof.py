"""edge-lfm beside llama.cpp on your machine, in 15 minutes once llama.cpp is built: `make proof`.

    python benchmarks/proof.py [-o build/proof]

Builds llama.cpp from its source package, chooses the largest shape that fits memory, disk and the time that is left,
writes random weights in that shape for both, and lets them take turns. Writes a page (index.html), the same as Markdown
(proof.md) with a picture (proof.png), and every figure (proof.json). A second run finds the build and the models.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from llama_cpp import FORMATS, PEER, build_peer, measure_ours, measure_peer, prepare
from proof_page import Proof, write_page

from edge_lfm.architectures import read_shape
from edge_lfm.cli.doctor import examine
from edge_lfm.machine.processors import choose_threads
from edge_lfm.model.demand import planned_demand
from edge_lfm.quantize.families import SMALLER, family_config
from edge_lfm.quantize.recipe import find_recipe

LIMIT_S = 15 * 60
RESERVE_S = 45  # for the page, and for a slow minute
SHAPES = ("lfm2-24b-a2b", *SMALLER)
FORMAT = "Q4_0"
FEWEST_ROUNDS, MOST_ROUNDS = 2, 5
PROMPT, GENERATED = 512, 64
PEER_SLOWER = 4  # times ours, in the estimate of a round: docs/performance.md has 1.1 to 4.3
RUNS = 3  # of each test in a round: one to warm up, two that count


@dataclass(frozen=True)
class Expected:
    """What a shape takes. Bytes: of each of the two files; speeds: ours, in tokens a second."""

    shape: str
    fits: bool
    nbytes: int
    prefill_tps: float
    decode_tps: float

    def seconds(self, per_byte: float) -> float:
        """To write both files and measure the fewest rounds."""
        ours = RUNS * (PROMPT / self.prefill_tps + GENERATED / self.decode_tps)
        return 2 * self.nbytes * per_byte + FEWEST_ROUNDS * (1 + PEER_SLOWER) * ours


def expect(shape: str) -> Expected:
    """What `edge-lfm fit` says of a shape on this machine."""
    recipe = FORMATS[FORMAT][2]
    command = [sys.executable, "-P", "-m", "edge_lfm.cli.main", "fit", shape, "--recipe", recipe, "--json"]
    fit = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False).stdout)["fit"]
    nbytes = planned_demand(read_shape(family_config(shape)), find_recipe(recipe).schemes).file_bytes
    return Expected(shape, fit["fits"] and fit["kept"] >= 1, nbytes, fit["prefill_tps"], fit["decode_tps"])


def choose(shapes: Iterable[Expected], seconds: float, per_byte: float, disk: int) -> Expected:
    """The first that fits memory, `disk` bytes and `seconds`; else the last, which is the smallest.

    per_byte: seconds to write a byte of a model.
    """
    for shape in shapes:
        if shape.fits and 2 * shape.nbytes < disk and shape.seconds(per_byte) < seconds:
            return shape
    return shape


def run_rounds(bench: Path, ours: Path, theirs: Path, threads: int, end: float) -> list[tuple[dict[str, float], ...]]:
    """Rounds of both, until the next would end after `end` (of time.monotonic); one at least."""
    asked = Namespace(prompt=str(PROMPT), generate=str(GENERATED), depth="0", repeat=2)
    rounds: list[tuple[dict[str, float], ...]] = []
    longest = 0.0
    while not rounds or (len(rounds) < MOST_ROUNDS and time.monotonic() + longest < end):
        print(f"round {len(rounds) + 1} ...", file=sys.stderr, flush=True)
        begin = time.monotonic()
        mine = measure_ours(ours, threads, asked)
        rounds.append((mine, measure_peer(bench, theirs, threads, asked, FORMATS[FORMAT][3])))
        longest = max(longest, time.monotonic() - begin)
    return rounds


def prove(work: Path) -> Proof:
    """Everything but the page."""
    load = os.getloadavg()[0] / len(os.sched_getaffinity(0))
    begin = time.monotonic()
    end = begin + LIMIT_S - RESERVE_S
    bench = build_peer(work / "peer")
    built = time.monotonic()
    print(f"llama.cpp was built in {built - begin:.0f} s", file=sys.stderr)
    recipe = FORMATS[FORMAT][2]
    fresh = not (work / f"{SHAPES[-1]}-{recipe}").exists()
    smallest = expect(SHAPES[-1])
    before = time.monotonic()
    prepare(work, SHAPES[-1], FORMAT, recipe)
    # Files of an earlier run were written at a speed that nobody timed: 50 MB/s, a slow disk's, stands for it.
    per_byte = (time.monotonic() - before) / (2 * smallest.nbytes) if fresh else 1 / 50e6
    shapes = (expect(name) for name in SHAPES)
    chosen = choose(shapes, end - time.monotonic(), per_byte, shutil.disk_usage(work).free)
    print(f"{chosen.shape}: {chosen.nbytes / 1e9:.2f} GB for each of the two", file=sys.stderr)
    ours, theirs = prepare(work, chosen.shape, FORMAT, recipe)
    threads = choose_threads()
    rounds = run_rounds(bench, ours, theirs, threads, end)
    return Proof(
        shape=chosen.shape,
        formats=(recipe, FORMAT),
        file_bytes=(_size(ours), _size(theirs)),
        threads=threads,
        speeds={
            f"prefill of {PROMPT} tokens": [(a[f"pp{PROMPT}@0"], b[f"pp{PROMPT}@0"]) for a, b in rounds],
            f"decode of {GENERATED} tokens": [(a[f"tg{GENERATED}@0"], b[f"tg{GENERATED}@0"]) for a, b in rounds],
        },
        peer=PEER,
        commit=_commit(),
        day=time.strftime("%Y-%m-%d", time.gmtime()),
        seconds=time.monotonic() - begin,
        load=load,
        machine={finding.what: finding.value for finding in examine() if finding.what in _TOLD},
    )


_TOLD = ("version", "system", "processor", "kernels", "threads", "memory")


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())


def _commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "no checkout"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path("build/proof"))
    args = parser.parse_args()
    compilers = [os.environ.get("CXX", ""), "c++", "g++", "clang++"]
    if not any(name and shutil.which(name) for name in compilers):
        sys.exit("llama.cpp needs a C++ compiler: sudo apt install g++")
    args.output.mkdir(parents=True, exist_ok=True)
    proof = prove(args.output)
    (args.output / "proof.json").write_text(json.dumps(asdict(proof), indent=1) + "\n", encoding="utf-8")
    write_page(proof, args.output)
    print(f"{args.output}/index.html, after {proof.seconds / 60:.1f} minutes")


if __name__ == "__main__":
    main()
