"""How often the next layer's router, applied one layer early, names the experts that the layer then takes.

    python benchmarks/guesses.py MODEL TEXT... [--tokens 300]

Tokens go through one by one, as in decode, for guesses are for steps of one token. By chance a guess is right as often
as the share of experts that a token takes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_lfm.cli.text_files import read_text
from edge_lfm.engine.feeds import Feed
from edge_lfm.engine.lookahead import Lookahead
from edge_lfm.engine.runner import Runner
from edge_lfm.kernels.load.library import load_kernels
from edge_lfm.model.packed_model import PackedModel
from edge_lfm.model.state import State
from edge_lfm.text.windows import windows_of


def right(runner: Runner, lookahead: Lookahead, tokens: NDArray[np.int64]) -> dict[int, list[float]]:
    """By layer: of every token, the share of its experts that were guessed."""
    shares: dict[int, list[float]] = {n: [] for n in lookahead.layers[1:]}
    guesses: dict[int, set[int]] = {}

    def watch(layer: int, chosen: NDArray[np.int64]) -> None:
        taken = set(chosen[0].tolist())
        if layer in guesses:
            shares[layer].append(len(guesses.pop(layer) & taken) / len(taken))
        guess = lookahead.guess(layer, runner.step.hidden)
        if guess is not None:
            guesses[guess[0]] = set(guess[1].tolist())

    state = State(runner.model.shape, len(tokens))
    for token in tokens:
        runner.run([Feed(state, [token], "none")], routing=watch)
    return shares


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("texts", type=Path, nargs="+")
    parser.add_argument("--tokens", type=int, default=300, help="of each text")
    args = parser.parse_args()
    with PackedModel(args.model) as model, Runner(model, load_kernels(), 1) as runner:
        lookahead, shape = Lookahead(model), model.shape
        rows = []
        for text in args.texts:
            window = windows_of(args.model, read_text(text), args.tokens, 1)[0]
            by_layer = [float(np.mean(shares)) for shares in right(runner, lookahead, window).values()]
            rows.append((text.stem, by_layer))
    print(f"| text | {' | '.join(f'layer {n}' for n in lookahead.layers[1:])} | mean |")
    print("|---" * (len(lookahead.layers) + 1) + "|")
    for name, by_layer in rows:
        print(f"| {name} | {' | '.join(f'{share:.0%}' for share in [*by_layer, float(np.mean(by_layer))])} |")
    chance = shape.top_k / shape.experts
    print(f"| by chance | {' | '.join([f'{chance:.0%}'] * len(lookahead.layers))} |")


if __name__ == "__main__":
    main()
