"""Decode when memory is short, beside llama.cpp under the same cgroup limit, in one interleaved run.

    sudo python benchmarks/paging.py --work DIR --limits 4G,6G,8G --rounds 2

Each engine runs in a memory cgroup of the limit (version 1 or 2), page cache charged to it: edge-lfm with `--ram` a
little below, llama.cpp with its memory map. Random weights route all but uniformly, the worst case for any cache.
Needs root and 27 GB of disk; builds llama.cpp as `benchmarks/llama_cpp.py` does.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llama_cpp import FORMATS, build_peer, prepare_peer

from edge_lfm.memory.budget import parse_size
from edge_lfm.quantize.families import PUBLISHED, family_config
from edge_lfm.quantize.recipe import find_recipe
from edge_lfm.quantize.synth import synthesize

LEFT_BYTES = 256 << 20
"""What the limit leaves beside edge-lfm's budget: the kernel charges page tables and file buffers too."""


@contextmanager
def memory_cgroup(limit_bytes: int) -> Iterator[Path]:
    """A new memory cgroup with a limit; a SystemExit says why there cannot be one."""
    base = Path("/sys/fs/cgroup")
    first = (base / "cgroup.controllers").exists()
    group = (base if first else base / "memory") / f"edge-lfm-bench-{os.getpid()}"
    try:
        if first:
            (base / "cgroup.subtree_control").write_text("+memory")
        group.mkdir()
        (group / ("memory.max" if first else "memory.limit_in_bytes")).write_text(str(limit_bytes))
    except OSError as error:
        raise SystemExit(f"no memory cgroup can be made here ({error}): run as root") from None
    try:
        yield group
    finally:
        group.rmdir()


def run_in(group: Path, command: list[str], environment: dict[str, str] | None = None) -> tuple[str, int]:
    """Run a command inside a cgroup: its output, and the most bytes that were charged."""

    def enter() -> None:
        (group / "cgroup.procs").write_text(str(os.getpid()))

    done = subprocess.run(command, check=True, capture_output=True, text=True, preexec_fn=enter, env=environment)
    for name in ("memory.max_usage_in_bytes", "memory.peak"):
        if (group / name).exists():
            return done.stdout, int((group / name).read_text())
    return done.stdout, 0


def drop_cache(*files: Path) -> None:
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def ours(model: Path, limit: int, args: argparse.Namespace) -> dict[str, float]:
    with memory_cgroup(limit) as group:
        command = [sys.executable, "-P", "-m", "edge_lfm.cli.main", "bench", str(model), "--json", "-r", "1"]
        command += ["-p", args.prompt, "-n", args.generate, "-t", args.threads, "--ram", str(limit - LEFT_BYTES)]
        output, charged = run_in(group, command)
    rows = {row["test"]: row for row in json.loads(output)["results"]}
    decode = rows[f"tg{args.generate}"]
    speeds = {test: row["tokens_per_second"] for test, row in rows.items()}
    paged = {
        "hits": decode.get("hit_rate", 1.0),
        "mb": decode.get("bytes_read_per_token", 0) / 1e6,
        "read": decode.get("bytes_read_per_token", 0) * decode["tokens_per_second"] / 1e9,
    }
    return speeds | paged | {"charged": charged / limit}


def peer(bench: Path, model: Path, limit: int, args: argparse.Namespace) -> dict[str, float]:
    with memory_cgroup(limit) as group:
        command = [str(bench), "-m", str(model), "-t", args.threads, "-p", args.prompt, "-n", args.generate,
                   "-r", "1", "-o", "json", "--repack", "0", "-lm", "mmap"]  # fmt: skip
        output, _ = run_in(group, command, os.environ | {"LD_LIBRARY_PATH": str(bench.parent)})
    return {f"{'pp' if r['n_prompt'] else 'tg'}{r['n_prompt'] or r['n_gen']}": r["avg_ts"] for r in json.loads(output)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="lfm2-24b-a2b", choices=PUBLISHED)
    parser.add_argument("--format", default="Q4_0", choices=FORMATS)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--limits", default="4G,6G,8G,12G")
    parser.add_argument("--threads", default="2")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("-p", "--prompt", default="128")
    parser.add_argument("-n", "--generate", default="64")
    parser.add_argument("--readahead", type=int, help="KiB; set for the disk while llama.cpp runs (it prefers 128)")
    parser.add_argument("--disk", default="vda", help="the disk of --readahead")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    bench, theirs = build_peer(args.work), prepare_peer(args.work, args.shape, args.format)
    recipe = FORMATS[args.format][2]
    model = args.work / f"{args.shape}-{recipe}"
    if not model.exists():
        synthesize(family_config(args.shape), model, find_recipe(recipe))
    setting = Path(f"/sys/block/{args.disk}/queue/read_ahead_kb")
    print("| limit | test | edge-lfm tok/s | llama.cpp tok/s | ratio | hits | MB a token | GB/s read | charged |")
    print("|---|---|---|---|---|---|---|---|---|")
    for limit in args.limits.split(","):
        rounds = []
        for _ in range(args.rounds):
            drop_cache(model / "model.safetensors", theirs)
            mine = ours(model, parse_size(limit), args)
            drop_cache(model / "model.safetensors", theirs)
            before = setting.read_text() if args.readahead else ""
            try:
                if args.readahead:
                    setting.write_text(str(args.readahead))
                rounds.append((mine, peer(bench, theirs, parse_size(limit), args)))
            finally:
                if args.readahead:
                    setting.write_text(before)
        for test in rounds[0][1]:
            a, b = (statistics.median(r[side][test] for r in rounds) for side in (0, 1))
            hits, mb, read, charged = (
                statistics.median(r[0][k] for r in rounds) for k in ("hits", "mb", "read", "charged")
            )
            cells = (
                f"{a:.2f}",
                f"{b:.2f}",
                f"{a / b:.2f}",
                f"{hits:.0%}",
                f"{mb:.0f}",
                f"{read:.2f}",
                f"{charged:.0%}",
            )
            print(f"| {limit} | {test} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
