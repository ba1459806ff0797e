"""How likely each of several continuations of one prompt is: the prompt is read once, each continuation in one step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from edge_lfm.engine.backend import Backend
from edge_lfm.engine.generate import check_length, prefill
from edge_lfm.engine.sampling import token_logprobs
from edge_lfm.engine.sequence import TokenSequence


def score(
    runner: Backend,
    sequence: TokenSequence,
    prompt: Sequence[int],
    turns: Sequence[int],
    continuations: Sequence[Sequence[int]],
    vocab: int,
    cancelled: Callable[[], bool],
) -> Iterator[float | None]:
    """The log probability of each continuation after the prompt, in their order; None for each step of the prefill.

    Raises:
        ContextOverflowError: the prompt with a continuation does not fit.
    """
    longest = max(len(c) for c in continuations)
    check_length(len(prompt) + longest, sequence.state.context)
    steps = prefill(runner, sequence, prompt, turns, cancelled)
    while True:
        try:
            next(steps)
        except StopIteration as done:
            first = done.value
            break
        yield None
    here = sequence.state.checkpoint()
    for ids in continuations:
        total = token_logprobs(first, vocab, ids[0], 0).logprob
        if len(ids) > 1:
            rows = sequence.draft(runner, ids[:-1])
            sequence.undo(here)
            total += sum(token_logprobs(row, vocab, i, 0).logprob for row, i in zip(rows, ids[1:], strict=True))
        yield float(np.float64(total))
