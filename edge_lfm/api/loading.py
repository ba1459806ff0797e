"""Opening a model: which backend, whether it fits, whether experts are paged, how much is kept of earlier prompts.

Knows files, budgets and backends; does not know how requests are answered.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edge_lfm.api.load_options import LoadOptions
from edge_lfm.engine.backend import Backend
from edge_lfm.engine.onnx_runner import OnnxRunner
from edge_lfm.engine.paged import kv_cache_bytes, paged_runner
from edge_lfm.engine.runner import Runner
from edge_lfm.errors import UsageError
from edge_lfm.kernels.load.library import load_kernels
from edge_lfm.machine.processors import (
    GrantedProcessors,
    choose_threads,
    granted_processors,
    physical_cores,
    stated_threads,
)
from edge_lfm.memory.budget import Budget
from edge_lfm.model.onnx_model import OnnxModel, is_onnx
from edge_lfm.model.packed_model import PackedModel
from edge_lfm.model.sizes import measure_sizes
from edge_lfm.shape import Shape

DEFAULT_CONTEXT = 32768
"""What the cards of LFM2 state; the configs' 128,000 is the positions' range."""
PAGED_CONTEXT = 4096
"""When experts are paged, every token of context takes memory from them: 20 KB a token in the 24B. Also the least that
a model is given by itself when memory is short."""
DEFAULT_PARALLEL = 4
_OVERHEAD_BYTES = 200 << 20  # interpreter, scratch: a bench of the 24B peaked 0.20 GB above its file
_BYTES_PER_THREAD = 8 << 20
"""Weights that a token must read for each further thread to pay: 0.3 ms of one core, against 0.2 ms to wake and
join a thread. The demo model (3 MB a token) decodes 3 times faster with one thread than with two."""
_MOST_CACHE_BYTES = 2 << 30


@dataclass(frozen=True)
class Loaded:
    """An open model, ready to run steps. `cache_bytes`: for what earlier prompts left; `parallel`: answers that take
    turns."""

    files: PackedModel | OnnxModel
    backend: Backend
    context: int
    kv_dtype: str
    cache_bytes: int
    parallel: int

    def close(self) -> None:
        self.backend.close()
        self.files.close()


def load_model(options: LoadOptions) -> Loaded:
    """Open a model.

    Raises:
        EdgeLfmError: as `Model.load`.
    """
    backend = options.backend
    folder = Path(options.path) if options.path is not None else _demo(backend)
    if backend == "onnxruntime" or (backend is None and is_onnx(folder)):
        return _load_onnx(folder, options)
    if is_onnx(folder):
        raise UsageError(f"{folder} is an exported graph, which onnxruntime runs", hint="leave the backend out")
    packed = PackedModel(folder)
    try:
        return _load_packed(packed, options)
    except BaseException:
        packed.close()
        raise


def _demo(backend: str | None) -> Path:
    from edge_lfm.demo import exported_demo, packed_demo

    return exported_demo() if backend == "onnxruntime" else packed_demo()


def _load_packed(packed: PackedModel, wanted: LoadOptions) -> Loaded:
    """Wholly in memory if it fits, with experts paged otherwise."""
    _check_context(wanted.context, packed.shape)
    threads, positions = stated_threads(wanted.threads), packed.shape.context
    if threads is None:
        sizes = measure_sizes(packed.shape, list(packed.tensors.values()))
        threads = min(physical_cores(), 1 + sizes.bytes_per_token // _BYTES_PER_THREAD)
    budget, needed = Budget.of(wanted.ram), packed.nbytes + _OVERHEAD_BYTES
    token_bytes = kv_cache_bytes(packed.shape, 1, wanted.kv_dtype)
    context, parallel, kv_bytes = _conversations(wanted, packed.shape, budget, needed, token_bytes)
    if needed + kv_bytes + (wanted.cache_bytes or 0) <= budget.nbytes:
        runner = Runner(packed, load_kernels(), threads, processors=GrantedProcessors())
        cache_bytes = _cache_bytes(wanted, budget, needed)
        return Loaded(packed, runner, context, wanted.kv_dtype, cache_bytes, parallel)
    if not packed.shape.experts:
        needed += kv_bytes + (wanted.cache_bytes or 0)
        raise budget.refuse(needed, "a smaller model or --context, or a recipe with fewer bits")
    context = wanted.context or min(PAGED_CONTEXT, positions)
    kv_bytes = kv_cache_bytes(packed.shape, context, wanted.kv_dtype)
    cache_bytes = kv_bytes if wanted.cache_bytes is None else wanted.cache_bytes
    parallel = wanted.parallel or 1
    kept_bytes = kv_bytes * parallel + cache_bytes
    runner = paged_runner(
        packed,
        load_kernels(),
        threads,
        budget,
        kept_bytes,
        wanted.paging,
        wanted.cached_ratio,
        processors=GrantedProcessors(),
    )
    return Loaded(packed, runner, context, wanted.kv_dtype, cache_bytes, parallel)


def _conversations(
    wanted: LoadOptions, shape: Shape, budget: Budget, needed: int, token_bytes: int
) -> tuple[int, int, int]:
    """For a model that is wholly in memory: context, answers that take turns, and the bytes of their keys and values.

    token_bytes: keys and values of one token.

    In a stated budget they are chosen, where they were not asked for, so that all fit beside what `_cache_bytes` takes.
    One that was not stated is no promise: long conversations take what the machine has.
    """
    most = min(DEFAULT_CONTEXT, shape.context)
    if not budget.stated:
        return wanted.context or most, wanted.parallel or DEFAULT_PARALLEL, 0
    room = max(0, budget.nbytes - needed)
    room -= room // 4 if wanted.cache_bytes is None else wanted.cache_bytes
    tokens = room // max(1, token_bytes)
    share = tokens // (wanted.parallel or DEFAULT_PARALLEL)
    context = wanted.context or min(most, max(PAGED_CONTEXT, share // 1024 * 1024))
    parallel = wanted.parallel or max(1, min(DEFAULT_PARALLEL, tokens // context))
    return context, parallel, context * parallel * token_bytes


def _load_onnx(folder: Path, wanted: LoadOptions) -> Loaded:
    """An exported model on onnxruntime, all of it in memory."""
    files = OnnxModel(folder)
    _check_context(wanted.context, files.shape)
    if wanted.kv_dtype == "int8":
        raise UsageError("onnxruntime keeps keys and values in float32", hint="leave kv_dtype out")
    budget, needed = Budget.of(wanted.ram), files.nbytes + _OVERHEAD_BYTES
    token_bytes = kv_cache_bytes(files.shape, 1, "float32")
    context, parallel, kv_bytes = _conversations(wanted, files.shape, budget, needed, token_bytes)
    if needed + kv_bytes + (wanted.cache_bytes or 0) > budget.nbytes:
        needed += kv_bytes + (wanted.cache_bytes or 0)
        raise budget.refuse(needed, "a smaller --context, or the packed model, whose experts can be paged")
    threads = min(choose_threads(wanted.threads), granted_processors())
    runner, cache_bytes = OnnxRunner(files, threads), _cache_bytes(wanted, budget, needed)
    return Loaded(files, runner, context, "float32", cache_bytes, parallel)


def _cache_bytes(wanted: LoadOptions, budget: Budget, needed: int) -> int:
    """For earlier prompts, of what a model that is wholly in memory leaves free."""
    if wanted.cache_bytes is not None:
        return wanted.cache_bytes
    return min(_MOST_CACHE_BYTES, (budget.nbytes - needed) // 4)


def _check_context(context: int | None, shape: Shape) -> None:
    positions = shape.context
    if context is not None and not 1 <= context <= positions:
        raise UsageError(f"a context of {context}", hint=f"this model can do 1..{positions}")
