"""Measuring prefill and decode, in llama-bench's spirit, with the hardware's own limits beside them.

Read bandwidth and int8 peak are measured right before and after each test, with the instructions that the
kernels use and the same threads: on shared machines they change within minutes, so only the shares travel.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_lfm.engine.generate import prefill
from edge_lfm.engine.runner import Runner
from edge_lfm.memory.budget import peak_memory_bytes
from edge_lfm.model.packed_model import PackedModel
from edge_lfm.model.sizes import measure_sizes
from edge_lfm.model.state import State

_STREAM_BYTES = 512 << 20  # far beyond any last-level cache
_PEAK_ROUNDS = 1_000_000
_OPS_PER_ROUND = 2 * 16 * 12 * 4  # rows x tokens x columns of measure.dot_many


@dataclass(frozen=True)
class TestResult:
    """One test: `pp512` is a prefill of 512 tokens, `tg128` a decode of 128, after `depth` tokens."""

    test: str
    depth: int
    seconds: tuple[float, ...]
    tokens: int
    read_gbps: float
    int8_gops: float


@dataclass(frozen=True)
class BenchReport:
    """All tests of one model with one number of threads."""

    model: str
    isa: str
    threads: int
    bytes_per_token: int
    ops_per_token: int  # of a prefill, which needs the head for its last token only
    peak_memory_bytes: int
    results: tuple[TestResult, ...]

    def rows(self) -> list[dict[str, Any]]:
        """One JSON-ready row per test, medians and spread."""
        return [self._row(result) for result in self.results]

    def _row(self, result: TestResult) -> dict[str, Any]:
        rates = [result.tokens / s for s in result.seconds]
        rate = statistics.median(rates)
        decode = result.test.startswith("tg")
        read, work = rate * self.bytes_per_token / 1e9, rate * self.ops_per_token / 1e9
        return {
            "test": result.test,
            "depth": result.depth,
            "threads": self.threads,
            "tokens_per_second": rate,
            "min": min(rates),
            "max": max(rates),
            "isa": self.isa,
            "model": self.model,
            "bytes_per_token": self.bytes_per_token,
            "read_gbps": result.read_gbps,
            "int8_gops": result.int8_gops,
            "bound": "bandwidth" if decode else "compute",
            "share_of_limit": read / result.read_gbps if decode else work / result.int8_gops,
            "peak_memory_bytes": self.peak_memory_bytes,
        }


def measure(
    model: PackedModel,
    runner: Runner,
    prompts: list[int],
    generates: list[int],
    depths: list[int],
    repeat: int,
    announce: Callable[[str], object],
) -> BenchReport:
    """Run every test `repeat` times, after one run that does not count."""
    rng = np.random.default_rng(0)
    stream = np.ones(_STREAM_BYTES, np.uint8)
    config = model.config
    limit = config.vocab_size
    sizes = measure_sizes(config, list(model.pieces.values()))
    results = []
    for depth in depths or [0]:
        tests = [("pp", n) for n in prompts] + [("tg", n) for n in generates]
        for kind, tokens in tests:
            announce(f"{kind}{tokens} after {depth} tokens, {runner.team.count} threads ...")
            ids = rng.integers(0, limit, depth + tokens)
            state = State(config, depth + tokens + 1)
            seconds, bandwidth, peak = [], [], []
            for n in range(repeat + 1):
                elapsed = _run_once(runner, state, ids, depth, kind == "tg")
                if n:
                    seconds.append(elapsed)
                    bandwidth.append(read_bandwidth(runner, stream))
                    peak.append(int8_peak(runner))
            results.append(
                TestResult(
                    f"{kind}{tokens}",
                    depth,
                    tuple(seconds),
                    tokens,
                    statistics.median(bandwidth),
                    statistics.median(peak),
                )
            )
    return BenchReport(
        model.folder.name,
        runner.kernels.isa.name,
        runner.team.count,
        sizes.bytes_per_token,
        2 * (sizes.active_parameters - config.vocab_size * config.hidden_size),
        peak_memory_bytes() - _STREAM_BYTES,
        tuple(results),
    )


def read_bandwidth(runner: Runner, stream: NDArray[np.uint8]) -> float:
    """GB/s of reading memory front to back with the runner's threads."""
    share = stream.nbytes // runner.team.count // 256 * 256
    started = time.perf_counter()
    runner.team.run(lambda n: runner.kernels.read_bytes(stream.ctypes.data + n * share, share))
    return share * runner.team.count / (time.perf_counter() - started) / 1e9


def int8_peak(runner: Runner) -> float:
    """GOPS of the tier's integer dot product from one cache line, with the runner's threads."""
    line = np.ones(64, np.uint8)
    started = time.perf_counter()
    runner.team.run(lambda n: runner.kernels.dot_many(line.ctypes.data, _PEAK_ROUNDS))
    return runner.team.count * _PEAK_ROUNDS * _OPS_PER_ROUND / (time.perf_counter() - started) / 1e9


def _run_once(runner: Runner, state: State, ids: NDArray[np.int64], depth: int, decode: bool) -> float:
    state.reset()
    if depth:
        prefill(runner, state, ids[:depth].tolist())
    started = time.perf_counter()
    if decode:
        for token in ids[depth:]:
            runner.run(np.array([token]), state)
    else:
        prefill(runner, state, ids[depth:].tolist())
    return time.perf_counter() - started
