"""What runs steps: the base of the project's own kernels (`runner.py`) and of onnxruntime (`onnx_runner.py`).

One backend serves one model, one step at a time. Knows token ids and states; knows no text and no sampling.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from edge_lfm.config import ModelConfig
from edge_lfm.errors import UsageError
from edge_lfm.memory.budget import Budget
from edge_lfm.memory.paging import ExpertPager
from edge_lfm.model.state import State

Routing = Callable[[int, NDArray[np.int64]], "NDArray[np.int64] | None"]
"""`(layer, chosen experts [T, k]) -> None`, or, for a step of one token, other experts to take at the same weights."""


class Backend(ABC):
    """Runs steps of a model; a context manager. May be shared by threads: steps take turns."""

    config: ModelConfig
    chunk: int
    """Tokens of a step at most."""
    name: str
    """The ISA tier of the kernels, or the runtime, for people."""
    threads: int
    pager: ExpertPager | None = None
    """Brings experts into memory; None: all are there."""

    @abstractmethod
    def new_state(self, context: int, kv_dtype: str = "float16") -> State:
        """The state of an empty sequence."""

    @abstractmethod
    def run(
        self,
        token_ids: NDArray[np.int64],
        state: State,
        all_logits: bool = False,
        routing: Routing | None = None,
        noted: Sequence[int] = (),
        cancelled: Callable[[], bool] | None = None,
    ) -> NDArray[np.float32]:
        """Feed tokens [T], T <= chunk, to a state of this backend; logits [vocab] of the last, or [T, vocab] of all.

        `routing`: called with each layer that has experts and the chosen ones [T, k], in order of their score; what it
            gives replaces them (steps of one token).
        `noted`: tokens of this step after which `State.checkpoint_after` is wanted, each with those that its conv sees.
        `cancelled`: asked now and then; when it says yes, the step ends there.

        Raises:
            UsageError: a token id is not of this model, or the backend cannot tell the routing.
            ContextOverflowError: the state has no room for them.
            NumericalError: a NaN or an infinity appeared; the state must not be used further.
            CancelledError: the step was cancelled; the state must go back to a checkpoint.
        """

    @abstractmethod
    def close(self) -> None:
        """End the threads."""

    def read(self, token_ids: Sequence[int], state: State) -> NDArray[np.float32]:
        """Feed any number of tokens, in steps of `chunk`; the logits [vocab] of the last. Errors as in `run`."""
        ids = np.asarray(token_ids, np.int64)
        state.reserve(state.position + len(ids))
        for first in range(0, len(ids), self.chunk):
            logits = self.run(ids[first : first + self.chunk], state)
        return logits

    def change_budget(self, budget: Budget) -> None:
        """Spend less memory on experts, or again as much as at the start; waits for the step under way.

        Raises:
            UsageError: the experts of this model are not paged.
            DoesNotFitError: the budget is too small.
        """
        raise UsageError("the whole model is in memory", hint="load it with a budget (ram) to page its experts")

    def _check_ids(self, token_ids: NDArray[np.int64]) -> None:
        vocab = self.config.vocab_size
        if token_ids.size and not 0 <= int(token_ids.min()) <= int(token_ids.max()) < vocab:
            raise UsageError(f"token ids must be 0..{vocab - 1}", hint="does the tokenizer belong to this model?")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
