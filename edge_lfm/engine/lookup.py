"""Speculative decoding by prompt lookup: drafts are what followed the last n-gram where it stood before.

Drafts are verified by one step over all of them; rejected ones are undone. A step gives each token the same
logits, bit for bit, however many tokens it has, so the text is that of plain decoding, seeds included.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from edge_lfm.engine.backend import Backend
from edge_lfm.engine.generate import Timings
from edge_lfm.engine.sampling import Sampler
from edge_lfm.engine.sequence import TokenSequence

NGRAM = 3


class Lookup:
    """An index of where each n-gram of a text was followed by what."""

    def __init__(self, token_ids: Sequence[int]) -> None:
        self._ids: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}  # n-gram -> index of the token after its last occurrence
        self._pending: tuple[int, ...] = ()
        for token in token_ids:
            self.extend(token)

    def extend(self, token: int) -> None:
        """Append one token."""
        if self._pending:
            self._after[self._pending] = len(self._ids)
        self._ids.append(token)
        self._pending = tuple(self._ids[-NGRAM:]) if len(self._ids) >= NGRAM else ()

    def propose(self, most: int) -> list[int]:
        """At most `most` tokens that followed the final n-gram when it stood last."""
        start = self._after.get(self._pending)
        return [] if start is None else self._ids[start : start + most]


def decode_with_lookup(
    runner: Backend,
    sequence: TokenSequence,
    logits: NDArray[np.float32],
    sampler: Sampler,
    stop_ids: Sequence[int],
    max_tokens: int,
    timings: Timings,
    most: int,
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """As `generate.decode`, with up to `most` drafts a step. The sequence never holds more than was given out."""
    state = sequence.state
    lookup, rows = Lookup(sampler.seen), logits[None]
    drafts: list[int] = []
    before = state.checkpoint()
    while True:
        given = _agree(rows, drafts, sampler, stop_ids, max_tokens - timings.completion_tokens)
        timings.completion_tokens += len(given)
        if len(given) < len(rows):
            sequence.undo(state.checkpoint_after(before, len(given)))
        for token, row in zip(given, rows, strict=False):
            lookup.extend(token)
            yield token, row
        if (
            given[-1] in stop_ids
            or sampler.ended
            or timings.completion_tokens >= max_tokens
            or state.position >= state.context
        ):
            return
        drafts = lookup.propose(min(most, state.context - state.position - 1))
        before = state.checkpoint()
        started = time.perf_counter()
        rows = sequence.draft(runner, [given[-1], *drafts])
        timings.decode_s += time.perf_counter() - started


def _agree(
    rows: NDArray[np.float32], drafts: list[int], sampler: Sampler, stop_ids: Sequence[int], most: int
) -> list[int]:
    """Sample along the rows as long as the drafts agree."""
    given: list[int] = []
    for n, row in enumerate(rows):
        token = sampler.next(row)
        given.append(token)
        if token in stop_ids or sampler.ended or len(given) == most or n == len(drafts) or token != drafts[n]:
            break
    return given
