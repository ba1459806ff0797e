"""Speed of recipes beside each other, in one interleaved run: decode and prefill on random weights of one shape.

    python benchmarks/recipes.py --shape lfm2-8b-a1b --work DIR --recipes int4,balanced,quality --threads 1,2

All models must fit into memory together (14 GB for the three above). Ratios are to the first recipe, of medians.

`compact+screen` is `compact` with a screen of the head in four bits, and decodes as greedy answers do. How many tiles
of the head a token needs besides depends on a model's weights, and these are random: --tiles of them are computed.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_lfm.engine.feeds import Contenders, Feed
from edge_lfm.engine.runner import Runner
from edge_lfm.kernels.load.library import load_kernels
from edge_lfm.kernels.spec.schemes import SCHEMES
from edge_lfm.memory.prefault import Prefault
from edge_lfm.model.packed_model import PackedModel
from edge_lfm.model.plan import head_name
from edge_lfm.model.sizes import measure_sizes
from edge_lfm.model.state import State
from edge_lfm.quantize.families import family_config
from edge_lfm.quantize.recipe import Recipe, find_recipe
from edge_lfm.quantize.synth import synthesize


def recipe_of(name: str) -> Recipe:
    """The recipe, with a screen if its name ends so."""
    recipe = find_recipe(name.removesuffix("+screen"))
    if not name.endswith("+screen"):
        return recipe
    by_class = {**recipe.schemes.by_class, "screen": "codebook4_g32"}
    return replace(recipe, schemes=replace(recipe.schemes, by_class=by_class))


def open_model(work: Path, shape: str, recipe: str) -> PackedModel:
    folder = work / f"{shape}-{recipe}"
    if not folder.exists():
        synthesize(family_config(shape), folder, recipe_of(recipe))
    model = PackedModel(folder)
    Prefault(*model.span).wait()
    return model


def some_tiles(count: int) -> Contenders:
    """What looks for the tokens that may be the greedy one, and names tokens of `count` tiles whatever it finds."""

    def contenders(least: NDArray[np.float32], most: NDArray[np.float32]) -> NDArray[np.int64]:
        np.flatnonzero(most >= least.max())
        return np.linspace(0, len(least) - 1, count).astype(np.int64)

    return contenders


def once(runner: Runner, ids: list[int], decode: int, contenders: Contenders) -> tuple[float, float]:
    """Prefill and decode, tokens per second. contenders: asked of a model with a screen."""
    state = State(runner.model.shape, len(ids) + decode, "float16")
    started = time.perf_counter()
    runner.read(ids, state)
    read = time.perf_counter()
    for token in range(decode):
        runner.run([Feed(state, (1000 + 37 * token,), contenders=contenders)])
    return len(ids) / (read - started), decode / (time.perf_counter() - read)


def bytes_per_token(model: PackedModel, tiles: int) -> int:
    """Bytes that are read for a token; of a screened head the screen and so many tiles."""
    head = model.tensors[head_name(model.shape)]
    most = measure_sizes(model.shape, list(model.tensors.values())).bytes_per_token
    if head.screen is None:
        return most
    matrix = head.matrices[0]
    return most - matrix.nbytes + tiles * SCHEMES[matrix.scheme].tile_bytes(model.shape.hidden)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="lfm2-8b-a1b")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--recipes", default="int4,balanced,quality")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--decode", type=int, default=32)
    parser.add_argument("--tiles", type=int, default=64)
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
                    speeds[name].append(once(runner, ids, args.decode, some_tiles(args.tiles)))
        columns = {name: list(zip(*rows, strict=True)) for name, rows in speeds.items()}
        medians = {name: [statistics.median(column) for column in both] for name, both in columns.items()}
        first = next(iter(medians.values()))
        for name, (read, made) in medians.items():
            size = bytes_per_token(models[name], args.tiles) / 1e9
            cells = (f"{read:.1f}", f"{read / first[0]:.2f}", f"{made:.2f}", f"{made / first[1]:.2f}")
            print(f"| {name} | {threads} | {size:.3f} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
