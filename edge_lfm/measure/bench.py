"""Measuring prefill and decode, in llama-bench's spirit, with the hardware's own limits beside them.

Read bandwidth and int8 peak are measured right before and after each test, with the instructions that the
kernels use and the same threads: on shared machines they change within minutes, so only the shares travel.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_lfm.engine.backend import Backend
from edge_lfm.engine.drafts import MAX_DRAFTS, decode_with_drafts
from edge_lfm.engine.feeds import Feed, run_alone
from edge_lfm.engine.generate import Timings
from edge_lfm.engine.model_drafter import model_drafter
from edge_lfm.engine.runner import Runner
from edge_lfm.engine.sampling import Sampler, SamplingOptions
from edge_lfm.engine.sequence import TokenSequence
from edge_lfm.kernels.load.library import Kernels
from edge_lfm.kernels.load.team import Team
from edge_lfm.memory.budget import peak_memory_bytes
from edge_lfm.memory.caches import kv_read_bytes
from edge_lfm.memory.paging import ExpertPager, PagingStats
from edge_lfm.model.onnx_model import OnnxModel
from edge_lfm.model.packed_model import PackedModel
from edge_lfm.model.sizes import measure_sizes
from edge_lfm.model.state import Checkpoint, State

_STREAM_BYTES = 512 << 20  # far beyond any last-level cache
_PROBE_SLOTS = 8
_PEAK_ROUNDS = 250_000
_MEASURING_ERROR = 0.1


@dataclass(frozen=True)
class TestResult:
    """One test: `pp512` is a prefill of 512 tokens, `tg128` a decode of 128, after `depth` tokens; `draft128`: with
    drafts."""

    test: str
    depth: int
    seconds: tuple[float, ...]
    tokens: int
    read_gbps: float  # 0: not measured
    int8_gops: float
    kv_bytes: int = 0  # keys and values that a token of a decode reads, on the average
    paging: PagingStats | None = None  # of the runs that count


@dataclass(frozen=True)
class BenchReport:
    """All tests of one model with one number of threads and one budget; `storage_gbps`: of random reads of experts."""

    model: str
    ram: str
    isa: str
    threads: int
    bytes_per_token: int  # 0: not known, as of a graph of onnxruntime
    ops_per_token: int  # of a prefill, which needs the head for its last token only
    peak_memory_bytes: int
    storage_gbps: float | None
    results: tuple[TestResult, ...]

    def rows(self) -> list[dict[str, Any]]:
        """One JSON-ready row per test, medians and spread."""
        return [self._row(result) for result in self.results]

    def _row(self, result: TestResult) -> dict[str, Any]:
        rates = [result.tokens / s for s in result.seconds]
        rate = statistics.median(rates)
        return self._limit(result, rate) | {
            "ram": self.ram,
            "test": result.test,
            "depth": result.depth,
            "threads": self.threads,
            "tokens_per_second": rate,
            "min": min(rates),
            "max": max(rates),
            "isa": self.isa,
            "model": self.model,
            "bytes_per_token": self.bytes_per_token,
            "peak_memory_bytes": self.peak_memory_bytes,
        }

    def _limit(self, result: TestResult, rate: float) -> dict[str, Any]:
        """What bounds the test, and the share of it that was reached."""
        if result.paging is not None and self.storage_gbps is not None:
            seconds = sum(result.seconds)
            return {
                "bound": "storage",
                "storage_gbps": self.storage_gbps,
                "share_of_limit": result.paging.bytes_read / seconds / 1e9 / self.storage_gbps,
                "hit_rate": result.paging.hit_rate,
                "bytes_read_per_token": result.paging.bytes_read / (result.tokens * len(result.seconds)),
                "stall_share": float(result.paging.stall_s.sum()) / seconds,
            }
        if not self.bytes_per_token:
            return {"bound": None}
        hardware = {"read_gbps": result.read_gbps, "int8_gops": result.int8_gops}
        if not result.test.startswith("pp"):
            share = rate * (self.bytes_per_token + result.kv_bytes) / 1e9 / result.read_gbps
            return hardware | {"bound": "bandwidth", "kv_bytes_per_token": result.kv_bytes, "share_of_limit": share}
        share = rate * self.ops_per_token / 1e9 / result.int8_gops
        return hardware | {"bound": "compute", "share_of_limit": share}


def in_cache(row: dict[str, Any]) -> bool:
    """Whether a test's weights came from a cache: faster than memory gives them, by more than a measurement errs."""
    return bool(row["bound"] == "bandwidth" and row["share_of_limit"] > 1 + _MEASURING_ERROR)


