"""What a device will do with a model, from a few numbers of each: decode and prefill.

Decode is bound by memory, prefill by arithmetic, paged decode by the storage; the shares below were measured. Knows
neither files nor recipes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

DECODE_SHARE = 0.87
"""Of the read bandwidth: 87 % by two threads, 91 by one (24B and 8B shapes, Sapphire Rapids; docs/performance.md)."""
_KEPT = (0.0, 0.125, 0.25, 0.5, 0.75, 1.0)
_HITS = (0.0, 0.448, 0.684, 0.915, 0.97, 1.0)
"""Hit rates by the share of experts kept, decayed use: GPT-OSS-20B's recorded routing (docs/paging.md); .75 is drawn
between."""


@dataclass(frozen=True)
class Demand:
    """What a model asks for. trunk_bytes: of the file, all before the first expert; bytes per token: weights that a
    decode step reads; ops: of a prefill token."""

    file_bytes: int
    trunk_bytes: int
    bytes_per_token: int
    ops_per_token: int
    moe_layers: int
    experts: int
    top_k: int
    expert_bytes: int


@dataclass(frozen=True)
class Machine:
    """What a device offers; see `profiles.Device`."""

    read_gbps: float
    int8_gops: float
    prefill_share: float
    storage_gbps: float


@dataclass(frozen=True)
class Fit:
    """The answer. kept: share of the experts that stay in memory; bound: what limits the decode."""

    fits: bool
    missing_bytes: int
    kept: float
    hit_rate: float
    decode_tps: float
    prefill_tps: float
    bound: str
    read_bytes_per_token: float


def does_not_fit(missing_bytes: int) -> Fit:
    """The answer for a model that a device cannot hold."""
    return Fit(False, missing_bytes, 0.0, 0.0, 0.0, 0.0, "memory", 0.0)


def estimate(demand: Demand, machine: Machine, kept: float, uniform: bool = False) -> Fit:
    """What to expect when a share of the experts stays in memory (`memory/plan.py`), 1: the whole model.

    uniform: experts are chosen evenly, as random weights do, instead of as real models do.
    """
    prefill = machine.int8_gops * 1e9 * machine.prefill_share / demand.ops_per_token
    compute_s = demand.bytes_per_token / (machine.read_gbps * 1e9 * DECODE_SHARE)
    if kept == 1.0:
        return Fit(True, 0, 1.0, 1.0, 1 / compute_s, prefill, "memory bandwidth", 0.0)
    hits = kept if uniform else float(np.interp(kept, _KEPT, _HITS))
    read = (1 - hits) * demand.moe_layers * demand.top_k * demand.expert_bytes
    storage_s = read / (machine.storage_gbps * 1e9)
    # Most of the shorter one hides behind the longer one: 8B shape at 2.5 and 3.5 GB, 77 and 110 % of these times.
    decode_s = max(compute_s, storage_s) + 0.25 * min(compute_s, storage_s)
    chunk_s = (1 - kept) * demand.moe_layers * demand.experts * demand.expert_bytes / (machine.storage_gbps * 1e9)
    prefill_s = max(512 / prefill, chunk_s) + 0.2 * min(512 / prefill, chunk_s)
    bound = "storage" if storage_s > compute_s else "memory bandwidth"
    return Fit(True, 0, kept, hits, 1 / decode_s, 512 / prefill_s, bound, read)
