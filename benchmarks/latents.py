"""Latent attention alone, at a depth: its share of the float32 multiply-add peak, and of the bandwidth.

    python benchmarks/latents.py --tokens 64 --depth 4096 --threads 1,2
    python benchmarks/latents.py --tokens 1 --depth 1000,8192 --layers 8 --heads 128 --kv-dtype int8

EDGE_LFM_ISA chooses the tier. The limits are measured in turn with attention; medians of rounds. Each step has caches
of its own, as the layers of a model have, `--layers` of them in turn. A latent counts as read once for each token.
"""

from __future__ import annotations

import argparse
import statistics
import time
from functools import partial

import numpy as np
from attention import rate_of

from edge_lfm.kernels.load.library import load_kernels
from edge_lfm.kernels.load.team import Team
from edge_lfm.kernels.spec.layout import CONTEXT, LATENT, LAYER, ROW, STATE, SYNC_BYTES, latent_scratch_bytes
from edge_lfm.model.kv_cache import make_caches
from edge_lfm.shape import LatentAttention, Rope

_PEAK_ROUNDS, _STREAM_BYTES, _PARTS_BYTES = 400_000, 256 << 20, 1 << 20
_RANK, _TURNED = 512, 64


class Work:
    """`tokens` tokens after `depth` positions, in caches of `layers` layers; the step's arrays."""

    def __init__(self, heads: int, kept: str, tokens: int, depth: int, layers: int, threads: int) -> None:
        rng, shape = np.random.default_rng(0), _shape(heads)
        self.kernels, self.team, self.layers = load_kernels(), Team(threads), layers
        self.caches = [make_caches(shape, -(-(depth + tokens) // 256) * 256, kept) for _ in range(layers)]
        states, rows, latent = np.zeros(layers, STATE), np.zeros(tokens, ROW), np.zeros(1, LATENT)
        for n, caches in enumerate(self.caches):
            for field, array in caches.items():
                integers = rng.integers(-127, 128, array.shape, np.int8)
                array[:] = (
                    1 / 127 if "scales" in field else integers / (1 if array.dtype == np.int8 else np.float32(127))
                )
                states[n][field] = array.ctypes.data
        states["capacity"], states["is_int8"] = self.caches[0]["values"].shape[1], kept == "int8"
        rows["position"], rows["states"] = depth + np.arange(tokens), states.ctypes.data
        width = heads * (shape.plain + _TURNED)
        latent["heads"], latent["rank"], latent["k_b"]["cols"] = heads, _RANK, shape.plain
        latent["scale"] = shape.scale
        self.layer = np.zeros(1, LAYER)
        self.layer["latent"], self.layer["rope_width"] = latent.ctypes.data, _TURNED
        self.layer["in_proj"]["rows"] = width
        values = heads * tokens * _RANK
        self.scratch_bytes = latent_scratch_bytes(_RANK) + _PARTS_BYTES
        self.arrays = {
            "rows": rows, "sync": np.zeros(SYNC_BYTES // 8, np.int64),
            "wide": rng.standard_normal((tokens, width), np.float32),
            "low_queries": rng.standard_normal(values, np.float32), "taken": np.zeros(values, np.float32),
            "taken_q": np.zeros(values, np.int8), "taken_s": np.zeros(values // 8, np.float32),
            "scratch": np.zeros(threads * self.scratch_bytes + 64, np.uint8),
        }  # fmt: skip
        self.context, self.held = np.zeros(1, CONTEXT), (states, latent)
        for field, array in self.arrays.items():
            self.context[field] = array.ctypes.data
        self.area = self.arrays["scratch"].ctypes.data + -self.arrays["scratch"].ctypes.data % 64
        self.context["scratch"], self.context["scratch_bytes"] = self.area, self.scratch_bytes
        self.context["tokens"], self.context["threads"] = tokens, threads
        seen = layers * (int(rows["position"].sum()) + tokens)
        self.flops = 2 * seen * heads * (2 * _RANK + _TURNED)
        self.read_bytes = seen * (_RANK + _TURNED) * (1 if kept == "int8" else 2)

    def run(self) -> float:
        """Seconds of all layers."""
        started = time.perf_counter()
        for n in range(self.layers):
            self.arrays["sync"][:] = 0
            self.team.run(partial(self._attend, n))
        return time.perf_counter() - started

    def _attend(self, layer: int, thread: int) -> None:
        area = self.area + thread * self.scratch_bytes
        self.kernels.attend_latents(self.context.ctypes.data, self.layer.ctypes.data, layer, area)

    def measure(self, rounds: int, stream: np.ndarray) -> tuple[float, float, float]:
        """Medians of seconds, of the share of the peak, and of that of the bandwidth."""
        lines, share = np.ones((self.team.count, 512), np.float32), len(stream) // self.team.count // 256 * 256
        operations, found = 2 * self.kernels.fma_many(lines.ctypes.data, _PEAK_ROUNDS), []
        self.run()
        for _ in range(rounds):
            peak = rate_of(
                lambda n: self.kernels.fma_many(lines.ctypes.data + n * lines.strides[0], _PEAK_ROUNDS),
                operations,
                self.team,
            )
            gbps = rate_of(lambda n: self.kernels.read_bytes(stream.ctypes.data + n * share, share), share, self.team)
            seconds = self.run()
            found.append((seconds, self.flops / seconds / peak, self.read_bytes / seconds / gbps))
        seconds, of_peak, of_bandwidth = (statistics.median(column) for column in zip(*found, strict=True))
        return seconds, of_peak, of_bandwidth


def _shape(heads: int) -> LatentAttention:
    return LatentAttention(heads, None, _RANK, 32, 32, Rope(1e4, _TURNED), 1e-6, 0.05, interleaved=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heads", type=int, default=20)
    parser.add_argument("--kv-dtype", default="float16,int8")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--depth", default="4096")
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--threads", default="1")
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    stream = np.ones(_STREAM_BYTES, np.uint8)
    print("| cache | depth | tokens | threads | ms | of the peak | of the bandwidth |\n|---|---|---|---|---|---|---|")
    for threads in (int(n) for n in args.threads.split(",")):
        for depth in (int(n) for n in args.depth.split(",")):
            for kept in args.kv_dtype.split(","):
                work = Work(args.heads, kept, args.tokens, depth, args.layers, threads)
                seconds, peak, gbps = work.measure(args.rounds, stream)
                cells = [kept, depth, args.tokens, threads, f"{seconds * 1e3:.2f}", f"{peak:.0%}", f"{gbps:.0%}"]
                print(f"| {' | '.join(map(str, cells))} |", flush=True)


if __name__ == "__main__":
    main()
