"""What routing that prefers experts in memory costs and saves, on a model with real routing.

    python benchmarks/cached_routing.py MODEL TEXT --shares 0.25,0.5 --ratios 0.95,0.9,0.8

Text goes through the model one token at a time, as in decode; KL divergence and agreement are to the same model with
exact routing, misses are per token.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from edge_lfm.engine.evaluate import Experts, measure_divergence
from edge_lfm.engine.paged import fixed_bytes, paged_runner, slot_bytes_of
from edge_lfm.engine.runner import Runner
from edge_lfm.kernels.library import load_kernels
from edge_lfm.kernels.ref import F32, I64
from edge_lfm.memory.budget import RING_SLOTS, Budget
from edge_lfm.model.packed_model import PackedModel
from edge_lfm.model.state import State
from edge_lfm.text.windows import read_text, windows_of


class OneByOne:
    """A scorer that decodes: one step a token."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner

    def prepare(self, windows: object, advance: object) -> None:
        pass

    def score(self, _n: int, window: I64) -> tuple[F32, Experts]:
        state = State(self.runner.model.config, len(window))
        return np.stack([self.runner.run(window[t : t + 1], state) for t in range(len(window))]), {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--shares", default="0.25,0.5")
    parser.add_argument("--ratios", default="1.0,0.95,0.9,0.8,0.7")
    parser.add_argument("--windows", type=int, default=12)
    args = parser.parse_args()
    windows = windows_of(args.model, read_text(args.text), 512, args.windows)
    print("| share kept | ratio | misses a token | KL divergence | same top | perplexity |\n|---|---|---|---|---|---|")
    with PackedModel(args.model) as exact, Runner(exact, load_kernels(), 1) as reference:
        for share in map(float, args.shares.split(",")):
            for ratio in map(float, args.ratios.split(",")):
                with PackedModel(args.model) as model:
                    layers = sum(model.config.is_moe(n) for n in range(model.config.num_hidden_layers))
                    slots = round(share * model.config.num_experts) * layers + min(RING_SLOTS, model.config.num_experts)
                    budget = Budget(fixed_bytes(model, load_kernels(), 1) + slots * slot_bytes_of(model), stated=True)
                    with paged_runner(model, load_kernels(), 1, budget, 0) as runner:
                        runner.cached_ratio = ratio
                        found = measure_divergence(OneByOne(runner), OneByOne(reference), windows, lambda _n: None)
                        assert runner.pager is not None
                        misses = runner.pager.stats.misses.sum() / sum(len(w) for w in windows)
                print(
                    f"| {share:.0%} | {ratio} | {misses:.2f} | {found.kl_mean:.5f} | {found.same_top:.2%} | "
                    f"{found.perplexity:.2f} / {found.reference_perplexity:.2f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
