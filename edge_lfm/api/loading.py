"""Opening a model: which backend, whether it fits, whether experts are paged, how much is kept of earlier prompts.

What is worth a warning goes to the log `edge_lfm`, once for each loading: the verbs and the server show it in their own
way. Knows files, budgets and backends; does not know how requests are answered.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

from edge_lfm.api.load_options import LoadOptions
from edge_lfm.engine.backend import Backend
from edge_lfm.engine.onnx_runner import CHUNK, OnnxRunner
from edge_lfm.engine.paged import paged_runner
from edge_lfm.engine.runner import Runner
from edge_lfm.errors import DoesNotFitError, UsageError
from edge_lfm.formats.file_list import changed_files
from edge_lfm.kernels.load.library import load_kernels
from edge_lfm.machine.processors import (
    StepThreads,
    choose_threads,
    granted_processors,
    max_threads,
)
from edge_lfm.memory.budget import Budget
from edge_lfm.memory.plan import Wishes, plan_memory, plan_whole
from edge_lfm.memory.ranking import ranking_path
from edge_lfm.model.demand import demand_of
from edge_lfm.model.onnx_model import OnnxModel, is_onnx
from edge_lfm.model.packed_drafter import PackedDrafter
from edge_lfm.model.packed_model import PackedModel
from edge_lfm.quantize.fitting import what_fits
from edge_lfm.shape import Shape

log = logging.getLogger("edge_lfm")


@dataclass(frozen=True)
class Loaded:
    """An open model, ready to run steps. `cache_bytes`: for what earlier prompts left; `parallel`: answers that are
    made at a time; `token_wait`: as of `LoadOptions`."""

    files: PackedModel | OnnxModel
    backend: Backend
    context: int
    kv_dtype: str
    cache_bytes: int
    parallel: int
    token_wait: float

    def close(self) -> None:
        self.backend.close()
        self.files.close()


def load_model(options: LoadOptions) -> Loaded:
    """Open a model.

    Raises:
        EdgeLfmError: as `Model.load`.
    """
    folder = Path(options.path) if options.path is not None else _demo(options.backend)
    loaded = _load(folder, options)
    granted = granted_processors()
    if options.threads is not None and granted < options.threads:
        why = "no more processors are granted to this process"
        log.warning("%d of %d threads run (%s)", granted, options.threads, why)
    for name in changed_files(folder) or ():
        how = f"if you changed it yourself: edge-lfm verify {folder} --accept"
        log.warning("%s is not as it was written (%s)", folder / name, how)
    return loaded


def _load(folder: Path, options: LoadOptions) -> Loaded:
    backend = options.backend
    if backend == "onnxruntime" or (backend is None and is_onnx(folder)):
        return _load_onnx(folder, options)
    if is_onnx(folder):
        raise UsageError(f"{folder} is an exported graph, which onnxruntime runs", hint="leave the backend out")
    packed = PackedModel(folder)
    drafter: PackedDrafter | None = None
    try:
        if options.draft is not None:
            drafter = PackedDrafter(_drafter_folder(options.draft))
            drafter.check_target(packed)
        return _load_packed(packed, drafter, options)
    except BaseException:
        if drafter is not None:
            drafter.close()
        packed.close()
        raise


def _demo(backend: str | None) -> Path:
    from edge_lfm.demo import exported_demo, packed_demo

    return exported_demo() if backend == "onnxruntime" else packed_demo()


def _drafter_folder(draft: str | Path) -> Path:
    from edge_lfm.demo import DRAFTER, packed_demo_drafter

    return packed_demo_drafter() if draft == DRAFTER else Path(draft)


def _load_packed(packed: PackedModel, drafter: PackedDrafter | None, options: LoadOptions) -> Loaded:
    """Wholly in memory if it fits, with experts paged otherwise."""
    _check_context(options.context, packed.shape)
    demand = demand_of(packed.shape, list(packed.tensors.values()))
    threads, budget = max_threads(options.threads), Budget.of(options.ram)
    wishes = _wishes(options, options.kv_dtype, threads)
    if drafter is not None:
        wishes = replace(wishes, drafter=drafter.drafter, drafter_bytes=drafter.nbytes)
    plan = plan_memory(packed.shape, demand, budget, wishes)
    try:
        plan.check()
    except DoesNotFitError as error:
        raise DoesNotFitError(error.message, hint=what_fits(packed.shape, budget, wishes)) from None
    kernels, choose = load_kernels(), StepThreads(demand.bytes_per_token)
    if plan.paging is None:
        runner = Runner(packed, kernels, threads, choose=choose)
    else:
        way, ratio = options.paging, options.cached_ratio
        ranking = ranking_path(packed.folder) if ratio is None else None  # cached routing would answer otherwise
        runner = paged_runner(packed, kernels, threads, budget, plan.paging, way, ratio, ranking=ranking, choose=choose)
    if drafter is not None:
        runner.use_drafter(drafter)
    return Loaded(packed, runner, plan.context, options.kv_dtype, plan.cache_bytes, plan.parallel, options.token_wait)


def _load_onnx(folder: Path, options: LoadOptions) -> Loaded:
    """An exported model on onnxruntime, all of it in memory."""
    if options.draft is not None:
        raise UsageError("onnxruntime has no drafts", hint="leave draft out, or load a packed model")
    files = OnnxModel(folder)
    _check_context(options.context, files.shape)
    if options.kv_dtype == "int8":
        raise UsageError("onnxruntime keeps keys and values in float32", hint="leave kv_dtype out")
    threads = min(choose_threads(options.threads), granted_processors())
    wishes = replace(_wishes(options, "float32", threads), chunk=CHUNK)
    plan = plan_whole(files.shape, files.nbytes, Budget.of(options.ram), wishes)
    plan.check()
    return Loaded(
        files, OnnxRunner(files, threads), plan.context, "float32", plan.cache_bytes, plan.parallel, options.token_wait
    )


def _wishes(options: LoadOptions, kv_dtype: str, threads: int) -> Wishes:
    return Wishes(options.context, kv_dtype, options.cache_bytes, options.parallel, threads)


def _check_context(context: int | None, shape: Shape) -> None:
    positions = shape.context
    if context is not None and not 1 <= context <= positions:
        raise UsageError(f"a context of {context}", hint=f"this model can do 1..{positions}")
