"""A head with a screen beside the same head without: decode speed, interleaved, and what a token reads of either.

    python benchmarks/screening.py MODEL --text FILE [--threads 1,2] [--tokens 256]

MODEL: a packed model whose recipe has a class `screen`. Its tokens are those of the text, fed one by one; the weights
must be a real model's, for what is computed of the head depends on its logits.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from pathlib import Path

import numpy as np

from edge_lfm.engine.feeds import Feed
from edge_lfm.engine.runner import Runner
from edge_lfm.engine.sampling import Sampler, SamplingOptions
from edge_lfm.kernels.load.library import load_kernels
from edge_lfm.kernels.spec.schemes import SCHEMES, TILE_ROWS
from edge_lfm.memory.prefault import Prefault
from edge_lfm.model.packed_model import PackedModel
from edge_lfm.model.plan import head_name
from edge_lfm.model.state import State
from edge_lfm.text.tokenizer import Tokenizer

SAMPLERS = {
    "whole head": None,
    "greedy": SamplingOptions(),
    "min-p": SamplingOptions(temperature=0.3, min_p=0.15, repeat_penalty=1.05),
    "top-k": SamplingOptions(temperature=0.7, top_k=20),
}


def once(runner: Runner, ids: list[int], options: SamplingOptions | None) -> tuple[float, list[int]]:
    """Seconds a token, and of each token the tiles of the head that were computed beside the screen."""
    state, tiles, total = State(runner.model.shape, len(ids)), [], 0.0
    sampler = Sampler(options, runner.model.shape.vocab, ids) if options else None
    for token in ids:
        before, started = runner.exact_tiles, time.perf_counter()
        runner.run([Feed(state, (token,), contenders=sampler.contenders() if sampler else None)])
        total += time.perf_counter() - started
        tiles.append(runner.exact_tiles - before)
    return total / len(ids), tiles


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    model, tokenizer = PackedModel(args.model), Tokenizer(args.model)
    tensor = model.tensors[head_name(model.shape)]
    assert tensor.screen is not None, "the model has no screen"
    ids = tokenizer.encode(args.text.read_text(encoding="utf-8"))[: args.tokens]
    head, screen = tensor.matrices[0].nbytes, tensor.nbytes - tensor.matrices[0].nbytes
    tile = SCHEMES[tensor.matrices[0].scheme].tile_bytes(model.shape.hidden)
    Prefault(*model.span).wait()
    print(f"head {head / 1e6:.1f} MB, {-(-model.shape.vocab // TILE_ROWS)} tiles; screen {screen / 1e6:.1f} MB")
    print("| sampler | threads | tiles a token: mean | median | 95 % | MB of head, screen | decode tok/s | ratio |")
    print("|---|---|---|---|---|---|---|---|")
    for threads in map(int, args.threads.split(",")):
        took: dict[str, list[float]] = defaultdict(list)
        tiles: dict[str, list[int]] = {}
        with Runner(model, load_kernels(), threads) as runner:
            for _ in range(args.rounds):
                for name, options in SAMPLERS.items():
                    seconds, tiles[name] = once(runner, ids, options)
                    took[name].append(seconds)
        whole = statistics.median(took["whole head"])
        for name, options in SAMPLERS.items():
            seconds, counts = statistics.median(took[name]), np.array(tiles[name])
            read = head if options is None else screen + counts.mean() * tile
            middle, most = np.percentile(counts, (50, 95))
            cells = f"{counts.mean():.1f} | {middle:.0f} | {most:.0f} | {read / 1e6:.2f}"
            print(f"| {name} | {threads} | {cells} | {1 / seconds:.1f} | {whole / seconds:.2f} |", flush=True)


if __name__ == "__main__":
    main()
