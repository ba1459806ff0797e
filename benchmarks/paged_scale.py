"""What a paged model of many experts costs beside its bytes: searches of router and pager, at full depth and width.

    python benchmarks/paged_scale.py --shape minimax-m2 [--recipe balanced] [--budgets 8G,16G,32G]
    python benchmarks/paged_scale.py --shape minimax-m2 --layers 4 --work DIR --ram 4G     # and with bytes
    sudo python benchmarks/paged_scale.py --shape deepseek-v3 --layers 3 --work DIR --limit 8G

First, without weights: the plan of each budget; the compiled router on random logits; and the pager with all layers and
experts, reading ahead included, over a store that reads nothing. Its tokens choose experts so that about as many are
found in memory as in GPT-OSS's recorded routing (`devices/estimate.py`). Beside a token: what memory gives in the time,
at the rate that is measured here, without any wait for a disk.

With --layers, a model of so many of the shape's layers is made of random weights, and decodes under a budget of --ram.
The checksum of its tokens is that of any other budget, and of one that holds the whole model. --limit: in a memory
cgroup, a little above the budget.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import zlib
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from paging import LEFT_BYTES, memory_cgroup, run_in

from edge_lfm.architectures import read_shape
from edge_lfm.devices.estimate import Machine, estimate
from edge_lfm.kernels.load.library import load_kernels
from edge_lfm.kernels.spec.layout import LAYER
from edge_lfm.machine.processors import choose_threads
from edge_lfm.measure.hardware import measure_machine
from edge_lfm.memory.budget import Budget, parse_size
from edge_lfm.memory.paging import ExpertPager
from edge_lfm.memory.plan import PagingPlan, Wishes, plan_memory
from edge_lfm.memory.policy import DecayedUse
from edge_lfm.memory.residency import Residency
from edge_lfm.model.demand import Demand, demand_of
from edge_lfm.model.plan import plan_tensors
from edge_lfm.quantize.families import family_config
from edge_lfm.quantize.recipe import Recipe, find_recipe
from edge_lfm.shape import Router, Shape
from kernels import Step

ANY_MACHINE = Machine(read_gbps=1.0, int8_gops=1.0, prefill_share=1.0, storage_gbps=1.0)
WARM, TOKENS = 60, 60


class NoStore:
    """Blocks that are there at once."""

    block_bytes = 0

    def begin(self, slot: int, offset: int) -> tuple[int, Future[None]]:
        done: Future[None] = Future()
        done.set_result(None)
        return slot + 1, done

    def release(self, slot: int) -> None: ...

    def close(self) -> None: ...


def router_seconds(router: Router) -> float:
    """Of one token and one layer: the scores of its experts, the search for the best, their weights."""
    kernels, rng = load_kernels(), np.random.default_rng(0)
    experts, top_k = router.experts, router.top_k
    logits = rng.standard_normal((1, -(-experts // 16) * 16), np.float32)
    bias = rng.standard_normal(logits.shape[1], np.float32) * np.float32(0.1)
    scores = logits.copy()
    step = Step(
        tokens=1, experts=experts, top_k=top_k, router_logits=scores, chosen=np.zeros(top_k, np.int64),
        chosen_weight=np.zeros(top_k, np.float32), segments=np.zeros(experts + 1, np.int64),
        pair_token=np.zeros(top_k, np.int64), pair_weight=np.zeros(top_k, np.float32),
    )  # fmt: skip
    layer = np.zeros(1, LAYER)
    layer["is_moe"], layer["router_bias"] = 1, bias.ctypes.data if router.selection_bias else 0
    layer["softmax"], layer["normalize"] = router.score == "softmax", router.normalize
    layer["guard"], layer["route_scale"] = router.guard, router.scale
    layer["groups"], layer["kept_groups"] = router.groups, router.kept_groups
    address, record = step.address, layer.ctypes.data
    times = []
    for _ in range(200):
        scores[:] = logits
        started = time.perf_counter()
        kernels.route(address, record)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


class Choices:
    """Tokens of a router whose experts are used unequally, and the more so by the tokens that follow one another."""

    def __init__(self, layers: int, router: Router) -> None:
        self._rng, self._k = np.random.default_rng(1), router.top_k
        self._liking = self._rng.gumbel(size=(layers, router.experts)) * 0.6
        self._lately = np.zeros_like(self._liking)

    def next(self) -> NDArray[np.int64]:
        """[layers, k]."""
        self._lately = 0.9 * self._lately + 0.45 * self._rng.gumbel(size=self._lately.shape)
        worth = self._liking + self._lately + self._rng.gumbel(size=self._lately.shape)
        return np.argpartition(-worth, self._k, axis=1)[:, : self._k].astype(np.int64)


def pager_seconds(shape: Shape, plan: PagingPlan) -> tuple[float, float, float]:
    """Of one token: processor time of the pager; misses; and the share of uses that are found in memory."""
    router = next(iter(shape.routers.values()))
    layers, experts = list(shape.routers), router.experts
    residency = Residency({n: DecayedUse(experts) for n in layers}, plan.keep, plan.slots)
    offsets = {n: np.zeros(experts, np.int64) for n in layers}
    pager = ExpertPager(NoStore(), residency, plan, offsets, {n: np.zeros(experts, np.int64) for n in layers})
    choices, times = Choices(len(layers), router), list[float]()
    before = pager.stats.copy()
    for token in range(WARM + TOKENS):
        chosen, following = choices.next(), choices.next()
        before = pager.stats.copy() if token == WARM else before
        started = time.process_time()
        for row, n in enumerate(layers):
            for wave in pager.start_layer(n, chosen[row : row + 1]):
                if row + 1 < len(layers):
                    right = [*chosen[row + 1, : router.top_k - 1], following[row + 1, 0]]  # a guess is wrong at times
                    pager.read_ahead(layers[row + 1], [int(e) for e in right])
                pager.wait(n, wave)
            pager.finish_layer()
        times.append(time.process_time() - started)
    stats = pager.stats.since(before)
    return statistics.median(times[WARM:]), float(stats.misses.sum()) / TOKENS, stats.hit_rate


def show_plans(shape: Shape, recipe: Recipe, budgets: list[str], gbps: float) -> None:
    demand = demand_of(shape, plan_tensors(shape, recipe.schemes))
    router = next(iter(shape.routers.values()))
    layers = len(shape.routers)
    search, token = router_seconds(router) * layers, demand.bytes_per_token / gbps / 1e9
    print(f"{layers} layers x {router.experts} experts, top {router.top_k}, {demand.expert_bytes / 1e6:.2f} MB each; ")
    print(f"a token: {demand.bytes_per_token / 1e9:.2f} GB, {token * 1e3:.0f} ms at {gbps:.1f} GB/s")
    print(f"router: {search / layers * 1e6:.1f} us a layer, {search * 1e3:.2f} ms a token, {search / token:.2%} of it")
    print("| budget | kept of a layer | slots | estimate: hits, MB | pager, ms a token | of a token | misses |")
    print("|---|---|---|---|---|---|---|")
    for name in budgets:
        print(plan_row(shape, demand, name, token))


def plan_row(shape: Shape, demand: Demand, budget: str, token: float) -> str:
    plan = plan_memory(
        shape, demand, Budget(parse_size(budget), stated=True), Wishes(context=4096, threads=choose_threads(None))
    )
    if plan.missing_bytes:
        return f"| {budget} | {plan.missing_bytes / 1e9:.1f} GB are missing |"
    if plan.paging is None:
        return f"| {budget} | all |"
    fit = estimate(demand, ANY_MACHINE, plan.kept)
    spent, misses, hits = pager_seconds(shape, plan.paging)
    expected = f"{fit.hit_rate:.0%}, {fit.read_bytes_per_token / 1e6:.0f}"
    cells = (f"{plan.kept * demand.experts:.1f}", f"{plan.paging.slots}", expected, f"{spent * 1e3:.2f}",
             f"{spent / token:.2%}", f"{misses:.0f} ({hits:.0%} hits)")  # fmt: skip
    return f"| {budget} | {' | '.join(cells)} |"


def cut(raw: dict[str, Any], layers: int) -> dict[str, Any]:
    """A config with the first layers only, of which no more than one is dense."""
    dense = "first_k_dense_replace"
    raw = raw | ({dense: min(raw[dense], 1)} if dense in raw else {})
    lists = {k: v[:layers] for k, v in raw.items() if isinstance(v, list) and len(v) == raw["num_hidden_layers"]}
    return raw | lists | {"num_hidden_layers": layers}


def folder_of(args: argparse.Namespace, recipe: Recipe) -> Path:
    return Path(args.work / f"{args.shape}-{args.layers}-{recipe.name}")


def make_part(args: argparse.Namespace, recipe: Recipe) -> None:
    """A model of the first layers of the shape, unless it is there."""
    from edge_lfm.quantize.synth import synthesize

    if not folder_of(args, recipe).exists():
        synthesize(cut(family_config(args.shape), args.layers), folder_of(args, recipe), recipe)


def run_part(args: argparse.Namespace, recipe: Recipe) -> None:
    """Decode with the first layers of the shape."""
    from edge_lfm import Model

    rng = np.random.default_rng(0)
    with Model.load(folder_of(args, recipe), ram=args.ram, context=1024) as model:
        vocab = model.shape.vocab
        prompt = rng.integers(0, vocab, 16).tolist()
        backend: Any = model.backend
        model.generate(prompt, max_tokens=16, raw=True, ignore_eos=True, temperature=1.0, seed=1)
        before, started = backend.pager and backend.pager.stats.copy(), time.perf_counter()
        answer = model.generate(prompt, max_tokens=args.tokens, raw=True, ignore_eos=True, temperature=1.0, seed=2)
        seconds, count = time.perf_counter() - started, len(answer.token_ids)
        checksum = f"{zlib.crc32(np.array(answer.token_ids, np.int32).tobytes()):08x}"
        print(f"{args.layers} layers: {count} tokens, checksum {checksum}; {answer.timings.decode_tps:.2f} tok/s")
        if backend.pager is not None:
            stats, plan = backend.pager.stats.since(before), backend.pager.plan
            print(
                f"{args.ram}: {plan.keep} kept, {plan.slots} slots; hits {stats.hit_rate:.0%}, "
                f"{stats.bytes_read / count / 1e6:.0f} MB a token, {stats.stall_s.sum() / seconds:.0%} of the time "
                f"waiting; guesses {stats.ahead_used} used, {stats.ahead_wasted} wasted"
            )


def run_limited(args: argparse.Namespace) -> None:
    """This program again, in a cgroup of --limit."""
    limit = parse_size(args.limit)
    command = [sys.executable, __file__, "--shape", args.shape, "--recipe", args.recipe, "--layers", str(args.layers)]
    command += ["--work", str(args.work), "--tokens", str(args.tokens), "--ram", str(limit - LEFT_BYTES)]
    with memory_cgroup(limit) as group:
        output, charged = run_in(group, command)
    print(f"{output.strip()}; charged {charged / limit:.0%} of {args.limit}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="minimax-m2")
    parser.add_argument("--recipe", default="balanced")
    parser.add_argument("--budgets", default="16G,32G,64G")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--ram", default="4G")
    parser.add_argument("--limit", help="of a memory cgroup that it runs in; then --ram follows from it")
    parser.add_argument("--tokens", type=int, default=32)
    args = parser.parse_args()
    recipe, shape = find_recipe(args.recipe), read_shape(family_config(args.shape))
    if args.layers:
        make_part(args, recipe)
        if args.limit:
            run_limited(args)
        else:
            run_part(args, recipe)
        return
    machine = measure_machine(load_kernels(), choose_threads(None), Path())
    show_plans(shape, recipe, args.budgets.split(","), machine.read_gbps)


if __name__ == "__main__":
    main()
