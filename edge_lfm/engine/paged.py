"""A runner whose experts are paged: the trunk copied into memory, slots made, the pager attached.

Decides nothing about budgets (`memory/budget.py`) and nothing about which experts stay (`memory/policy.py`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_lfm.engine.lookahead import Lookahead
from edge_lfm.engine.runner import Runner
from edge_lfm.errors import ModelFileError
from edge_lfm.formats.safetensors import SafetensorsFile
from edge_lfm.kernels.library import Kernels
from edge_lfm.memory.budget import Budget, PagingPlan, plan_paging
from edge_lfm.memory.paging import ExpertPager
from edge_lfm.memory.policy import FORECAST_FILE, HALF_LIVES, DecayedUse, LearnedUse
from edge_lfm.memory.reader import READ_ALIGNMENT, BlockReader, Slots
from edge_lfm.memory.residency import Residency
from edge_lfm.model.packed_model import PackedModel
from edge_lfm.model.plan import expert_name

INTERPRETER_BYTES = 128 << 20
"""Python, its packages and the kernels: the demo model's process peaks at 0.13 GB."""


def paged_runner(model: PackedModel, kernels: Kernels, threads: int, budget: Budget, kv_bytes: int) -> Runner:
    """A runner within a budget that does not hold all experts.

    Raises:
        DoesNotFitError: the budget does not even hold what every token needs.
        ModelFileError: the trunk cannot be read.
    """
    config, slot_bytes = model.config, slot_bytes_of(model)
    layers = [n for n in range(config.num_hidden_layers) if config.is_moe(n)]
    reader = BlockReader(model.folder / "model.safetensors")
    try:
        fixed = fixed_bytes(model, kernels, threads) + kv_bytes
        plan = plan_paging(budget, fixed, slot_bytes, len(layers), config.num_experts, config.num_experts_per_tok)
        model.use_trunk(_read_trunk(reader, model))
        runner = Runner(model, kernels, threads)
        runner.pager = _make_pager(model, runner, reader, plan, layers)
        runner.lookahead = Lookahead(model)
    except BaseException:
        reader.close()
        raise
    return runner


def fixed_bytes(model: PackedModel, kernels: Kernels, threads: int) -> int:
    """What a paged model takes beside its experts and the KV cache."""
    with Runner(model, kernels, threads) as probe:  # its scratch memory is not touched before the first step
        return model.trunk_bytes + probe.scratch_bytes + INTERPRETER_BYTES


def slot_bytes_of(model: PackedModel) -> int:
    """Bytes of one expert's slot."""
    nbytes = next(piece.nbytes for piece in model.pieces.values() if piece.kind == "experts")
    return -(-nbytes // READ_ALIGNMENT) * READ_ALIGNMENT


def _read_trunk(reader: BlockReader, model: PackedModel) -> NDArray[np.uint8]:
    """The file up to the first expert, in anonymous memory: nothing that happens to the file can touch it."""
    memory = Slots(1, model.trunk_bytes)
    reader.read(0, model.trunk_bytes, memory.address).result()
    return memory.array()


def _make_pager(
    model: PackedModel, runner: Runner, reader: BlockReader, plan: PagingPlan, layers: list[int]
) -> ExpertPager:
    experts = range(model.config.num_experts)
    offsets = {n: np.array([model.offset_of(expert_name(n, e)) for e in experts], np.int64) for n in layers}
    if any((table % READ_ALIGNMENT).any() for table in offsets.values()):
        raise ModelFileError(f"{model.folder}: experts are not aligned for direct reads", hint="quantize it again")
    slots = Slots(plan.slots, slot_bytes_of(model))
    residency = Residency(_policies(model, layers), plan.keep, plan.slots)
    nbytes = next(piece.nbytes for piece in model.pieces.values() if piece.kind == "experts")
    return ExpertPager(reader, slots, residency, plan, nbytes, offsets, runner.binding.tables)


def _policies(model: PackedModel, layers: list[int]) -> dict[int, DecayedUse]:
    """The model's own forecast of expert use, if its calibration left one; else decayed use."""
    experts, path = model.config.num_experts, model.folder / FORECAST_FILE
    if not path.exists():
        return {n: DecayedUse(experts) for n in layers}
    with SafetensorsFile(path) as file:
        weights = file.read("weights").astype(np.float32)
    latest = np.zeros((len(layers), experts), bool)
    if weights.shape != (len(layers), 1 + (len(layers) + len(HALF_LIVES)) * experts, experts):
        raise ModelFileError(
            f"{path} is a forecast of another shape, {list(weights.shape)}", hint="remove it, or quantize again"
        )
    return {n: LearnedUse(row, weights[row], latest) for row, n in enumerate(layers)}


def kv_cache_bytes(config: Any, context: int, kv_dtype: str) -> int:
    """Keys and values of one conversation of `context` tokens."""
    attention = sum(config.is_attention(n) for n in range(config.num_hidden_layers))
    per_head = config.head_dim + 4 if kv_dtype == "int8" else 2 * config.head_dim
    return int(attention * 2 * config.num_key_value_heads * per_head * context)
