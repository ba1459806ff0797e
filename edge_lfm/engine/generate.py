"""Prefill and decode: token ids in, token ids out, one at a time, with timings. Knows no text."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_lfm.engine.backend import Backend
from edge_lfm.engine.sampling import Sampler
from edge_lfm.engine.sequence import TokenSequence
from edge_lfm.errors import ContextOverflowError, UsageError

SHARED_CHUNK = 128
"""Tokens of a prefill step while other answers wait for their turns. Paged models keep whole chunks: each reads
nearly every expert from the disk, whatever its length."""


@dataclass
class Timings:
    """Seconds and tokens of a prefill and of the decode after it."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    queued_s: float = 0.0
    prefill_s: float = 0.0
    decode_s: float = 0.0

    @property
    def prefill_tps(self) -> float:
        """Prompt tokens that were computed, per second."""
        return (self.prompt_tokens - self.cached_tokens) / self.prefill_s if self.prefill_s else 0.0

    @property
    def decode_tps(self) -> float:
        """Generated tokens after the first, per second."""
        return max(0, self.completion_tokens - 1) / self.decode_s if self.decode_s else 0.0


def check_length(tokens: int, context: int) -> None:
    """Refuse a prompt that is empty or longer than the context.

    Raises:
        UsageError, ContextOverflowError: it is.
    """
    if not tokens:
        raise UsageError("the prompt is empty", hint="give at least one token")
    if tokens > context:
        raise ContextOverflowError(
            f"the prompt has {tokens} tokens, the context {context}",
            hint="shorten the prompt, or load the model with a larger context",
        )


def prefill(
    runner: Backend,
    sequence: TokenSequence,
    token_ids: Sequence[int],
    turns: Sequence[int] = (),
    cancelled: Callable[[], bool] | None = None,
    alone: Callable[[], bool] = lambda: True,
) -> Generator[int, None, NDArray[np.float32]]:
    """Feed the rest of a prompt in chunks, one a step: yields the tokens fed; returns the logits of the last [vocab].

    Args:
        token_ids: the whole prompt; the sequence has read some of it.
        turns: positions in it that the sequence shall be able to go back to.
        cancelled: asked between the layers of a chunk.
        alone: whether no one else waits for a step; else chunks are shorter.

    Raises:
        ContextOverflowError: it does not fit into the context.
        CancelledError: it was cancelled; the sequence holds what was fed until then.
    """
    check_length(len(token_ids), sequence.state.context)
    sequence.state.reserve(len(token_ids))
    places = {*turns, len(token_ids) - 1}
    while (first := len(sequence.ids)) < len(token_ids):
        size = runner.chunk if alone() or runner.pager is not None else min(runner.chunk, SHARED_CHUNK)
        chunk = token_ids[first : first + size]
        here = sorted(p for p in places if first < p <= first + len(chunk))
        logits = sequence.feed(runner, chunk, here, cancelled=cancelled)
        yield len(chunk)
    return logits


def decode(
    runner: Backend,
    sequence: TokenSequence,
    logits: NDArray[np.float32],
    sampler: Sampler,
    stop_ids: Sequence[int],
    max_tokens: int,
    timings: Timings,
    skip: bool = True,
) -> Iterator[tuple[int, NDArray[np.float32] | None]]:
    """Generate until a stop token, `max_tokens`, or the end of the context: tokens, and the logits they were drawn
    from.

    A stop token is given out too, as the last one. Every token given out but the last has been fed to the sequence.
    `skip`: tokens that a grammar leaves no choice about come without logits, and are fed in one step.
    """
    state = sequence.state
    while True:
        given = [sampler.next(logits)]
        room = min(max_tokens - timings.completion_tokens, state.context - len(sequence.ids) + 1) - 1
        if skip and given[0] not in stop_ids:
            given += sampler.forced(room)
        for n, token in enumerate(given):
            timings.completion_tokens += 1
            yield token, None if n else logits
        if given[-1] in stop_ids or sampler.ended or len(given) > room:
            return
        started = time.perf_counter()
        logits = sequence.feed(runner, given)
        timings.decode_s += time.perf_counter() - started
