"""What rounding one expert by its outputs takes, part by part, in processor time of one thread; and so a whole model.

    python benchmarks/expert_rounding.py --shape lfm2-24b-a2b --recipe compact [--tokens 262144]

Weights and inputs are random numbers; what is done with them does not depend on their values. The expert sees its share
of the tokens, top-k of all experts.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from edge_lfm.architectures import read_shape
from edge_lfm.kernels.load.library import load_kernels
from edge_lfm.kernels.spec.ref import F32
from edge_lfm.model.plan import EXPERT_CLASS, PackedTensor, plan_tensors
from edge_lfm.quantize.calibration import Inputs
from edge_lfm.quantize.families import family_config
from edge_lfm.quantize.feedback import FeedbackPacker
from edge_lfm.quantize.recipe import find_recipe
from edge_lfm.shape import Shape

PARTS = (
    "moments_of", "_gated", "_first_error", "_second_error", "encode", "in_turn", "descended", "fitted", "factor_of",
    "solved", "panels_of", "_second", "_first",
)  # fmt: skip


@dataclass(frozen=True)
class RandomWeights:
    """An expert's weights, as a checkpoint gives them."""

    by_name: dict[str, F32]
    shape: Shape

    def __call__(self, name: str) -> F32:
        return self.by_name[name]

    def stored(self, name: str) -> F32:
        return self.by_name[name]

    def exact(self, name: str, scheme: object) -> None:
        return None

    def raw(self, name: str) -> Any:
        return self.by_name[name][:1]

    def forget_bytes(self, name: str, first: int, last: int) -> None:
        pass


@dataclass(frozen=True)
class RandomInputs:
    """What a calibration knows of one expert."""

    inputs: Inputs
    has_inputs: bool = True

    def importance_of(self, tensor: PackedTensor) -> dict[str, F32]:
        return {source.name: np.ones(source.shape[1], np.float32) for source in tensor.sources}

    def inputs_of(self, layer: int, expert: int) -> Inputs:
        return self.inputs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="lfm2-24b-a2b")
    parser.add_argument("--recipe", default="compact")
    parser.add_argument("--tokens", type=int, default=262144)
    args = parser.parse_args()
    shape, recipe, rng = read_shape(family_config(args.shape)), find_recipe(args.recipe), np.random.default_rng(0)
    experts = [tensor for tensor in plan_tensors(shape, recipe.schemes) if tensor.kind == EXPERT_CLASS]
    seen = args.tokens * shape.top_k // shape.experts
    weights = {s.name: rng.standard_normal(s.shape, np.float32) * np.float32(0.02) for s in experts[0].sources}
    x = rng.standard_normal((seen, shape.hidden), np.float32).astype(np.float16)
    inputs = RandomInputs(Inputs(x, rng.uniform(0.1, 0.4, seen).astype(np.float32)))
    packer = FeedbackPacker(RandomWeights(weights, shape), recipe, load_kernels(), inputs)  # type: ignore[arg-type]
    profile = cProfile.Profile(time.process_time)
    with threadpool_limits(1, "blas"):
        started = time.process_time()
        profile.runcall(packer.pack, experts[0])
        took = time.process_time() - started
    times: dict[str, float] = {}
    for (_, _, name), (_, _, _, whole, _) in pstats.Stats(profile).stats.items():  # type: ignore[attr-defined]
        if name in PARTS:
            times[name] = times.get(name, 0.0) + whole
    print(f"{seen:,} tokens of one expert: {took:.1f} s of one thread")
    print(
        "  ".join(f"{name} {times[name]:.2f}" for name in sorted(times, key=lambda n: -times[n])),
        "(each with what it calls)",
    )
    print(f"{len(experts):,} experts: {took * len(experts) / 3600:.1f} h of one thread")


if __name__ == "__main__":
    main()
