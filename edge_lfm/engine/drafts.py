"""Speculative decoding: a drafter proposes tokens, one step verifies them, and what the model disagrees with is undone.

A step gives each token the same logits, bit for bit, however many tokens it has, and a draft is accepted where it is
the token that the user's sampler draws. So the text is that of plain decoding, seeds included, whoever drafts. Knows
no drafter.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Protocol

from edge_lfm.engine.feeds import DraftAsk, Drafts, Logits, Steps
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

    def propose(self, count: int) -> list[int] | DraftAsk:
        """At most `count` tokens that may follow the last one; or what a drafter model is to be asked."""


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
    skip: bool = True,
) -> Steps[None]:
    """As `generate.decode`, with up to `max_drafts` drafts a step. The sequence never holds more than was given out."""
    state, rows = sequence.state, logits[None]
    drafts: list[int] = []
    before = state.checkpoint()
    while True:
        first = state.position - len(drafts)
        room = min(max_tokens - timings.completion_tokens, state.context - first + 1)
        drawn = _draw_along(rows, drafts, sampler, stop_ids, room, skip)
        agreed = _agreed([token for token, _ in drawn], drafts)
        timings.drafted += len(drafts)
        timings.accepted += agreed
        fed = min(agreed, len(drawn) - 1)  # the last token is always fed by the next step
        if fed < len(drafts):
            sequence.undo(state.checkpoint_after(before, fed + 1))
        for token, row in drawn:
            drafter.extend(token)
            timings.completion_tokens += 1
            if not give(token, row):
                return
        unfed = [token for token, _ in drawn[fed:]]
        if unfed[-1] in stop_ids or sampler.ended or len(drawn) == room:
            return
        if len(unfed) > 1:  # what a grammar forced
            drafts, rows = [], (yield from sequence.read_all(unfed))
            continue
        started = time.perf_counter()
        proposed = drafter.propose(min(max_drafts, state.context - state.position - 1))
        made = (yield proposed) if isinstance(proposed, DraftAsk) else Drafts(proposed, time.perf_counter() - started)
        drafts = made.token_ids
        timings.drafting_s += made.seconds
        before, rows = yield from sequence.draft([*unfed, *drafts])


def _draw_along(
    rows: Logits, drafts: list[int], sampler: Sampler, stop_ids: Sequence[int], room: int, skip: bool
) -> list[tuple[int, Logits | None]]:
    """Tokens and their logits, at most `room`: drawn along the rows as long as the drafts agree. What a grammar forces
    comes without logits where plain decoding skips it (`skip`): it takes no random number there either."""
    drawn: list[tuple[int, Logits | None]] = []
    until = time.monotonic() + MAX_SAMPLING_S
    while True:
        row = rows[len(drawn)]
        drawn.append((sampler.next(row), row))
        if skip and drawn[-1][0] not in stop_ids:
            drawn += [(token, None) for token in sampler.forced(room - len(drawn))]
        if drawn[-1][0] in stop_ids or sampler.ended or len(drawn) == room or time.monotonic() > until:
            return drawn
        if len(drawn) > len(drafts) or _agreed([token for token, _ in drawn], drafts) < len(drawn):
            return drawn


def _agreed(tokens: list[int], drafts: list[int]) -> int:
    """How many drafts are the tokens that came."""
    wrong = (n for n, (token, draft) in enumerate(zip(tokens, drafts, strict=False)) if token != draft)
    return next(wrong, min(len(tokens), len(drafts)))
