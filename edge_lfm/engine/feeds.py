"""What a step is made of: feeds, one for each sequence that takes part. Answers are generators that yield them.

Before a step, an answer may ask for drafts. Knows states and token ids; does not know who runs a step, nor what its
logits are for.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from edge_lfm.model.state import State

T = TypeVar("T")
Logits = NDArray[np.float32]
Contenders = Callable[[Logits, Logits], NDArray[np.int64]]
"""`(least, most)`, of the logits [vocab] that a token may have: the tokens that the next one may depend on."""


@dataclass(frozen=True, eq=False)
class Feed:
    """The next tokens of one sequence.

    token_ids: at least one.
    logits: which tokens' logits are wanted; a number: the first so many.
    noted: the tokens (0 is the first of these) after which `State.checkpoint_after` will be asked for, each with those
        before it that the convolution sees.
    cancellable: whoever made this feed has a checkpoint, and goes back to it when the step is cancelled.
    divisible: whoever made it goes on from where the state is then, if only its first tokens were run.
    block: each token attends to all of them, those after it included.
    contenders: whoever made it needs the exact logits of these tokens only; of all others any within their bounds.
        None: all are exact. With logits of the last token.
    """

    state: State
    token_ids: Sequence[int] | NDArray[np.int64]
    logits: Literal["none", "last", "all"] | int = "last"
    noted: Sequence[int] = ()
    cancellable: bool = False
    divisible: bool = False
    block: bool = False
    contenders: Contenders | None = None

    @property
    def asked(self) -> range:
        """The tokens whose logits are wanted, 0 is the first of these."""
        count = len(self.token_ids)
        if isinstance(self.logits, int):
            return range(min(self.logits, count))
        return range({"none": count, "last": count - 1, "all": 0}[self.logits], count)

    @property
    def logit_rows(self) -> int:
        """Rows of logits that the step gives this feed."""
        return len(self.asked)

    def first(self, count: int) -> Feed:
        """The feed of the first `count` tokens: all of them, or without the logits of the last."""
        if count >= len(self.token_ids):
            return self
        logits: Literal["none", "all"] = "all" if self.logits == "all" else "none"
        noted = [n for n in self.noted if n < count]
        return replace(self, token_ids=self.token_ids[:count], logits=logits, noted=noted)


@dataclass(frozen=True, eq=False)
class DraftAsk:
    """What a drafter model is asked for before the next step of one sequence, in one pass with all others that ask.

    anchor: the newest token, which the model has not read yet.
    count: drafts at most; free: as many of them as pay. Else all, whatever they cost.
    gained: tokens that the sequence has gained since it asked last.
    """

    state: State
    anchor: int
    count: int
    free: bool
    gained: int


@dataclass(frozen=True)
class Drafts:
    """What was drafted for one who asked. seconds: that it took, for all who asked together."""

    token_ids: list[int] = field(default_factory=list)
    seconds: float = 0.0


Steps = Generator[Feed | DraftAsk, Any, T]
"""What yields feeds, and is sent the logits of each, float32 [logit_rows, vocab]; or asks for drafts, and is sent them.
Whoever runs it throws the error of a step that failed."""
Drafting = Callable[[Sequence[DraftAsk], Sequence[Feed]], Sequence[Drafts]]
"""`Backend.draft`."""


def no_drafts(asks: Sequence[DraftAsk], _beside: Sequence[Feed]) -> list[Drafts]:
    """For those who ask where nobody drafts."""
    return [Drafts() for _ in asks]


def run_alone(steps: Steps[T], run: Callable[[Sequence[Feed]], Sequence[Logits]], draft: Drafting = no_drafts) -> T:
    """Run all steps one after the other, with nobody else's; what the generator returns."""
    try:
        wanted = next(steps)
        while True:
            try:
                found = run([wanted])[0] if isinstance(wanted, Feed) else draft([wanted], [])[0]
            except BaseException as error:
                wanted = steps.throw(error)
            else:
                wanted = steps.send(found)
    except StopIteration as ended:
        value: T = ended.value
        return value
