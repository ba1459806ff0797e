"""What several answers of a paged model can gain where a step does nothing but read: by the runtime's own bookkeeping.

    python benchmarks/paged_limit.py --shape lfm2-24b-a2b --ram 6G [--trace TRACE.npz] [--counts 1,2,4,8]

Steps of so many answers choose experts, uniformly or by unrelated stretches of a recorded trace (`recorded.py`). What
each step misses is counted by the pager, with the plan, the slots and the eviction that loading such a model has; no
weights are needed. "Any policy": the same choices with Belady's eviction, which knows the future and may pass over what
it reads, with the slots of all layers as one. No order of reads, and no reading ahead, has fewer bytes than that.
"""

from __future__ import annotations

import argparse
import heapq
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from paged_scale import NoStore
from recorded import Choices, Trace

from edge_lfm.architectures import read_shape
from edge_lfm.devices.estimate import Demand
from edge_lfm.memory.budget import Budget
from edge_lfm.memory.paging import ExpertPager
from edge_lfm.memory.plan import PagingPlan, Wishes, plan_memory
from edge_lfm.memory.policy import DecayedUse
from edge_lfm.memory.residency import Residency
from edge_lfm.model.demand import demand_of
from edge_lfm.model.plan import plan_tensors
from edge_lfm.quantize.families import family_config
from edge_lfm.quantize.recipe import find_recipe
from edge_lfm.shape import Shape

WARM, STEPS, DRAWS = 100, 200, 4
CONTEXT = 1024


def uniform(shape: Shape, count: int, seed: int) -> list[Choices]:
    """As the routers of random weights."""
    rng, layers = np.random.default_rng(seed), len(shape.routers)
    draws = rng.random((count, WARM + STEPS, layers, shape.experts))
    return list(np.argpartition(draws, shape.top_k, axis=3)[..., : shape.top_k].astype(np.int64))


def misses_of(plan: PagingPlan, experts: int, streams: Sequence[Choices]) -> float:
    """Experts that a step reads."""
    layers = range(streams[0].shape[1])
    residency = Residency({n: DecayedUse(experts) for n in layers}, plan.keep, plan.slots)
    nowhere = {n: np.zeros(experts, np.int64) for n in layers}
    pager = ExpertPager(NoStore(), residency, plan, nowhere, nowhere)
    before = pager.stats.copy()
    for t in range(WARM + STEPS):
        before = pager.stats.copy() if t == WARM else before
        for n in layers:
            for wave in pager.start_layer(n, np.stack([stream[t, n] for stream in streams])):
                pager.wait(n, wave)
                if not wave.only:
                    pager.settle()
            pager.finish_layer()
    return float(pager.stats.since(before).misses.sum()) / STEPS


def least_misses(keep: int, streams: Sequence[Choices]) -> float:
    """The same with Belady's eviction: of what is kept and what is at hand, the one that is wanted last goes."""
    uses = [
        (t, [(n, int(e)) for e in np.unique([stream[t, n] for stream in streams])])
        for t in range(WARM + STEPS)
        for n in range(streams[0].shape[1])
    ]
    following, seen = [], dict[tuple[int, int], int]()
    for at in range(len(uses) - 1, -1, -1):
        following.append({expert: seen.get(expert, len(uses)) for expert in uses[at][1]})
        seen |= dict.fromkeys(uses[at][1], at)
    kept, missed = dict[tuple[int, int], int](), 0
    last: list[tuple[int, tuple[int, int]]] = []  # (-next use, expert), some of them out of date
    for (t, experts), after in zip(uses, reversed(following), strict=True):
        missed += sum(expert not in kept for expert in experts) if t >= WARM else 0
        for expert in experts:
            kept[expert] = after[expert]
            heapq.heappush(last, (-after[expert], expert))
        while len(kept) > keep:
            use, expert = heapq.heappop(last)
            if kept.get(expert) == -use:
                del kept[expert]
    return missed / STEPS


def print_rows(
    name: str, plan: PagingPlan, demand: Demand, draws: Sequence[Sequence[Choices]], counts: Sequence[int]
) -> None:
    """Means over the draws."""
    print(f"| {name} | " + " | ".join(map(str, counts)) + " |\n" + "|---" * (len(counts) + 1) + "|")
    ways: dict[str, Callable[[Sequence[Choices]], float]] = {
        "this policy": lambda streams: misses_of(plan, demand.experts, streams),
        "any policy": lambda streams: least_misses(plan.keep, streams),
    }
    for who, misses in ways.items():
        read = [np.mean([misses(streams[:count]) for streams in draws]) * demand.expert_bytes for count in counts]
        print(f"| MB a step, {who} | {' | '.join(f'{nbytes / 1e6:.0f}' for nbytes in read)} |")
        gains = [count / counts[0] * read[0] / nbytes for count, nbytes in zip(counts, read, strict=True)]
        print(f"| times the tokens of one answer, {who} | {' | '.join(f'{gain:.2f}' for gain in gains)} |")
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="lfm2-24b-a2b")
    parser.add_argument("--recipe", default="balanced")
    parser.add_argument("--ram", default="6G")
    parser.add_argument("--trace", type=Path)
    parser.add_argument("--counts", default="1,2,4,8")
    args = parser.parse_args()
    counts = [int(count) for count in args.counts.split(",")]
    shape = read_shape(family_config(args.shape))
    demand = demand_of(shape, plan_tensors(shape, find_recipe(args.recipe).schemes))
    wishes = Wishes(context=CONTEXT, cache_bytes=1, parallel=max(counts), threads=2)
    plan = plan_memory(shape, demand, Budget.of(args.ram), wishes).paging
    if plan is None:
        raise SystemExit(f"{args.shape} fits into {args.ram}")
    print(f"{args.shape}, {args.recipe}, {args.ram}: {plan.keep} of {plan.experts} experts are kept\n")
    draws = [uniform(shape, max(counts), seed) for seed in range(DRAWS)]
    print_rows("answers, uniform routing", plan, demand, draws, counts)
    if args.trace is not None:
        trace = Trace.of(args.trace, shape)
        draws = [trace.streams(max(counts), WARM + STEPS, seed) for seed in range(DRAWS)]
        print_rows("answers, recorded routing", plan, demand, draws, counts)


if __name__ == "__main__":
    main()
