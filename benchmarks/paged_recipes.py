"""Decode of recipes beside each other when memory is short, under the same cgroup limit, in one interleaved run.

    sudo python benchmarks/paged_recipes.py --work DIR --limits 4G --recipes balanced,compact,tiny

Random weights route all but uniformly, the worst case for any cache. Needs root and 33 GB of disk. Ratios are to the
first recipe, of medians.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

from paging import drop_cache, ours

from edge_lfm.memory.budget import parse_size
from edge_lfm.quantize.families import family_config
from edge_lfm.quantize.recipe import find_recipe
from edge_lfm.quantize.synth import synthesize


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="lfm2-24b-a2b")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--limits", default="4G")
    parser.add_argument("--recipes", default="balanced,compact,tiny")
    parser.add_argument("--threads", default="2")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("-p", "--prompt", default="16")
    parser.add_argument("-n", "--generate", default="32")
    args = parser.parse_args()
    models = {name: args.work / f"{args.shape}-{name}" for name in args.recipes.split(",")}
    for name, folder in models.items():
        if not folder.exists():
            synthesize(family_config(args.shape), folder, find_recipe(name))
    print("| limit | recipe | prefill tok/s | decode tok/s | ratio | hits | MB a token | GB/s read |")
    print("|---|---|---|---|---|---|---|---|")
    for limit in args.limits.split(","):
        rounds: dict[str, list[dict[str, float]]] = {name: [] for name in models}
        for _ in range(args.rounds):
            for name, folder in models.items():
                drop_cache(folder / "model.safetensors")
                rounds[name].append(ours(folder, parse_size(limit), args))
        first = 0.0
        for name, results in rounds.items():
            keys = (f"pp{args.prompt}", f"tg{args.generate}", "hits", "mb", "read")
            read, made, hits, mb, rate = (statistics.median(result[key] for result in results) for key in keys)
            first = first or made
            cells = f"{read:.2f} | {made:.2f} | {made / first:.2f} | {hits:.0%} | {mb:.0f} | {rate:.2f}"
            print(f"| {limit} | {name} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
