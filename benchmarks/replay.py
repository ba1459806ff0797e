"""Hit rates of eviction policies on recorded routing: policy x cache size x trace, LRU and Belady's bound included.

    python benchmarks/replay.py TRACE.npz --sequences 24 --share 0.125,0.25,0.5

A trace holds `experts` [tokens, layers, k] and `offsets` of its sequences. Each layer of each sequence has a cache of
its own, empty at first. As in the runtime, what is read may be used and not kept. `learned` is the forecast of
`quantize/forecast.py`, fitted to other sequences of the trace.
"gap" is the part of the distance from LRU to Belady that a policy leaves.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from edge_lfm.memory.policy import DECAY, WEIGHTS, LearnedUse
from edge_lfm.quantize.forecast import fit_forecast

Score = Callable[[int], NDArray[np.float64]]


class Replay:
    """`used`: bool [tokens, sequences, layers, experts], False past the end of a sequence."""

    def __init__(self, used: NDArray[np.bool_]) -> None:
        self.used = used
        self.rng = np.random.default_rng(0)  # breaks ties

    def hit_rate(self, keep: int, score: Score) -> float:
        """`score(t)`: what experts are worth after token t, [sequences, layers, experts]; called in order."""
        resident = np.zeros(self.used.shape[1:], bool)
        hits = 0
        for t, chosen in enumerate(self.used):
            hits += int((resident & chosen).sum())
            at_hand = resident | chosen
            worth = np.where(at_hand, score(t) + 1e-9 * self.rng.random(resident.shape), -np.inf)
            resident = at_hand & (worth >= np.partition(worth, -keep, axis=2)[:, :, -keep, None])
        return hits / int(self.used.sum())

    def lru(self) -> Score:
        last = np.full(self.used.shape[1:], -1.0)

        def score(t: int) -> NDArray[np.float64]:
            last[self.used[t]] = t
            return last

        return score

    def belady(self) -> Score:
        """The negative time of the next use: the bound of any policy that does not read ahead."""
        following = np.full((len(self.used) + 1, *self.used.shape[1:]), 1 << 20, np.int32)
        for t in range(len(self.used) - 1, -1, -1):
            following[t] = np.where(self.used[t], t, following[t + 1])
        return lambda t: -following[t + 1].astype(np.float64)

    def decayed(self, decay: NDArray[np.float64], weights: NDArray[np.float64]) -> Score:
        counts = np.zeros((len(decay), *self.used.shape[1:]))

        def score(t: int) -> NDArray[np.float64]:
            counts[:] = counts * decay[:, None, None, None] + self.used[t]
            return np.tensordot(weights, counts, 1)

        return score

    def learned(self, weights: NDArray[np.float32]) -> Score:
        """As the runtime does: layers above a layer are known of the token before only."""
        _, sequences, layers, experts = self.used.shape
        latest = [np.zeros((layers, experts), bool) for _ in range(sequences)]
        policies = [[LearnedUse(n, weights[n], latest[s]) for n in range(layers)] for s in range(sequences)]

        def score(t: int) -> NDArray[np.float64]:
            out = np.zeros(self.used.shape[1:])
            for s, n in np.ndindex(sequences, layers):
                chosen = np.flatnonzero(self.used[t, s, n])
                if len(chosen):
                    policies[s][n].note(chosen[None])
                    out[s, n] = policies[s][n].scores
            return out

        return score


def load(path: Path) -> tuple[list[NDArray[np.bool_]], int]:
    """The sequences of a trace, bool [tokens, layers, experts], and the number of experts."""
    with np.load(path, allow_pickle=False) as file:
        chosen, offsets = file["experts"], file["offsets"]
    experts = int(chosen.max()) + 1
    parts = [chosen[a:b].astype(np.int64) for a, b in pairwise(offsets)]
    found = []
    for part in parts:
        used = np.zeros((*part.shape[:2], experts), bool)
        np.put_along_axis(used, part, True, axis=2)
        found.append(used)
    return found, experts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trace", type=Path)
    parser.add_argument("--sequences", type=int, default=24)
    parser.add_argument("--share", default="0.125,0.25,0.5", help="shares of the experts that each layer keeps")
    parser.add_argument(
        "--fit", type=int, default=200, help="other sequences that `learned` is fitted to; 0: leave out"
    )
    parser.add_argument("--forecast", type=Path, help="a calibration's forecast.safetensors, for `learned`")
    args = parser.parse_args()
    sequences, experts = load(args.trace)
    picks = np.linspace(0, len(sequences) - 1, args.sequences).astype(int)
    longest = max(len(sequences[i]) for i in picks)
    used = np.stack([np.pad(sequences[i], ((0, longest - len(sequences[i])), (0, 0), (0, 0))) for i in picks], axis=1)
    replay = Replay(used)
    policies: dict[str, Callable[[], Score]] = {"lru": replay.lru}
    policies |= {
        f"half-life {h}": lambda h=h: replay.decayed(np.array([0.5 ** (1 / h)]), np.ones(1)) for h in (4, 16, 64)
    }
    policies["decayed use"] = lambda: replay.decayed(DECAY, WEIGHTS)
    if args.forecast:
        fitted = load_file(args.forecast)["weights"].astype(np.float32)
        policies["learned"] = lambda: replay.learned(fitted)
    elif args.fit:
        others = [s for n, s in enumerate(sequences) if n not in set(picks)]
        model = fit_forecast(others[:: max(1, len(others) // args.fit)])
        policies["learned"] = lambda: replay.learned(model)
    policies["belady"] = replay.belady
    print(f"{args.trace.name}: {args.sequences} sequences, {int(used.any((2, 3)).sum())} tokens, {experts} experts")
    print("| share kept | policy | hit rate | gap to Belady left |\n|---|---|---|---|")
    for share in map(float, args.share.split(",")):
        rates = {name: replay.hit_rate(round(share * experts), make()) for name, make in policies.items()}
        for name, rate in rates.items():
            left = (rates["belady"] - rate) / (rates["belady"] - rates["lru"])
            print(f"| {share:.1%} | {name} | {rate:.3f} | {left:.0%} |", flush=True)


if __name__ == "__main__":
    main()
