"""Prefill and decode: token ids in, token ids out, one at a time, as generators of feeds. Knows no text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from edge_lfm.engine.backend import Backend
from edge_lfm.engine.expert_use import ExpertUse
from edge_lfm.engine.feeds import Logits, Steps
from edge_lfm.engine.sampling import Sampler
from edge_lfm.engine.sequence import TokenSequence, places_in
from edge_lfm.errors import ContextOverflowError, UsageError

PROGRESS_TOKENS = 64
"""Between two reports of progress at least: beside running answers, a step may read a few tokens only."""

Give = Callable[[int, Logits | None], bool]
"""Takes a token and the logits [vocab] that it was drawn from, None if there was no choice; whether to go on."""


@dataclass
class Timings:
    """Seconds and tokens of a prefill and of the decode after it.

    steps: of the decode; rows: of these steps, those of other sequences included.
    experts: of those steps that read no prompts.
    drafted, accepted: tokens that a drafter or prompt lookup proposed, and those that the model agreed with.
    drafting_s: of the decode, spent on proposing them.
    """

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    queued_s: float = 0.0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    steps: int = 0
    rows: int = 0
    experts: ExpertUse = field(default_factory=ExpertUse)
    drafted: int = 0
    accepted: int = 0
    drafting_s: float = 0.0

    @property
    def prefill_tps(self) -> float:
        """Prompt tokens that were computed, per second."""
        return (self.prompt_tokens - self.cached_tokens) / self.prefill_s if self.prefill_s else 0.0

    @property
    def decode_tps(self) -> float:
        """Generated tokens after the first, per second."""
        return max(0, self.completion_tokens - 1) / self.decode_s if self.decode_s else 0.0

    @property
    def rows_per_step(self) -> float:
        """Rows of a step of the decode, on average: 1 without company and drafts."""
        return self.rows / self.steps if self.steps else 0.0


def check_length(tokens: int, context: int) -> None:
    """Refuse a prompt that is empty or longer than the context.

    Raises:
        UsageError, ContextOverflowError: it is.
    """
    if not tokens:
        raise UsageError("the prompt is empty", hint="give at least one token", param="prompt")
    if tokens > context:
        raise ContextOverflowError(
            f"the prompt has {tokens} tokens, and the maximum context length is {context} tokens",
            hint="shorten the prompt, or load the model with a larger context",
            param="prompt",
        )


def prefill(
    runner: Backend,
    sequence: TokenSequence,
    token_ids: Sequence[int],
    turns: Sequence[int] = (),
    progress: Callable[[], object] = lambda: None,
) -> Steps[Logits]:
    """Feed the rest of a prompt, in each step what it has room for; returns the logits of the last token [vocab].

    Args:
        runner: whose steps they will be.
        token_ids: the whole prompt; the sequence has read some of it.
        turns: positions in it that the sequence shall be able to go back to, beside those of `places_in`.
        progress: called when it has been read, and now and then before.

    Raises:
        ContextOverflowError: it does not fit into the context.
        CancelledError: it was cancelled; the sequence holds what was fed until then.
    """
    check_length(len(token_ids), sequence.state.context)
    sequence.state.reserve(len(token_ids))
    places, shown_tokens = {*turns, *places_in(len(token_ids))}, len(sequence.ids)
    while (first := len(sequence.ids)) < len(token_ids):
        chunk = token_ids[first : first + runner.chunk]
        end = first + len(chunk)
        rows = yield from sequence.read(chunk, sorted(p for p in places if first < p <= end), end == len(token_ids))
        if len(sequence.ids) - shown_tokens >= PROGRESS_TOKENS or len(sequence.ids) == len(token_ids):
            shown_tokens = len(sequence.ids)
            progress()
    last: Logits = rows[0]
    return last


def decode(
    sequence: TokenSequence,
    logits: Logits,
    sampler: Sampler,
    stop_ids: Sequence[int],
    max_tokens: int,
    timings: Timings,
    give: Give,
    skip: bool = True,
    screened: bool = False,
) -> Steps[None]:
    """Generate until a stop token, `max_tokens`, or the end of the context.

    Every token given out but the last has been fed to the sequence. A stop token is given out too, as the last one.

    Args:
        logits: of the last token fed [vocab].
        give: takes each token.
        screened: `give` does without logits, so only those that the sampler may draw by need be exact.
        skip: tokens that a grammar leaves no choice about come without logits, and are fed as a prompt is.
    """
    state = sequence.state
    while True:
        tokens = [sampler.next(logits)]
        room = min(max_tokens - timings.completion_tokens, state.context - len(sequence.ids) + 1) - 1
        if skip and tokens[0] not in stop_ids:
            tokens += sampler.forced(room)
        for n, token in enumerate(tokens):
            timings.completion_tokens += 1
            if not give(token, None if n else logits):
                return
        if tokens[-1] in stop_ids or sampler.ended or len(tokens) > room:
            return
        if len(tokens) == 1:
            rows = yield from sequence.feed(tokens[0], sampler.contenders() if screened else None)
        else:
            rows = yield from sequence.read_all(tokens)
        logits = rows[0]