def measure(
    model: PackedModel | OnnxModel,
    backend: Backend,
    prompts: list[int],
    generates: list[int],
    depths: list[int],
    repeat: int,
    announce: Callable[[str], object],
    ram: str = "all",
) -> BenchReport:
    """Run every test `repeat` times, after one run that does not count. The context before a test is read once."""
    rng, pager = np.random.default_rng(0), backend.pager
    own = backend if isinstance(backend, Runner) and pager is None else None  # a budget has no room for the stream
    stream = np.ones(_STREAM_BYTES if own else 0, np.uint8)
    storage = None if pager is None else storage_rate(pager)
    shape = model.shape
    limit = shape.vocab
    sizes = measure_sizes(shape, list(model.tensors.values())) if isinstance(model, PackedModel) else None
    results = []
    for depth in depths or [0]:
        tests = [("pp", n) for n in prompts] + [("tg", n) for n in generates]
        tests += [("draft", n) for n in generates if backend.drafting is not None]
        for kind, tokens in tests:
            announce(f"{kind}{tokens} after {depth} tokens, {backend.threads} threads ...")
            ids = rng.integers(0, limit, depth + tokens)
            state = backend.new_state(depth + tokens + 1)
            seconds, bandwidth, peak = [], [], []
            before, start = None, _read_context(backend, state, ids[:depth])
            for n in range(repeat + 1):
                if n == 1 and pager is not None:
                    before = pager.stats.copy()
                elapsed = _run_once(backend, state, start, ids, kind)
                if n:
                    seconds.append(elapsed)
                    bandwidth.append(read_bandwidth(own, stream) if own else 0.0)
                    peak.append(int8_peak(own) if own else 0.0)
            results.append(
                TestResult(
                    f"{kind}{tokens}",
                    depth,
                    tuple(seconds),
                    tokens,
                    statistics.median(bandwidth),
                    statistics.median(peak),
                    0 if kind == "pp" else kv_read_bytes(shape, depth + tokens // 2, state.kv_dtype),
                    pager.stats.since(before) if pager is not None and before is not None else None,
                )
            )
    return BenchReport(
        model.folder.name,
        ram,
        backend.name,
        backend.threads,
        sizes.bytes_per_token if sizes else 0,
        2 * (sizes.active_parameters - shape.vocab * shape.hidden) if sizes else 0,
        peak_memory_bytes() - stream.nbytes,
        storage,
        tuple(results),
    )


def storage_rate(pager: ExpertPager) -> float:
    """GB/s of reading experts in random order, as many at a time as the pager does."""
    rng, slots = np.random.default_rng(0), pager.residency.free[-_PROBE_SLOTS:]
    places = [(n, int(e)) for n in pager.offsets for e in rng.permutation(len(pager.offsets[n]))[:2]]
    rng.shuffle(places)
    started = time.perf_counter()
    for first in range(0, len(places), len(slots)):
        reads = [
            pager.store.begin(slot, int(pager.offsets[n][e]))[1]
            for (n, e), slot in zip(places[first : first + len(slots)], slots, strict=False)
        ]
        for read in reads:
            read.result()
    return len(places) * pager.store.block_bytes / (time.perf_counter() - started) / 1e9


class Working(Protocol):
    """A team and kernels: a runner, or both without a model."""

    @property
    def team(self) -> Team: ...

    @property
    def kernels(self) -> Kernels: ...


def read_bandwidth(runner: Working, stream: NDArray[np.uint8]) -> float:
    """GB/s of reading memory front to back with the runner's threads."""
    share = stream.nbytes // runner.team.count // 256 * 256
    started = time.perf_counter()
    runner.team.run(lambda n: runner.kernels.read_bytes(stream.ctypes.data + n * share, share))
    return share * runner.team.count / (time.perf_counter() - started) / 1e9


def int8_peak(runner: Working) -> float:
    """GOPS of the tier's integer dot product from four cache lines, with the runner's threads."""
    lines = np.ones(256, np.uint8)
    operations = 2 * runner.kernels.dot_many(lines.ctypes.data, 1)
    started = time.perf_counter()
    runner.team.run(lambda n: runner.kernels.dot_many(lines.ctypes.data, _PEAK_ROUNDS))
    return runner.team.count * _PEAK_ROUNDS * operations / (time.perf_counter() - started) / 1e9


def _read_context(backend: Backend, state: State, ids: NDArray[np.int64]) -> Checkpoint:
    """Read `ids` without a drafter; gives the place behind them."""
    looking_on, state.draft = state.draft, None
    try:
        if len(ids):
            backend.read(ids.tolist(), state)
    finally:
        state.draft = looking_on
    return state.with_window(state.checkpoint())


def _run_once(backend: Backend, state: State, start: Checkpoint, ids: NDArray[np.int64], kind: str) -> float:
    depth = start.position
    if kind == "draft":
        state.reset()  # a drafter looks on from the first token
        return _draft_once(backend, state, ids, depth)
    state.go_back(start)
    looking_on, state.draft = state.draft, None
    try:
        return _run_plain(backend, state, ids[depth:], kind)
    finally:
        state.draft = looking_on


def _run_plain(backend: Backend, state: State, ids: NDArray[np.int64], kind: str) -> float:
    started = time.perf_counter()
    if kind == "tg":
        for token in ids:
            backend.run([Feed(state, (token,))])
    else:
        backend.read(ids.tolist(), state)
    return time.perf_counter() - started


def _draft_once(backend: Backend, state: State, ids: NDArray[np.int64], depth: int) -> float:
    """Seconds of a greedy answer of as many tokens as `ids` has after `depth`, with as many drafts as pay."""
    sequence, prompt = TokenSequence(state), ids[: max(1, depth)].tolist()
    logits = backend.read(prompt, state)
    sequence.ids.extend(prompt)
    drafter = model_drafter(backend, sequence, None)
    sampler = Sampler(SamplingOptions(temperature=0), len(logits), prompt)
    assert drafter is not None
    tokens, started = len(ids) - depth, time.perf_counter()
    decoding = decode_with_drafts(
        sequence, logits, sampler, (), tokens, Timings(), lambda *_: True, drafter, MAX_DRAFTS
    )
    run_alone(decoding, backend.run, backend.draft)
    return time.perf_counter() - started
