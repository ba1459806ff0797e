"""How long a whole quantization takes beside what the disk and the arithmetic allow, and in how much memory.

    python benchmarks/quantizer.py --shape lfm2-24b-a2b --work DIR [--recipe balanced]

Writes a checkpoint of the shape with random bfloat16 weights (47.7 GB for the 24B), then, with a cold page cache:
reads a part of it (the disk's limit), encodes weights that are in memory on all threads (the arithmetic's limit), and
runs `edge-lfm quantize` in a process of its own. Needs room for the checkpoint and the packed model.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from edge_lfm.architectures import read_shape
from edge_lfm.formats.safetensors import header_bytes
from edge_lfm.kernels.load.library import load_kernels
from edge_lfm.kernels.spec.schemes import SCHEMES
from edge_lfm.machine.processors import choose_threads
from edge_lfm.model.plan import Source, plan_tensors
from edge_lfm.quantize.families import family_config
from edge_lfm.quantize.pack import encode
from edge_lfm.quantize.recipe import Recipe, find_recipe

SHARD_BYTES = 5_000_000_000
POOL = 1 << 26
SAMPLE_BYTES = 4 << 30


def shards(sources: list[Source]) -> Iterator[list[Source]]:
    """Sources in files of about five gigabytes, as on the hub."""
    shard, size = [], 0
    for source in sources:
        shard.append(source)
        size += 2 * int(np.prod(source.shape))
        if size > SHARD_BYTES:
            yield shard
            shard, size = [], 0
    if shard:
        yield shard


def write_checkpoint(shape: str, folder: Path) -> None:
    """Random weights of a published shape: slices of one pool of Gaussian values, each from another place."""
    raw = family_config(shape)
    shape = read_shape(raw)
    sources = [s for p in plan_tensors(shape, find_recipe("balanced").schemes) for s in p.sources]
    rng = np.random.default_rng(0)
    pool = (rng.standard_normal(POOL, np.float32) * np.float32(0.02)).view(np.uint32) >> 16
    pool = np.concatenate([pool, pool]).astype(np.uint16)
    folder.mkdir(parents=True)
    weight_map = {}
    groups = list(shards(sources))
    for n, shard in enumerate(groups):
        name = f"model-{n + 1:05}-of-{len(groups):05}.safetensors"
        header, _ = header_bytes([(s.name, "BF16", s.shape) for s in shard], {})
        with (folder / name).open("wb") as file:
            file.write(header)
            for source in shard:
                left = int(np.prod(source.shape))
                while left:
                    count, at = min(left, POOL), int(rng.integers(POOL))
                    file.write(pool[at : at + count].data)
                    left -= count
                weight_map[source.name] = name
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (folder / "config.json").write_text(json.dumps(raw))


def drop_cache(folder: Path) -> None:
    for path in folder.glob("*.safetensors"):
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def disk_rate(folder: Path) -> float:
    """Bytes per second of a cold sequential read."""
    path = max(folder.glob("*.safetensors"), key=lambda p: p.stat().st_size)
    buffer, done, started = bytearray(16 << 20), 0, time.perf_counter()
    with path.open("rb", buffering=0) as file:
        while done < SAMPLE_BYTES and (count := file.readinto(buffer)):
            done += count
    return done / (time.perf_counter() - started)


def arithmetic_rate(recipe: Recipe, threads: int) -> float:
    """Expert weights per second that the encoder does on all threads, from and to memory."""
    scheme, kernels = SCHEMES[recipe.schemes.by_class["experts"]], load_kernels()
    values = np.random.default_rng(0).standard_normal((1536, 2048), np.float32)
    stored = (values.view(np.uint32) >> 16).astype(np.uint16)
    rounds, started = 6 * threads, time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda _n: encode(stored, scheme, kernels, recipe.plain), range(rounds)))
    return rounds * values.size / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="lfm2-24b-a2b")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--recipe", default="balanced")
    args = parser.parse_args()
    source, output = args.work / f"{args.shape}-bf16", args.work / f"{args.shape}-{args.recipe}"
    if not source.exists():
        write_checkpoint(args.shape, source)
    nbytes, threads = sum(p.stat().st_size for p in source.glob("*.safetensors")), choose_threads(None)
    os.sync()
    drop_cache(source)
    disk, arithmetic = disk_rate(source), arithmetic_rate(find_recipe(args.recipe), threads)
    drop_cache(source)
    command = [sys.executable, "-P", "-m", "edge_lfm.cli.main", "quantize", str(source), "-o", str(output)]
    command += ["--recipe", args.recipe, "--force", "--json"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    report = json.loads(done.stdout)
    limits = {"disk": nbytes / disk, "arithmetic": report["size"]["parameters"] / arithmetic}
    print(f"{nbytes / 1e9:.1f} GB; disk {disk / 1e9:.2f} GB/s, {threads} threads: {arithmetic / 1e6:.0f} M weights/s")
    print(f"limits: disk {limits['disk']:.0f} s, arithmetic {limits['arithmetic']:.0f} s")
    print(f"quantize: {report['seconds']:.0f} s, {max(limits.values()) / report['seconds']:.0%} of the slower limit")
    print(f"peak resident memory {report['peak_memory_bytes'] / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
