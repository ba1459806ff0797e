"""Paged decode with the routing of recorded traces, beside the same model wholly in memory.

    python benchmarks/traced.py MODEL TRACE.npz --shares 0.25,0.5,0.75

MODEL is a packed model of the 24B's shape (`edge-lfm synth`); its own routers are overruled, as `recorded.py` tells.
Nothing is read on a guess, for a guess comes from the routers.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from recorded import Trace

from edge_lfm.engine.feeds import Feed
from edge_lfm.engine.paged import paged_runner, slot_bytes_of
from edge_lfm.engine.runner import Runner
from edge_lfm.kernels.load.library import load_kernels
from edge_lfm.machine.processors import choose_threads
from edge_lfm.memory.budget import Budget
from edge_lfm.memory.plan import RING_SLOTS, plan_paging
from edge_lfm.memory.prefault import Prefault
from edge_lfm.model.demand import demand_of
from edge_lfm.model.packed_model import PackedModel
from edge_lfm.model.state import State

CONTEXT = 1024


def decode(runner: Runner, trace: NDArray[np.int64]) -> float:
    """Tokens per second of the trace's second half; the first fills the caches."""
    rows = {n: row for row, n in enumerate(sorted(runner.binding.tables))}
    state = State(runner.model.shape, CONTEXT)
    half, started = len(trace) // 2, 0.0
    for t, step in enumerate(trace):
        if t == half:
            started = time.perf_counter()
        take: Callable[[int, NDArray[np.int64]], NDArray[np.int64]] = lambda n, _, s=step: s[rows[n]][None]  # type: ignore[misc]  # noqa: E731
        runner.run([Feed(state, [100 + 7 * t])], routing=take)
    return (len(trace) - half) / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("trace", type=Path)
    parser.add_argument("--shares", default="0.25,0.5,0.75")
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    threads = choose_threads(args.threads)
    with PackedModel(args.model) as model:
        layers = list(model.shape.routers)
        trace = Trace.of(args.trace, model.shape).streams(1, args.tokens)[0]
        prefault = Prefault(*model.span)
        prefault.wait()
        with Runner(model, load_kernels(), threads) as runner:
            whole = decode(runner, trace)
        prefault.close()
    print(f"{args.model.name}, {args.trace.name}, {threads} threads; wholly in memory {whole:.2f} tok/s\n")
    print("| share kept | tok/s | of the whole | hits | MB a token | stalled |\n|---|---|---|---|---|---|")
    for share in map(float, args.shares.split(",")):
        with PackedModel(args.model) as model:
            slots = RING_SLOTS + round(share * model.shape.experts) * len(layers)
            budget = Budget(slots * slot_bytes_of(model), stated=True)
            plan = plan_paging(demand_of(model.shape, list(model.tensors.values())), 0, budget.nbytes)
            with paged_runner(model, load_kernels(), threads, budget, plan, guessing=False) as runner:
                before, rate = runner.pager.stats.copy(), decode(runner, trace)
                stats = runner.pager.stats.since(before)
                cells = (
                    f"{rate:.2f}",
                    f"{rate / whole:.0%}",
                    f"{stats.hit_rate:.1%}",
                    f"{stats.bytes_read / len(trace) / 1e6:.0f}",
                    f"{stats.stall_s.sum() * rate / len(trace):.0%}",
                )
                print(f"| {share:.0%} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
