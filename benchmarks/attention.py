"""Attention alone, at a depth: its share of the float32 multiply-add peak, or of the bandwidth, on one thread or more.

    python benchmarks/attention.py --tokens 64 --depth 8192 --rounds 9
    python benchmarks/attention.py --tokens 1 --depth 8192,32768 --threads 1,2

EDGE_LFM_ISA chooses the tier. Keys and values are random and as many as `--depth`; the tokens follow them. Peak and
bandwidth are measured in turn with attention, so that a slow minute of a shared machine hits all; medians of rounds.
A token alone reads more than it computes: its share is of the bandwidth. Each step has caches of its own, as the layers
of a model have, `--layers` of them in turn.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_lfm.kernels.load.library import load_kernels
from edge_lfm.kernels.load.team import Team
from edge_lfm.kernels.spec.layout import CONTEXT, LAYER, ROW, STATE, SYNC_BYTES, attention_scratch_bytes, scratch_bytes
from edge_lfm.model.kv_cache import make_caches
from edge_lfm.shape import Attention

_PEAK_ROUNDS, _STREAM_BYTES = 400_000, 256 << 20


class Work:
    """`tokens` tokens after `depth` positions, in caches of `layers` layers; the step's arrays."""

    def __init__(self, shape: Attention, kv_dtype: str, tokens: int, depth: int, layers: int, threads: int) -> None:
        rng, mixed = np.random.default_rng(0), shape.heads * shape.width
        self.shape, self.kv_dtype, self.tokens = shape, kv_dtype, tokens
        self.kernels, self.team = load_kernels(), Team(threads)
        self.kept: list[dict[str, NDArray[Any]]] = []
        self.states = np.zeros(layers, STATE)
        for n in range(layers):
            self._fill(n, rng, -(-(depth + tokens) // 256) * 256)
        self.layer, self.sync = np.zeros(1, LAYER), np.zeros(SYNC_BYTES // 8, np.int64)
        self.layer["heads"], self.layer["kv_heads"], self.layer["head_dim"] = shape.heads, shape.kv_heads, shape.width
        rows = np.zeros(tokens, ROW)
        rows["position"], rows["states"] = depth + np.arange(tokens), self.states.ctypes.data
        wide = rng.standard_normal((tokens, (shape.heads + 2 * shape.kv_heads) * shape.width)).astype(np.float32)
        arrays: dict[str, NDArray[Any]] = {
            "rows": rows, "wide": wide, "sync": self.sync,
            "mixed": np.zeros((tokens, mixed), np.float32), "mixed_q": np.zeros((tokens, mixed), np.int8),
            "mixed_s": np.zeros((tokens, mixed // 8), np.float32),
        }  # fmt: skip
        self.scratch_bytes = max(attention_scratch_bytes(shape.width), scratch_bytes(mixed)) + 63 & -64
        self.scratch = np.zeros(threads * self.scratch_bytes + 64, np.uint8)
        self.area = self.scratch.ctypes.data + -self.scratch.ctypes.data % 64
        self.context = np.zeros(1, CONTEXT)
        self.context["scratch"], self.context["scratch_bytes"] = self.area, self.scratch_bytes
        self.context["tokens"], self.context["threads"] = tokens, threads
        for field, array in arrays.items():
            self.context[field] = array.ctypes.data
        self.kept.append(arrays)

    def _fill(self, n: int, rng: np.random.Generator, capacity: int) -> None:
        caches = make_caches(self.shape, capacity, self.kv_dtype)
        for field, array in caches.items():
            if array.dtype == np.int8:
                array[:] = rng.integers(-127, 128, array.shape, np.int8)
            else:
                array[:] = rng.random(array.shape, np.float32) / (64 if "scales" in field else 1)
            self.states[n][field] = array.ctypes.data
        self.states[n]["capacity"], self.states[n]["is_int8"] = capacity, self.kv_dtype == "int8"
        self.kept.append(caches)

    def run(self) -> float:
        """Seconds of all layers."""
        started = time.perf_counter()
        for n in range(len(self.states)):
            self.sync[:] = 0
            self.team.run(partial(self._attend, n))
        return time.perf_counter() - started

    def _attend(self, layer: int, thread: int) -> None:
        area = self.area + thread * self.scratch_bytes
        self.kernels.attend_tokens(self.context.ctypes.data, self.layer.ctypes.data, layer, area)

    @property
    def flops(self) -> int:
        """Of the products of queries and keys, and of weights and values."""
        positions = int(self.kept[-1]["rows"]["position"].sum()) + self.tokens
        return 4 * positions * self.shape.heads * self.shape.width * len(self.states)

    @property
    def read_bytes(self) -> int:
        """Of keys, values and scales up to the last token, read once."""
        each = 2 * self.shape.width + 8 if self.kv_dtype == "int8" else 4 * self.shape.width
        return (int(self.kept[-1]["rows"]["position"][-1]) + 1) * self.shape.kv_heads * each * len(self.states)


def rate_of(work: Callable[[int], object], amount: int, team: Team) -> float:
    """`amount` a thread, by the second, of all threads together."""
    started = time.perf_counter()
    team.run(work)
    return amount * team.count / (time.perf_counter() - started)


def measure(attention: Work, rounds: int, stream: NDArray[np.uint8]) -> tuple[float, float]:
    """Medians of seconds, and of the share of what bounds it."""
    kernels, team = attention.kernels, attention.team
    lines, share = np.ones((team.count, 512), np.float32), len(stream) // team.count // 256 * 256
    seconds, shares = [], []
    operations = 2 * kernels.fma_many(lines.ctypes.data, _PEAK_ROUNDS)
    attention.run()
    for _ in range(rounds):
        if attention.tokens == 1:
            limit = rate_of(lambda n: kernels.read_bytes(stream.ctypes.data + n * share, share), share, team)
            done = attention.read_bytes
        else:
            limit = rate_of(
                lambda n: kernels.fma_many(lines.ctypes.data + n * lines.strides[0], _PEAK_ROUNDS), operations, team
            )
            done = attention.flops
        seconds.append(attention.run())
        shares.append(done / seconds[-1] / limit)
    return statistics.median(seconds), statistics.median(shares)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heads", default="32,8,64", help="query heads, heads of keys, values of a head")
    parser.add_argument("--kv-dtype", default="float16,int8")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--depth", default="8192")
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--threads", default="1")
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    stream = np.ones(_STREAM_BYTES, np.uint8)
    heads, kv, width = (int(n) for n in args.heads.split(","))
    shape = Attention(heads, kv, width, None, "none")
    limit = "bandwidth" if args.tokens == 1 else "peak"
    print(f"| cache | depth | tokens | threads | ms | share of the {limit} |\n|---|---|---|---|---|---|")
    for threads in (int(n) for n in args.threads.split(",")):
        for depth in (int(n) for n in args.depth.split(",")):
            for kept in args.kv_dtype.split(","):
                work = Work(shape, kept, args.tokens, depth, args.layers, threads)
                seconds, share = measure(work, args.rounds, stream)
                print(
                    f"| {kept} | {depth} | {args.tokens} | {threads} | {seconds * 1e3:.2f} | {share:.0%} |", flush=True
                )


if __name__ == "__main__":
    main()
