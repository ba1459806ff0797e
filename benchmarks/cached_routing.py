"""What routing that prefers experts in memory costs and saves, on a model with real routing.

    python benchmarks/cached_routing.py MODEL TEXT --shares 0.25,0.5 --ratios 0.95,0.9,0.8 [--tasks FILE]

Text goes through the model one token at a time, as in decode; KL divergence and agreement are to the same model with
exact routing, misses are per token. Tasks are answered greedily, and compared with exact routing by a sign test.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from edge_lfm.cli.text_files import read_text
from edge_lfm.engine.paged import paged_runner, slot_bytes_of
from edge_lfm.engine.runner import Runner
from edge_lfm.kernels.load.library import load_kernels
from edge_lfm.kernels.spec.ref import F32, I64
from edge_lfm.measure.evaluation import Experts, measure_divergence
from edge_lfm.measure.tasks import Task, compare, judge, read_tasks
from edge_lfm.memory.budget import Budget
from edge_lfm.memory.plan import RING_SLOTS, plan_paging
from edge_lfm.model.demand import demand_of
from edge_lfm.model.packed_model import PackedModel
from edge_lfm.model.state import State
from edge_lfm.text.tokenizer import Tokenizer
from edge_lfm.text.windows import windows_of


class OneByOne:
    """A scorer that decodes: one step a token."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner

    def prepare(self, windows: object, advance: object) -> None:
        pass

    def score(self, _n: int, window: I64) -> tuple[F32, Experts]:
        state = State(self.runner.model.shape, len(window))
        return np.stack([self.runner.read(window[t : t + 1], state) for t in range(len(window))]), {}


def answer(runner: Runner, tokenizer: Tokenizer, task: Task) -> str:
    """Greedily, the prompt one token at a time, too: cached routing is for steps of one token."""
    ids = tokenizer.encode(task.prompt, special=True)
    state = State(runner.model.shape, len(ids) + task.max_tokens)
    for token in ids:
        logits = runner.read([token], state)
    written: list[int] = []
    while len(written) < task.max_tokens and (token := int(logits[: tokenizer.size].argmax())) not in tokenizer.eos_ids:
        written.append(token)
        logits = runner.read([token], state)
    return tokenizer.decode(written, special=True)


@contextmanager
def cached(folder: Path, share: float, ratio: float) -> Iterator[Runner]:
    """A runner that keeps a share of the experts and routes with a ratio."""
    with PackedModel(folder) as model:
        layers = len(model.shape.routers)
        slots = round(share * model.shape.experts) * layers + min(RING_SLOTS, model.shape.experts)
        budget = Budget(slots * slot_bytes_of(model), stated=True)
        plan = plan_paging(demand_of(model.shape, list(model.tensors.values())), 0, budget.nbytes)
        with paged_runner(model, load_kernels(), 1, budget, plan, cached_ratio=ratio) as runner:
            yield runner


def compare_tasks(folder: Path, tasks: list[Task], settings: list[tuple[float, float]]) -> None:
    tokenizer = Tokenizer(folder)
    with PackedModel(folder) as model, Runner(model, load_kernels(), 1) as exact:
        before = judge(tasks, [answer(exact, tokenizer, task) for task in tasks], run_code=True)
    right = sum(map(bool, before)) / len(before)
    print(f"\nexact: {right:.1%} of {len(tasks)} tasks\n")
    print("| share kept | ratio | tasks right | lost | won | p |\n|---|---|---|---|---|---|")
    for share, ratio in settings:
        with cached(folder, share, ratio) as runner:
            after = judge(tasks, [answer(runner, tokenizer, task) for task in tasks], run_code=True)
        right = sum(map(bool, after)) / len(after)
        pairs = compare(before, after)
        print(f"| {share:.0%} | {ratio} | {right:.1%} | {pairs.lost} | {pairs.won} | {pairs.p:.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--shares", default="0.25,0.5")
    parser.add_argument("--ratios", default="1.0,0.95,0.9,0.8,0.7")
    parser.add_argument("--windows", type=int, default=12)
    parser.add_argument("--tasks", type=Path, help="also answer the samples of this file")
    parser.add_argument("--every", type=int, default=1, help="of the samples, take every so many")
    args = parser.parse_args()
    windows = windows_of(args.model, read_text(args.text), 512, args.windows)
    print("| share kept | ratio | misses a token | KL divergence | same top | perplexity |\n|---|---|---|---|---|---|")
    with PackedModel(args.model) as exact, Runner(exact, load_kernels(), 1) as reference:
        for share in map(float, args.shares.split(",")):
            for ratio in map(float, args.ratios.split(",")):
                with cached(args.model, share, ratio) as runner:
                    divergence = measure_divergence(OneByOne(runner), OneByOne(reference), windows, lambda _n: None)
                    assert runner.pager is not None
                    misses = runner.pager.stats.misses.sum() / sum(len(w) for w in windows)
                print(
                    f"| {share:.0%} | {ratio} | {misses:.2f} | {divergence.kl_mean:.5f} | {divergence.same_top:.2%} | "
                    f"{divergence.perplexity:.2f} / {divergence.reference_perplexity:.2f} |",
                    flush=True,
                )
    if args.tasks:
        shares, ratios = (tuple(map(float, text.split(","))) for text in (args.shares, args.ratios))
        settings = [(share, ratio) for share in shares for ratio in ratios if ratio < 1]
        compare_tasks(args.model, read_tasks(args.tasks)[:: args.every], settings)


if __name__ == "__main__":
    main()
