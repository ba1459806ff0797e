"""Speculative decoding by prompt lookup: drafts are what followed the last n-gram where it stood before.

Drafts are verified by one step over all of them; rejected ones are undone. A step gives each token the same
logits, bit for bit, however many tokens it has, so the text is that of plain decoding, seeds included.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from edge_lfm.engine.feeds import Logits, Steps
from edge_lfm.engine.generate import Give, Timings
from edge_lfm.engine.sampling import Sampler
from edge_lfm.engine.sequence import TokenSequence

NGRAM = 3
MAX_SAMPLING_S = 0.05
"""Of one step's rows: others wait meanwhile, and a row takes up to 20 ms where all of 65,536 tokens are sorted. What is
not drawn by then is drawn from the next step, and is the same."""


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

    def propose(self, count: int) -> list[int]:
        """At most `count` tokens that followed the final n-gram when it stood last."""
        start = self._after.get(self._pending)
        return [] if start is None else self._ids[start : start + count]


def decode_with_lookup(
    sequence: TokenSequence,
    logits: Logits,
    sampler: Sampler,
    stop_ids: Sequence[int],
    max_tokens: int,
    timings: Timings,
    give: Give,
    max_drafts: int,
) -> Steps[None]:
    """As `generate.decode`, with up to `max_drafts` drafts a step. The sequence never holds more than was given out."""
    state = sequence.state
    lookup, rows = Lookup(sampler.seen), logits[None]
    drafts: list[int] = []
    before = state.checkpoint()
    while True:
        tokens = _agree(rows, drafts, sampler, stop_ids, max_tokens - timings.completion_tokens)
        timings.drafted += len(drafts)
        timings.accepted += sum(token == draft for token, draft in zip(tokens, drafts, strict=False))
        if len(tokens) < len(rows):
            sequence.undo(state.checkpoint_after(before, len(tokens)))
        for token, row in zip(tokens, rows, strict=False):
            lookup.extend(token)
            timings.completion_tokens += 1
            if not give(token, row):
                return
        if (
            tokens[-1] in stop_ids
            or sampler.ended
            or timings.completion_tokens >= max_tokens
            or state.position >= state.context
        ):
            return
        drafts = lookup.propose(min(max_drafts, state.context - state.position - 1))
        before, rows = yield from sequence.draft([tokens[-1], *drafts])


def _agree(rows: Logits, drafts: list[int], sampler: Sampler, stop_ids: Sequence[int], max_tokens: int) -> list[int]:
    """Sample along the rows as long as the drafts agree."""
    tokens: list[int] = []
    until = time.monotonic() + MAX_SAMPLING_S
    for n, row in enumerate(rows):
        token = sampler.next(row)
        tokens.append(token)
        if token in stop_ids or sampler.ended or len(tokens) == max_tokens or n == len(drafts) or token != drafts[n]:
            break
        if time.monotonic() > until:
            break
    return tokens
