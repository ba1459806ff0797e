"""Recorded routing for models of another width and depth: streams of choices that are not related to each other.

A trace holds `experts` [tokens, layers, k], the heaviest first, and `offsets` of its sequences. Layers are stretched
over the model's. Where the model has twice as many experts as the trace, two sequences run at once: a token takes the
heavier half of both choices, the second sequence's numbered behind the first's. A stress case and no trace of that
model: name the trace beside the figures.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from edge_lfm.engine.feeds import Feed
from edge_lfm.engine.paged_runner import PagedRunner
from edge_lfm.engine.runner import Runner
from edge_lfm.model.state import State
from edge_lfm.shape import Shape

Choices = NDArray[np.int64]


class Trace:
    """`path`: of the trace; `layers`, `experts`, `top_k`: of the model that its choices are for."""

    def __init__(self, path: Path, layers: int, experts: int, top_k: int) -> None:
        with np.load(path, allow_pickle=False) as file:
            self._chosen, self._offsets = file["experts"].astype(np.int64), file["offsets"]
        recorded = -(-int(self._chosen.max() + 1) // 16) * 16
        self._at_once, rest = divmod(experts, recorded)
        if rest or self._at_once not in (1, 2) or top_k != self._chosen.shape[2] or top_k % self._at_once:
            k = self._chosen.shape[2]
            raise SystemExit(f"{path} is for models of {recorded} or {2 * recorded} experts, {k} a token")
        self._recorded = recorded
        self._stretch = np.arange(layers) * self._chosen.shape[1] // layers

    @classmethod
    def of(cls, path: Path, shape: Shape) -> Trace:
        """For a model of this shape."""
        return cls(path, len(shape.routers), shape.experts, shape.top_k)

    def streams(self, count: int, tokens: int, seed: int = 0) -> list[Choices]:
        """Choices [tokens, layers, k] for so many answers: each of sequences that no other one has."""
        order = iter(np.random.default_rng(seed).permutation(len(self._offsets) - 1).tolist())
        return [self._stream(order, tokens) for _ in range(count)]

    def _stream(self, order: Iterator[int], tokens: int) -> Choices:
        """One stream, of as many sequences as it takes."""
        parts, counted = list[Choices](), 0
        while counted < tokens:
            parts.append(self._part(order))
            counted += len(parts[-1])
        return np.concatenate(parts)[:tokens]

    def _part(self, order: Iterator[int]) -> Choices:
        numbers, ends = _some(order, self._at_once), self._offsets
        sequences = [self._chosen[ends[n] : ends[n + 1], self._stretch] for n in numbers]
        count, kept = min(map(len, sequences)), self._chosen.shape[2] // self._at_once
        halves = [part[:count, :, :kept] + n * self._recorded for n, part in enumerate(sequences)]
        return np.concatenate(halves, axis=2)


def _some(order: Iterator[int], count: int) -> list[int]:
    found = list(islice(order, count))
    if len(found) < count:
        raise SystemExit("the trace has too few sequences for so many answers")
    return found


class RecordedRouting:
    """Lets every step of a runner route as a trace does: a stream for each of its sequences, by their positions.

    streams: more than there are sequences at a time; no two of these have the same.
    """

    def __init__(self, runner: Runner, streams: list[Choices]) -> None:
        self._runner, self._rows = runner, {n: row for row, n in enumerate(runner.expert_layers)}
        self._streams, self._taken = streams, WeakKeyDictionary[State, int]()
        compute = runner.compute
        if isinstance(runner, PagedRunner):
            runner.lookahead = None  # it guesses by the routers
        runner.compute = lambda _, cancelled: compute(self, cancelled)  # type: ignore[method-assign]

    def __call__(self, layer: int, _chosen: Choices) -> Choices:
        """The choices [T, k] of the step under way."""
        return np.concatenate([self._choices(feed)[:, self._rows[layer]] for feed in self._runner.step.feeds])

    def _choices(self, feed: Feed) -> Choices:
        """Of the tokens of one feed [count, layers, k]; a stream begins anew where it ends."""
        if feed.state not in self._taken:
            taken = set(self._taken.values())
            self._taken[feed.state] = next(n for n in range(len(self._streams)) if n not in taken)
        stream, first = self._streams[self._taken[feed.state]], feed.state.position
        return stream[np.arange(first, first + len(feed.token_ids)) % len(stream)]
