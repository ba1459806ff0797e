"""A model at depth: prefill of a chunk and decode after so many tokens, in turn with both at the start.

    python benchmarks/depth.py MODEL --depth 8192,32768 --threads 1,2 --rounds 5

Prints medians of tokens per second, the median ratio to the rate at 0 of the same round, and for decode the share of
the bandwidth, measured in each round, that weights, keys and values take. The context is not read: its keys and values
are zeros, which attention takes as long for, so that a round takes seconds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import numpy as np

from edge_lfm.api import Model
from edge_lfm.engine.feeds import Feed
from edge_lfm.engine.runner import Runner
from edge_lfm.measure.bench import read_bandwidth
from edge_lfm.memory.caches import kv_read_bytes
from edge_lfm.model.packed_model import PackedModel
from edge_lfm.model.sizes import measure_sizes
from edge_lfm.model.state import State

_STREAM_BYTES = 512 << 20


class Place:
    """A sequence of `depth` tokens that were not read."""

    def __init__(self, runner: Runner, depth: int, chunk: int, decode: int, kv_dtype: str) -> None:
        self.runner, self.depth, self.chunk, self.decode = runner, depth, chunk, decode
        self.state: State = runner.new_state(depth + chunk + decode, kv_dtype)
        self.state.reserve(depth + chunk + decode)
        for array in self.state.caches.values():
            array[:] = 0  # pages of their own, not all the same one
        self.ids = np.random.default_rng(0).integers(0, runner.shape.vocab, chunk + decode).tolist()
        self.prefill_rates: list[float] = []
        self.decode_rates: list[float] = []
        self.shares: list[float] = []

    def forget(self) -> None:
        """Drop the rounds so far."""
        self.prefill_rates, self.decode_rates, self.shares = [], [], []

    def run(self, bytes_per_token: int, gbps: float) -> None:
        """One round: the chunk, then a token at a time."""
        self.state.reset()
        self.state.position = self.depth
        started = time.perf_counter()
        self.runner.read(self.ids[: self.chunk], self.state)
        read = time.perf_counter()
        for token in self.ids[self.chunk :]:
            self.runner.run([Feed(self.state, (token,))])
        rate = self.decode / (time.perf_counter() - read)
        self.prefill_rates.append(self.chunk / (read - started))
        self.decode_rates.append(rate)
        kept = kv_read_bytes(self.runner.shape, self.depth + self.chunk + self.decode // 2, self.state.kv_dtype)
        self.shares.append(rate * (bytes_per_token + kept) / 1e9 / gbps)


def measure(model: Path, threads: int, depths: list[int], args: argparse.Namespace) -> None:
    with Model.load(model, threads=threads, context=max(depths) + args.prompt + args.generate) as loaded:
        runner, packed = loaded.backend, loaded.files
        assert isinstance(runner, Runner) and isinstance(packed, PackedModel)
        stream, sizes = np.ones(_STREAM_BYTES, np.uint8), measure_sizes(runner.shape, list(packed.tensors.values()))
        places = [Place(runner, depth, args.prompt, args.generate, args.kv_dtype) for depth in (0, *depths)]
        places[0].run(1, 1.0)  # the weights come into memory
        places[0].forget()
        for _ in range(args.rounds):
            for place in places:
                place.run(sizes.bytes_per_token, read_bandwidth(runner, stream))
    start = places[0]
    for place in places:
        ratio = statistics.median(a / b for a, b in zip(place.prefill_rates, start.prefill_rates, strict=True))
        prefill, decode = statistics.median(place.prefill_rates), statistics.median(place.decode_rates)
        share = statistics.median(place.shares)
        print(f"| {place.depth} | {threads} | {prefill:.1f} | {ratio:.0%} | {decode:.1f} | {share:.0%} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("-d", "--depth", default="8192")
    parser.add_argument("-p", "--prompt", type=int, default=512)
    parser.add_argument("-n", "--generate", type=int, default=16)
    parser.add_argument("--kv-dtype", choices=("float16", "int8"), default="float16")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    print("| depth | threads | prefill tok/s | of that at 0 | decode tok/s | share of the bandwidth |")
    print("|---|---|---|---|---|---|")
    for threads in args.threads.split(","):
        measure(args.model, int(threads), [int(n) for n in args.depth.split(",")], args)


if __name__ == "__main__":
    main()
