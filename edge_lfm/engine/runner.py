"""Running steps with the compiled kernels: a model that is wholly in memory, and a team of threads.

One runner serves one model, one step at a time. Knows feeds; knows no text and no sampling.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from edge_lfm.engine.backend import Backend, Routing
from edge_lfm.engine.draft_costs import StepTook
from edge_lfm.engine.draft_model import DraftModel
from edge_lfm.engine.draft_rounds import DraftRounds
from edge_lfm.engine.expert_use import ExpertUse
from edge_lfm.engine.feeds import DraftAsk, Drafts, Feed, Logits
from edge_lfm.engine.screening import missing_tiles
from edge_lfm.engine.step import Step
from edge_lfm.errors import CancelledError, ModelFileError, NumericalError
from edge_lfm.kernels.load.library import Kernels
from edge_lfm.kernels.load.team import Team
from edge_lfm.memory.faults import MapGuard
from edge_lfm.memory.scratch import CHUNK
from edge_lfm.model.binding import Binding, bind
from edge_lfm.model.packed_drafter import PackedDrafter
from edge_lfm.model.packed_model import PackedModel
from edge_lfm.model.state import State

_CANCELLABLE = 32
"""Rows from which a step is run layer by layer when it can be cancelled: 128 tokens of the 8B's shape then take 1 %
more time. A step of one token would lose more to the stops, and is over in 50 ms anyway."""


class Runner(Backend):
    """A model bound to kernels and a team.

    threads: the most that run a step; choose: how many run a step of so many rows now (default: all of them).
    binding: of the model, if it has been made already.
    """

    def __init__(
        self,
        model: PackedModel,
        kernels: Kernels,
        threads: int,
        chunk: int = CHUNK,
        binding: Binding | None = None,
        choose: Callable[[int], int] | None = None,
    ) -> None:
        self.model, self.kernels, self.chunk = model, kernels, chunk
        self.shape, self.name = model.shape, kernels.isa.name
        self.binding = binding or bind(model)
        self.expert_layers = list(model.shape.routers)
        self.stages = 2 + 3 * len(model.shape.layers)
        self.step = Step(model.shape, self.binding, chunk, threads)
        self.turn = threading.Lock()
        self._guard = MapGuard(kernels, *model.span)
        self.team = Team(threads)
        self._choose_threads = choose
        self.exact_tiles = 0
        """Of the head, 16 rows each, that screened steps have computed so far."""
        self._tapped: tuple[int, ...] = ()  # the layers whose streams the step under way is to show

    @property
    def threads(self) -> int:
        return self._threads_for(self.chunk)

    def new_state(self, context: int, kv_dtype: str = "float16") -> State:
        state = State(self.shape, context, kv_dtype, self.chunk)
        if self.drafting is not None:
            state.draft = self.drafting.model.new_cache(context, kv_dtype)
        return state

    def use_drafter(self, drafter: PackedDrafter) -> None:
        """Let a drafter look on; before any state is made."""
        threads = lambda: self.threads  # noqa: E731
        model = DraftModel(drafter, self.binding, self.kernels, self.team, self.chunk, threads)
        self.drafting = DraftRounds(model)

    def draft(self, asks: Sequence[DraftAsk], beside: Sequence[Feed]) -> list[Drafts]:
        if self.drafting is None:
            return super().draft(asks, beside)
        with self.turn:
            return self.drafting.make(asks, beside, self.took)

    def run(
        self,
        feeds: Sequence[Feed],
        routing: Routing | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> list[Logits]:
        self._check(feeds)
        with self.turn:
            for feed in feeds:
                feed.state.make_way(len(feed.token_ids))
                feed.state.note(feed.noted, len(feed.token_ids))
            self.binding.rotary.reserve(max(feed.state.capacity for feed in feeds))
            self.step.begin(feeds)
            self._tapped = self._taps_of(feeds)
            started = time.perf_counter()
            self.compute(routing, cancelled)
            computed = time.perf_counter()
            self._check_outcome()
            if self.step.screened:
                self._make_exact(feeds)
            asked = self.step.tokens * len(self.expert_layers) * self.shape.top_k
            self.experts += ExpertUse(asked, self.step.experts_read)
            if self._tapped and self.drafting is not None:
                self.drafting.model.look_on(feeds)
            self._note(feeds, computed - started, time.perf_counter() - computed)
            for feed in feeds:
                feed.state.position += len(feed.token_ids)
            return self.step.logits()

    def compute(self, routing: Routing | None, cancelled: Callable[[], bool] | None) -> None:
        """All stages of the step (`kernels/ops/forward.py`)."""
        if routing is not None:
            done = 0
            for n in self.expert_layers:
                check_cancelled(cancelled)
                self.run_stages(done, done := 2 + 3 * n)
                self.show_routing(n, routing)
            self.run_stages(done, self.stages)
        elif cancelled is not None and self.step.tokens >= _CANCELLABLE:
            for first in range(0, self.stages, 3):
                check_cancelled(cancelled)
                self.run_stages(first, min(first + 3, self.stages))
        else:
            self.run_stages(0, self.stages)

    def _make_exact(self, feeds: Sequence[Feed]) -> None:
        """The logits that matter, after a step whose logits are the screen's."""
        assert self.binding.screen is not None
        asked = [feed.contenders for feed in feeds if feed.logit_rows and feed.contenders is not None]
        for tiles in missing_tiles(self.step.logit_rows, self.step.input_norms, self.binding.screen.bounds, asked):
            self.step.ask_exact(tiles)
            self.run_stages(self.stages, self.stages + 1)
            self.exact_tiles += len(tiles)
        self._check_outcome()

    def run_stages(self, first: int, last: int) -> None:
        """Stages [first, last) of the step, by as many threads as pay for it: the bits are the same with any number.

        A tapped layer's stream is taken when it is whole, by the first thread: none changes it before this one has come
        to the next barrier.
        """
        address, forward, threads = self.step.address, self.kernels.forward, self._threads_for(self.step.tokens)
        taps = {4 + 3 * n: tap for tap, n in enumerate(self._tapped) if first < 4 + 3 * n <= last}
        parts = list(pairwise(sorted({first, *taps, last})))

        def work(thread: int) -> None:
            for start, end in parts:
                forward(address, thread, start, end)
                if thread == 0 and end in taps and self.drafting is not None:
                    self.drafting.model.take(taps[end], self.step.stream)

        self.step.run_on(threads)
        self.team.run(work, threads)

    def _taps_of(self, feeds: Sequence[Feed]) -> tuple[int, ...]:
        """The layers to tap, if a drafter looks on at one of the feeds: always, unless drafting is off, as it lost."""
        drafting, caches = self.drafting, [feed.state.draft for feed in feeds if feed.state.draft is not None]
        if drafting is None or not any(drafting.switch.looks_on or cache.wanted for cache in caches):
            return ()
        return drafting.model.drafter.taps

    def show_routing(self, n: int, routing: Routing) -> None:
        """Call `routing` with the experts that layer n has chosen, and take what it gives instead."""
        instead: NDArray[np.int64] | None = routing(n, self.step.chosen.copy())
        if instead is not None:
            self.step.take(instead, self.step.weights)

    def _threads_for(self, rows: int) -> int:
        return self.team.count if self._choose_threads is None else min(self.team.count, self._choose_threads(rows))

    def close(self) -> None:
        """End the threads."""
        self.team.close()
        self._guard.close()
        if self.drafting is not None:
            self.drafting.model.close()

    def _note(self, feeds: Sequence[Feed], step_s: float, read_s: float) -> None:
        """Take account of what a step took; of prompts it tells nothing about steps of answers."""
        self.took = StepTook(len(feeds), self.step.tokens, step_s, read_s)
        if self.drafting is not None and not any(feed.divisible for feed in feeds):
            self.drafting.switch.costs.note(self.step.tokens, step_s)

    def _check_outcome(self) -> None:
        if self._guard.lost_pages or (self.drafting is not None and self.drafting.model.lost_pages):
            raise ModelFileError(
                f"{self.model.folder}: the file was truncated, or its disk failed, while the model was in use",
                hint="check the file with edge-lfm verify, then load the model again",
            )
        if self.step.failed:
            raise NumericalError(
                "a NaN or an infinity appeared in the activations", hint="check the model with edge-lfm verify"
            )


def check_cancelled(cancelled: Callable[[], bool] | None) -> None:
    """End the step if it has been cancelled.

    Raises:
        CancelledError: it has.
    """
    if cancelled is not None and cancelled():
        raise CancelledError("the step was cancelled")
