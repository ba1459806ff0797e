"""Runners and steps of one sequence, for tests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from edge_lfm.engine import paged
from edge_lfm.engine.backend import Backend, Routing
from edge_lfm.engine.feeds import Feed
from edge_lfm.engine.lookahead import Lookahead
from edge_lfm.engine.paged_runner import PagedRunner
from edge_lfm.kernels.load.library import load_kernels
from edge_lfm.kernels.spec.isa import find_isa
from edge_lfm.machine.processors import max_threads
from edge_lfm.memory.budget import Budget
from edge_lfm.memory.plan import PagingPlan, Wishes, plan_memory, plan_whole
from edge_lfm.memory.reader import BlockReader
from edge_lfm.model.binding import bind
from edge_lfm.model.demand import demand_of
from edge_lfm.model.packed_drafter import PackedDrafter
from edge_lfm.model.packed_model import PackedModel
from edge_lfm.model.state import State


def all_rows(
    backend: Backend, ids: Sequence[int] | np.ndarray, state: State, routing: Routing | None = None
) -> np.ndarray:
    """One step; the logits [T, vocab] of all tokens."""
    return backend.run([Feed(state, ids, "all")], routing=routing)[0]


@contextmanager
def paged_model(
    folder: Path,
    keep: int,
    ring: int = 4,
    threads: int = 1,
    chunk: int = 512,
    way: str = "read",
    guessing: bool = False,
    cached_ratio: float | None = None,
    isa: str | None = None,
    ranking: Path | None = None,
) -> Iterator[PagedRunner]:
    """A runner that keeps `keep` experts for each layer, whatever that takes."""
    with PackedModel(folder) as model:
        layers = list(model.shape.routers)
        reader = BlockReader(model.folder / "model.safetensors")
        model.use_trunk(paged._read_trunk(reader, model))
        kept, slot_bytes = keep * len(layers), paged.slot_bytes_of(model)
        plan = PagingPlan(kept, kept + ring, 0, slot_bytes, 0, model.shape.experts * len(layers))
        binding = bind(model)
        pager = paged.make_pager(model, binding, reader, plan, layers, way)
        lookahead = Lookahead(model) if guessing else None
        kernels = load_kernels(find_isa(isa) if isa else None)
        with PagedRunner(model, binding, kernels, threads, pager, lookahead, cached_ratio, ranking, chunk) as runner:
            runner.begin()
            yield runner


def paging_ram(
    folder: Path,
    context: int,
    threads: int | None = None,
    cache_bytes: int | None = None,
    parallel: int | None = None,
    draft: Path | None = None,
) -> str:
    """A budget in bytes that holds a packed model with its experts paged, not all of it; arguments as of loading."""
    with PackedModel(folder) as model:
        shape, demand = model.shape, demand_of(model.shape, list(model.tensors.values()))
    wishes = Wishes(context=context, threads=max_threads(threads), cache_bytes=cache_bytes, parallel=parallel)
    if draft is not None:
        with PackedDrafter(draft) as packed:
            wishes = replace(wishes, drafter=packed.drafter, drafter_bytes=packed.nbytes)
    whole = plan_whole(shape, demand.file_bytes, Budget(0, stated=True), wishes)
    budget = Budget(whole.needed_bytes - 1, stated=True)
    plan = plan_memory(shape, demand, budget, wishes)
    assert plan.paging is not None and not plan.missing_bytes and plan.kept < 1
    return str(budget.nbytes)
