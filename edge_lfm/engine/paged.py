"""A runner whose experts are paged: the trunk copied into memory, slots made, the pager attached.

Decides nothing about budgets (`memory/plan.py`) and nothing about which experts stay (`memory/policy.py`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_lfm.engine.lookahead import Lookahead
from edge_lfm.engine.paged_runner import PagedRunner
from edge_lfm.errors import ModelFileError
from edge_lfm.kernels.load.library import Kernels
from edge_lfm.memory.budget import Budget
from edge_lfm.memory.forecast import read_forecast
from edge_lfm.memory.mapped import MappedStore
from edge_lfm.memory.paging import ExpertPager, Store
from edge_lfm.memory.plan import PagingPlan
from edge_lfm.memory.policy import FORECAST_FILE, DecayedUse, LearnedUse, horizon_of
from edge_lfm.memory.reader import READ_ALIGNMENT, BlockReader, Slots, SlotStore
from edge_lfm.memory.residency import Residency
from edge_lfm.model.binding import Binding, bind
from edge_lfm.model.packed_model import PackedModel
from edge_lfm.model.plan import EXPERT_CLASS, expert_name

WAYS = ("auto", "read", "map")
NEARLY_FITS = 1.25
"""Times the budget: what the system's cache would hold for the next start and for other processes is then most of the
file. The model's own share of memory is the same either way."""
_MAP_RATE = 0.8
"""Of the rate of direct reads, what mapping must reach to be worth the sharing."""
_PROBE_BLOCKS = 8


def paged_runner(
    model: PackedModel,
    kernels: Kernels,
    threads: int,
    budget: Budget,
    plan: PagingPlan,
    way: str = "auto",
    cached_ratio: float | None = None,
    guessing: bool = True,
    ranking: Path | None = None,
    choose: Callable[[int], int] | None = None,
) -> PagedRunner:
    """A runner within a budget that does not hold all experts.

    budget: what `plan` was made for.
    way: how experts come: "read" past the system's cache, "map" through it, or "auto" (`choose_way`).
    cached_ratio: of `cached_routing`; None: the router's choice.
    guessing: whether the next layer's likely experts are read ahead.
    ranking: where the use of experts is kept for the next start; None: nowhere.
    choose: as of `Runner`.

    Raises:
        ModelFileError: the trunk cannot be read.
    """
    reader = BlockReader(model.folder / "model.safetensors")
    try:
        model.use_trunk(_read_trunk(reader, model))
        if way == "auto":
            way = choose_way(model, reader, budget)
        binding = bind(model)
        pager = make_pager(model, binding, reader, plan, list(model.shape.routers), way)
        lookahead = Lookahead(model) if guessing else None
        runner = PagedRunner(model, binding, kernels, threads, pager, lookahead, cached_ratio, ranking, choose=choose)
        runner.begin()
        return runner
    except BaseException:
        reader.close()
        raise


def choose_way(model: PackedModel, reader: BlockReader, budget: Budget) -> str:
    """ "map" if the model nearly fits into what the machine has, and mapping blocks in random order is about as fast as
    reading them, measured on a few of each; else "read".

    A budget that the user stated is kept to the byte, so nothing may pile up in the system's cache.
    """
    if budget.stated or model.nbytes > NEARLY_FITS * budget.nbytes:
        return "read"
    experts = [name for name, tensor in model.tensors.items() if tensor.kind == EXPERT_CLASS]
    picked = np.random.default_rng(0).choice(experts, min(2 * _PROBE_BLOCKS, len(experts)), replace=False).tolist()
    through_map = _map_store(model)
    read = _rate(_read_store(model, reader, 2), [model.offset_of(name) for name in picked[::2]])
    mapped = _rate(through_map, [model.offset_of(name) for name in picked[1::2]])
    through_map.close()
    return "map" if mapped >= _MAP_RATE * read else "read"


def _rate(store: Store, offsets: list[int]) -> float:
    """Blocks a second, two at a time."""
    started = time.perf_counter()
    for first in range(0, len(offsets), 2):
        for _, read in [store.begin(slot, offset) for slot, offset in enumerate(offsets[first : first + 2])]:
            read.result()
    for slot in (0, 1):
        store.release(slot)
    return len(offsets) / (time.perf_counter() - started)


def _read_store(model: PackedModel, reader: BlockReader, slots: int) -> SlotStore:
    return SlotStore(reader, Slots(slots, slot_bytes_of(model)), _expert_bytes(model))


def _map_store(model: PackedModel) -> MappedStore:
    return MappedStore(model.folder / "model.safetensors", *model.span, _expert_bytes(model))


def _expert_bytes(model: PackedModel) -> int:
    return next(tensor.nbytes for tensor in model.tensors.values() if tensor.kind == EXPERT_CLASS)


def slot_bytes_of(model: PackedModel) -> int:
    """Bytes of one expert's slot."""
    return -(-_expert_bytes(model) // READ_ALIGNMENT) * READ_ALIGNMENT


def _read_trunk(reader: BlockReader, model: PackedModel) -> NDArray[np.uint8]:
    """The file up to the first expert, in anonymous memory: nothing that happens to the file can touch it."""
    memory = Slots(1, model.trunk_bytes)
    reader.read(0, model.trunk_bytes, memory.address).result()
    return memory.array()


def make_pager(
    model: PackedModel, binding: Binding, reader: BlockReader, plan: PagingPlan, layers: list[int], way: str
) -> ExpertPager:
    """A pager that brings experts where `binding` looks for them."""
    experts = range(model.shape.experts)
    offsets = {n: np.array([model.offset_of(expert_name(n, e)) for e in experts], np.int64) for n in layers}
    if any((table % READ_ALIGNMENT).any() for table in offsets.values()):
        raise ModelFileError(f"{model.folder}: experts are not aligned for direct reads", hint="quantize it again")
    tokens = plan.keep / (len(layers) * model.shape.top_k)
    residency = Residency(_policies(model, layers, tokens), plan.keep, plan.slots)
    store: Store = _map_store(model) if way == "map" else _read_store(model, reader, plan.slots)
    if way == "map":
        reader.close()
    return ExpertPager(store, residency, plan, offsets, binding.tables)


def _policies(model: PackedModel, layers: list[int], tokens: float) -> dict[int, DecayedUse]:
    """The model's own forecast of expert use, if its calibration left one; else decayed use. `tokens`: how many tokens'
    choices are kept."""
    experts, path = model.shape.experts, model.folder / FORECAST_FILE
    if not path.exists():
        return {n: DecayedUse(experts) for n in layers}
    weights = read_forecast(path, len(layers), experts)[horizon_of(tokens)].astype(np.float32)
    latest = np.zeros((len(layers), experts), bool)
    return {n: LearnedUse(row, weights[row], latest) for row, n in enumerate(layers)}
