"""Prefill and decode: token ids in, token ids out, one at a time, with timings. Knows no text."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_lfm.engine.runner import Runner
from edge_lfm.engine.sampling import Sampler
from edge_lfm.errors import ContextOverflowError, UsageError
from edge_lfm.model.state import State


@dataclass
class Timings:
    """Seconds and tokens of a prefill and of the decode after it."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
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
    runner: Runner, state: State, token_ids: Sequence[int], progress: Callable[[int, int], object] | None = None
) -> NDArray[np.float32]:
    """Feed a prompt in chunks; the logits of its last token [vocab]. `progress`: of tokens done, and of all.

    Raises:
        ContextOverflowError: it does not fit into the context.
    """
    check_length(state.position + len(token_ids), state.context)
    state.reserve(state.position + len(token_ids))
    ids = np.asarray(token_ids, np.int64)
    for first in range(0, len(ids), runner.chunk):
        chunk = ids[first : first + runner.chunk]
        logits = runner.run(chunk, state)
        if progress:
            progress(first + len(chunk), len(ids))
    return logits


def decode(
    runner: Runner,
    state: State,
    logits: NDArray[np.float32],
    sampler: Sampler,
    seen: list[int],
    stop_ids: Sequence[int],
    max_tokens: int,
    timings: Timings,
) -> Iterator[int]:
    """Generate until a stop token, `max_tokens`, or the end of the context; `seen` grows with each token.

    A stop token is given out too, as the last one. Every token given out but the last has been fed to the state.
    """
    for n in range(max_tokens):
        token = sampler.next(logits, seen)
        seen.append(token)
        timings.completion_tokens = n + 1
        yield token
        if token in stop_ids or n + 1 == max_tokens or state.position >= state.context:
            return
        started = time.perf_counter()
        logits = runner.run(np.array([token], np.int64), state)
        timings.decode_s += time.perf_counter() - started
