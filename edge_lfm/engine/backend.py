"""What runs steps: the base of the project's own kernels (`runner.py`) and of onnxruntime (`onnx_runner.py`).

One backend serves one model, one step at a time, for any number of sequences. Knows feeds; knows no text and no
sampling.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from edge_lfm.engine.draft_costs import StepTook
from edge_lfm.engine.draft_rounds import DraftRounds
from edge_lfm.engine.expert_use import ExpertUse
from edge_lfm.engine.feeds import DraftAsk, Drafts, Feed, Logits, no_drafts
from edge_lfm.errors import UsageError
from edge_lfm.memory.budget import Budget
from edge_lfm.memory.paging import ExpertPager
from edge_lfm.model.state import State
from edge_lfm.shape import Shape

Routing = Callable[[int, NDArray[np.int64]], "NDArray[np.int64] | None"]
"""`(layer, chosen experts [T, k]) -> None`, or other experts [T, k] to take at the same weights."""


class Backend(ABC):
    """Runs steps of a model; a context manager. May be shared by threads: steps take turns."""

    shape: Shape
    chunk: int
    """Rows of a step at most."""
    name: str
    """The ISA tier of the kernels, or the runtime, for people."""
    pager: ExpertPager | None = None
    """Brings experts into memory; None: all are there."""
    experts = ExpertUse()
    """Of all steps so far; nothing where the backend cannot tell."""
    drafting: DraftRounds | None = None
    """Of a drafter that looks on; None: there is none."""
    took: StepTook = StepTook()
    """What the last step took."""

    @property
    @abstractmethod
    def threads(self) -> int:
        """How many run a step now."""

    @abstractmethod
    def new_state(self, context: int, kv_dtype: str = "float16") -> State:
        """The state of an empty sequence."""

    @abstractmethod
    def run(
        self,
        feeds: Sequence[Feed],
        routing: Routing | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> list[Logits]:
        """Run one step; the logits of each feed, float32 [logit_rows, vocab].

        A row's logits are the same, to the bit, whatever else is in the step.

        Args:
            feeds: of states of this backend, each of another one; at most `chunk` rows together.
            routing: called with each layer that has experts and those chosen by all rows [T, k], in order of their
                score; what it gives [T, k] replaces them, with the weights of those in their places.
            cancelled: asked now and then; when it says yes, the step ends there.

        Raises:
            UsageError: a token id is not of this model, a feed is empty or the step too large, a state is fed twice, or
                the backend cannot tell the routing.
            ContextOverflowError: a state has no room. Nothing has been fed.
            NumericalError: a NaN or an infinity appeared in one of the rows; none of the states must be used further.
            CancelledError: the step was cancelled; every state must go back to a checkpoint.
        """

    def draft(self, asks: Sequence[DraftAsk], beside: Sequence[Feed]) -> list[Drafts]:
        """Drafts for all who ask before one step, in one pass of the drafter; none where there is no drafter.

        beside: what answers that do not ask will feed in that step.
        """
        return no_drafts(asks, beside)

    @abstractmethod
    def close(self) -> None:
        """End the threads."""

    def read(self, token_ids: Sequence[int], state: State) -> NDArray[np.float32]:
        """Feed any number of tokens, in steps of `chunk`; the logits [vocab] of the last. Errors as in `run`."""
        ids = np.asarray(token_ids, np.int64)
        state.reserve(state.position + len(ids))
        for first in range(0, len(ids), self.chunk):
            part = ids[first : first + self.chunk]
            rows = self.run([Feed(state, part, "last" if first + len(part) == len(ids) else "none")])[0]
        last: Logits = rows[0]
        return last

    def change_budget(self, budget: Budget) -> None:
        """Spend less memory on experts, or again as much as at the start; waits for the step under way.

        Raises:
            UsageError: the experts of this model are not paged.
            DoesNotFitError: the budget is too small.
        """
        raise UsageError("the whole model is in memory", hint="load it with a budget (ram) to page its experts")

    def _check(self, feeds: Sequence[Feed]) -> None:
        """Refuse what `run` refuses, before anything is fed."""
        counts = [len(feed.token_ids) for feed in feeds]
        if not counts or min(counts) < 1 or sum(counts) > self.chunk:
            raise UsageError(f"a step of {sum(counts)} tokens", hint=f"feed 1..{self.chunk} of them at a time")
        if len({id(feed.state) for feed in feeds}) < len(feeds):
            raise UsageError("a state is fed twice in one step", hint="join its feeds")
        vocab = self.shape.vocab
        for feed, count in zip(feeds, counts, strict=True):
            ids = feed.token_ids
            low, high = (ids.min(), ids.max()) if isinstance(ids, np.ndarray) else (min(ids), max(ids))
            if not 0 <= low <= high < vocab:
                raise UsageError(f"token ids must be 0..{vocab - 1}", hint="does the tokenizer belong to this model?")
            feed.state.check_room(feed.state.position + count)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
