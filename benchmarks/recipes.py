"""Speed of recipes beside each other, in one interleaved run: decode and prefill on random weights of one shape.

    python benchmarks/recipes.py --shape lfm2-8b-a1b --work DIR --recipes int4,balanced,quality --threads 1,2

All models must fit into memory together (14 GB for the three above). Ratios are to the first recipe, of medians.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from pathlib import Path

import numpy as np

from edge_lfm.engine.runner import Runner
from edge_lfm.kernels.load.library import load_kernels
from edge_lfm.memory.prefault import Prefault
from edge_lfm.model.packed_model import PackedModel
from edge_lfm.model.sizes import measure_sizes
from edge_lfm.model.state import State
from edge_lfm.quantize.families import family_config
from edge_lfm.quantize.recipe import find_recipe
from edge_lfm.quantize.synth import synthesize


def open_model(work: Path, shape: str, recipe: str) -> PackedModel:
    folder = work / f"{shape}-{recipe}"
    if not folder.exists():
        synthesize(family_config(shape), folder, find_recipe(recipe))
    model = PackedModel(folder)
    Prefault(*model.span).wait()
    return model


def once(runner: Runner, ids: list[int], decode: int) -> tuple[float, float]:
    """Prefill and decode, tokens per second."""
    state = State(runner.model.shape, len(ids) + decode, "float16")
    started = time.perf_counter()
    runner.read(ids, state)
    read = time.perf_counter()
    for token in range(decode):
        runner.read([1000 + 37 * token], state)
    return len(ids) / (read - started), decode / (time.perf_counter() - read)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="lfm2-8b-a1b")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--recipes", default="int4,balanced,quality")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--decode", type=int, default=32)
    args = parser.parse_args()
    models = {name: open_model(args.work, args.shape, name) for name in args.recipes.split(",")}
    ids = np.random.default_rng(0).integers(100, 60000, args.prompt).tolist()
    print("| recipe | threads | GB per token | prefill tok/s | ratio | decode tok/s | ratio |")
    print("|---|---|---|---|---|---|---|")
    for threads in map(int, args.threads.split(",")):
        speeds: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for _ in range(args.rounds):
            for name, model in models.items():
                with Runner(model, load_kernels(), threads) as runner:
                    speeds[name].append(once(runner, ids, args.decode))
        columns = {name: list(zip(*rows, strict=True)) for name, rows in speeds.items()}
        medians = {name: [statistics.median(column) for column in both] for name, both in columns.items()}
        first = next(iter(medians.values()))
        for name, (read, made) in medians.items():
            size = measure_sizes(models[name].shape, list(models[name].tensors.values())).bytes_per_token / 1e9
            cells = (f"{read:.1f}", f"{read / first[0]:.2f}", f"{made:.2f}", f"{made / first[1]:.2f}")
            print(f"| {name} | {threads} | {size:.3f} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
