"""What a step is made of: feeds, one for each sequence that takes part. Answers are generators that yield them.

Knows states and token ids; does not know who runs a step, nor what its logits are for.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

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
    logits: which tokens' logits are wanted.
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
    logits: Literal["none", "last", "all"] = "last"
    noted: Sequence[int] = ()
    cancellable: bool = False
    divisible: bool = False
    block: bool = False
    contenders: Contenders | None = None

    @property
    def logit_rows(self) -> int:
        """Rows of logits that the step gives this feed."""
        return len(self.token_ids) if self.logits == "all" else int(self.logits == "last")

    def first(self, count: int) -> Feed:
        """The feed of the first `count` tokens: all of them, or without the logits of the last."""
        if count >= len(self.token_ids):
            return self
        logits: Literal["none", "all"] = "all" if self.logits == "all" else "none"
        noted = [n for n in self.noted if n < count]
        return replace(self, token_ids=self.token_ids[:count], logits=logits, noted=noted)


Steps = Generator[Feed, Logits, T]
"""What yields feeds and is sent the logits of each, float32 [logit_rows, vocab]; whoever runs it throws the error of a
step that failed."""


def run_alone(steps: Steps[T], run: Callable[[Sequence[Feed]], Sequence[Logits]]) -> T:
    """Run all steps one after the other, with nobody else's; what the generator returns."""
    try:
        feed = next(steps)
        while True:
            try:
                logits = run([feed])[0]
            except BaseException as error:
                feed = steps.throw(error)
            else:
                feed = steps.send(logits)
    except StopIteration as ended:
        value: T = ended.value
        return value
