"""Speculative decoding: a drafter proposes tokens, one step verifies them, and what the model disagrees with is undone.

A step gives each token the same logits, bit for bit, however many tokens it has, and a draft is accepted where it is
the token that the user's sampler draws. So the text is that of plain decoding, seeds included, whoever drafts. Knows
no drafter.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Protocol

from edge_lfm.engine.feeds import Logits, Steps
from edge_lfm.engine.generate import Give, Timings
from edge_lfm.engine.sampling import Sampler
from edge_lfm.engine.sequence import TokenSequence

MAX_DRAFTS = 64
"""Of a step."""
MAX_SAMPLING_S = 0.05
"""Of one step's rows: others wait meanwhile, and a row takes up to 20 ms where all of 65,536 tokens are sorted. What is
not drawn by then is drawn from the next step, and is the same."""


class Drafter(Protocol):
    """Proposes how one answer may go on. Whatever it proposes, the answer is the same."""

    def extend(self, token: int) -> None:
        """The answer goes on with a token, which the model has not read yet."""

    def propose(self, count: int) -> list[int]:
        """At most `count` tokens that may follow the last one."""


def decode_with_drafts(
    sequence: TokenSequence,
    logits: Logits,
    sampler: Sampler,
    stop_ids: Sequence[int],
    max_tokens: int,
    timings: Timings,
    give: Give,
    drafter: Drafter,
    max_drafts: int,
) -> Steps[None]:
    """As `generate.decode`, with up to `max_drafts` drafts a step. The sequence never holds more than was given out."""
    state, rows = sequence.state, logits[None]
    drafts: list[int] = []
    before = state.checkpoint()
    while True:
        tokens = _agree(rows, drafts, sampler, stop_ids, max_tokens - timings.completion_tokens)
        timings.drafted += len(drafts)
        timings.accepted += sum(token == draft for token, draft in zip(tokens, drafts, strict=False))
        if len(tokens) < len(rows):
            sequence.undo(state.checkpoint_after(before, len(tokens)))
        for token, row in zip(tokens, rows, strict=False):
            drafter.extend(token)
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
        started = time.perf_counter()
        drafts = drafter.propose(min(max_drafts, state.context - state.position - 1))
        timings.drafting_s += time.perf_counter() - started
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
