"""How likely an answer to a prompt is.

The prompt is read once for all answers; each begins with its last token anew, so that their steps are shared.
"""

from __future__ import annotations

from collections.abc import Sequence

from edge_lfm.engine.backend import Backend
from edge_lfm.engine.feeds import Steps
from edge_lfm.engine.generate import prefill
from edge_lfm.engine.sampling import token_logprobs
from edge_lfm.engine.sequence import TokenSequence
from edge_lfm.memory.plan import LOGIT_ROWS


def read_prompt(runner: Backend, sequence: TokenSequence, prompt: Sequence[int], turns: Sequence[int]) -> Steps[None]:
    """Read all of a prompt but its last token.

    Raises:
        ContextOverflowError: it does not fit.
    """
    if len(sequence.ids) < len(prompt) - 1:
        yield from prefill(runner, sequence, prompt[:-1], turns)


def score_answer(sequence: TokenSequence, last: int, answer: Sequence[int], vocab: int) -> Steps[float]:
    """The log probability of an answer behind a prompt that has been read but for its `last` token; it is undone then.

    Raises:
        ContextOverflowError: it does not fit.
    """
    sequence.state.check_room(len(sequence.ids) + len(answer))
    ids, start, total = [last, *answer[:-1]], sequence.state.checkpoint(), 0.0
    first = len(sequence.ids)
    while (done := len(sequence.ids) - first) < len(ids):
        _, rows = yield from sequence.draft(ids[done : done + LOGIT_ROWS], divisible=True)
        for row, token in zip(rows, answer[done:], strict=False):  # one by one: a sum of parts rounds otherwise
            total += token_logprobs(row, vocab, token, 0).logprob
    sequence.undo(start)
    return total
