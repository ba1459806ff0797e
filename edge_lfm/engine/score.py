"""How likely each of several continuations of one prompt is: the prompt is read once, each continuation in one step."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from edge_lfm.engine.backend import Backend
from edge_lfm.engine.feeds import Steps
from edge_lfm.engine.generate import check_length, prefill
from edge_lfm.engine.sampling import token_logprobs
from edge_lfm.engine.sequence import TokenSequence

_ROWS = 64
"""Tokens of a step, which gives all their logits: 16 MB at 65,536 entries."""


def score(
    runner: Backend,
    sequence: TokenSequence,
    prompt: Sequence[int],
    turns: Sequence[int],
    continuations: Sequence[Sequence[int]],
    vocab: int,
    give: Callable[[float], object],
) -> Steps[None]:
    """Give the log probability of each continuation after the prompt, in their order.

    Raises:
        ContextOverflowError: the prompt with a continuation does not fit.
    """
    longest = max(len(c) for c in continuations)
    check_length(len(prompt) + longest, sequence.state.context)
    first = yield from prefill(runner, sequence, prompt, turns)
    for ids in continuations:
        total = token_logprobs(first, vocab, ids[0], 0).logprob
        start = None
        for n in range(0, len(ids) - 1, _ROWS):
            before, rows = yield from sequence.draft(ids[n : min(n + _ROWS, len(ids) - 1)])
            start = start or before
            total += sum(token_logprobs(row, vocab, i, 0).logprob for row, i in zip(rows, ids[n + 1 :], strict=False))
        if start is not None:
            sequence.undo(start)
        give(float(np.float64(total)))
