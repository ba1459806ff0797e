"""What a budget holds of a model in each recipe, by the plan that loading follows: no weights, no speed.

    python benchmarks/paged_plans.py --shape lfm2-24b-a2b --budgets 3G,4G,6G,8G --recipes balanced,compact,tiny

Hits are those of GPT-OSS-20B's recorded routing for the share of experts that is kept (`devices/estimate.py`).
"""

from __future__ import annotations

import argparse

from edge_lfm.architectures import read_shape
from edge_lfm.devices.estimate import Machine, estimate
from edge_lfm.memory.budget import Budget
from edge_lfm.memory.plan import Wishes, plan_memory
from edge_lfm.model.demand import demand_of
from edge_lfm.model.plan import plan_tensors
from edge_lfm.quantize.families import family_config
from edge_lfm.quantize.recipe import find_recipe

ANY_MACHINE = Machine(read_gbps=1.0, int8_gops=1.0, prefill_share=1.0, storage_gbps=1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="lfm2-24b-a2b")
    parser.add_argument("--budgets", default="3G,4G,6G,8G")
    parser.add_argument("--recipes", default="balanced,compact,tiny")
    parser.add_argument("--context", type=int, default=4096)
    args = parser.parse_args()
    shape, budgets = read_shape(family_config(args.shape)), args.budgets.split(",")
    print(f"| recipe | an expert | {' | '.join(budgets)} |")
    print(f"|---|---|{'---|' * len(budgets)}")
    for name in args.recipes.split(","):
        demand, cells = demand_of(shape, plan_tensors(shape, find_recipe(name).schemes)), []
        for budget in budgets:
            paging = plan_memory(shape, demand, Budget.of(budget), Wishes(context=args.context, threads=2)).paging
            kept = paging.keep / paging.experts if paging else 1.0
            fit = estimate(demand, ANY_MACHINE, kept)
            cells.append(f"{kept * demand.experts:.1f}, {fit.hit_rate:.0%}, {fit.read_bytes_per_token / 1e6:.0f} MB")
        print(f"| `{name}` | {demand.expert_bytes / 1e6:.2f} MB | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
