"""Hit rates of eviction policies on recorded routing: policy x cache size x trace, LRU and Belady's bound included.

    python benchmarks/replay.py TRACE.npz --sequences 24 --share 0.125,0.25,0.5

A trace holds `experts` [tokens, layers, k] and `offsets` of its sequences; caches are empty at the start of each. LRU,
half-lives and Belady's bound give every layer a cache of its own. `decayed use` and `forecast` are the runtime's own
`Residency`, where layers share the slots; the forecast is fitted to other sequences of the trace. As in the runtime,
what is read may be used and not kept. "left of the gap": of the way from LRU to Belady, by decayed use and forecast.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from edge_lfm.memory.policy import DecayedUse, LearnedUse, horizon_of
from edge_lfm.memory.residency import Residency
from edge_lfm.quantize.forecast import fit_forecast

_RING = 16
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

    def half_life(self, tokens: int) -> Score:
        counts = np.zeros(self.used.shape[1:])

        def score(t: int) -> NDArray[np.float64]:
            counts[:] = counts * 0.5 ** (1 / tokens) + self.used[t]
            return counts

        return score

    def runtime(self, keep: int, make: Callable[[], dict[int, DecayedUse]]) -> float:
        """The hit rate of the runtime's own bookkeeping, with so many experts a layer on average."""
        hits = 0
        for used in self.used.swapaxes(0, 1):
            layers = used.shape[1]
            residency = Residency(make(), keep * layers, keep * layers + _RING)
            for t, n in np.ndindex(*used.shape[:2]):
                chosen = np.flatnonzero(used[t, n])
                if len(chosen):
                    residency.note(n, chosen[None])
                    missing = [e for e in chosen.tolist() if residency.slot(n, e) is None]
                    hits += len(chosen) - len(missing)
                    for expert in missing:
                        residency.admit(n, expert)
                    residency.settle(n, missing)
        return hits / int(self.used.sum())


def load(path: Path) -> tuple[list[NDArray[np.bool_]], int]:
    """The sequences of a trace, bool [tokens, layers, experts], and the number of experts."""
    with np.load(path, allow_pickle=False) as file:
        chosen, offsets = file["experts"], file["offsets"]
    experts = int(chosen.max()) + 1
    parts = [chosen[a:b].astype(np.int64) for a, b in pairwise(offsets)]
    used_experts = []
    for part in parts:
        used = np.zeros((*part.shape[:2], experts), bool)
        np.put_along_axis(used, part, True, axis=2)
        used_experts.append(used)
    return used_experts, experts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trace", type=Path)
    parser.add_argument("--sequences", type=int, default=24)
    parser.add_argument("--share", default="0.125,0.25,0.5", help="shares of the experts that each layer keeps")
    parser.add_argument(
        "--fit", type=int, default=200, help="other sequences that the forecast is fitted to; 0: leave out"
    )
    parser.add_argument("--forecast", type=Path, help="a calibration's forecast.safetensors, instead")
    args = parser.parse_args()
    sequences, experts = load(args.trace)
    picks = np.linspace(0, len(sequences) - 1, args.sequences).astype(int)
    longest = max(len(sequences[i]) for i in picks)
    used = np.stack([np.pad(sequences[i], ((0, longest - len(sequences[i])), (0, 0), (0, 0))) for i in picks], axis=1)
    replay = Replay(used)
    layers, top_k = range(used.shape[2]), int(used.sum(axis=3).max())
    yardsticks: dict[str, Callable[[], Score]] = {"lru": replay.lru}
    yardsticks |= {f"half-life {h}": lambda h=h: replay.half_life(h) for h in (4, 16, 64)}
    yardsticks["belady"] = replay.belady
    fitted = None
    if args.forecast:
        fitted = load_file(args.forecast)["weights"].astype(np.float32)
    elif args.fit:
        others = [s for n, s in enumerate(sequences) if n not in set(picks)]
        fitted = fit_forecast(others[:: max(1, len(others) // args.fit)])

    def forecast(keep: int) -> dict[int, DecayedUse]:
        latest = np.zeros((len(layers), experts), bool)
        return {n: LearnedUse(n, fitted[horizon_of(keep / top_k), n], latest) for n in layers}

    policies = [*yardsticks, "decayed use", *(["forecast"] if fitted is not None else [])]
    print(f"| share kept | {' | '.join(policies)} | left of the gap | tokens |")
    print("|---" * (len(policies) + 3) + "|")
    tokens = int(used.any((2, 3)).sum())
    for share in map(float, args.share.split(",")):
        keep = round(share * experts)
        rates = {name: replay.hit_rate(keep, make()) for name, make in yardsticks.items()}
        rates["decayed use"] = replay.runtime(keep, lambda: {n: DecayedUse(experts) for n in layers})
        if fitted is not None:
            rates["forecast"] = replay.runtime(keep, lambda keep=keep: forecast(keep))
        gap = rates["belady"] - rates["lru"]
        left = (f"{(rates['belady'] - rates[name]) / gap:.0%}" for name in policies[len(yardsticks) :])
        cells = (f"{rates[name]:.3f}" for name in policies)
        print(f"| {share:.1%} | {' | '.join(cells)} | {' / '.join(left)} | {tokens} |", flush=True)


if __name__ == "__main__":
    main()
