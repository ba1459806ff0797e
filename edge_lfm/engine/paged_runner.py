"""Running steps of a model whose experts are paged: layer by layer, and in each layer wave by wave.

After a layer has chosen its experts, those that are in memory are computed while the missing ones are read. What a
wave leaves to be computed when all of it is there runs with the next layer's first stages, in one call of the team.
Knows when experts are needed; decides neither which stay (`memory/policy.py`) nor how they come (`memory/paging.py`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_lfm.engine.backend import Routing
from edge_lfm.engine.cached_routing import choose_cached
from edge_lfm.engine.lookahead import Lookahead
from edge_lfm.engine.runner import Runner, check_cancelled
from edge_lfm.kernels.load.library import Kernels
from edge_lfm.memory.budget import Budget
from edge_lfm.memory.paging import ExpertPager, Wave
from edge_lfm.memory.ranking import read_ranking, write_ranking
from edge_lfm.memory.scratch import CHUNK
from edge_lfm.model.binding import Binding
from edge_lfm.model.packed_model import PackedModel


class PagedRunner(Runner):
    """A runner whose experts come through a pager.

    lookahead: guesses the next layer's experts, for the pager to read ahead; None: nothing is read on a guess.
    cached_ratio: of `cached_routing`, for steps of one row; None: the router's choice.
    ranking: where the use of experts is kept for the next start; None: nowhere.
    """

    pager: ExpertPager

    def __init__(
        self,
        model: PackedModel,
        binding: Binding,
        kernels: Kernels,
        threads: int,
        pager: ExpertPager,
        lookahead: Lookahead | None = None,
        cached_ratio: float | None = None,
        ranking: Path | None = None,
        chunk: int = CHUNK,
        choose: Callable[[int], int] | None = None,
    ) -> None:
        super().__init__(model, kernels, threads, chunk, binding, choose)
        self.pager, self.lookahead, self._cached_ratio, self._ranking = pager, lookahead, cached_ratio, ranking

    def begin(self) -> None:
        """Read what was worth most when the model was last used, until the first step comes."""
        residency = self.pager.residency
        if self._ranking is not None:
            layers, _, experts = residency.counters().shape
            counters = read_ranking(self._ranking, layers, experts)
            if counters is not None:
                residency.restore(counters)
                self.pager.read_early()

    def compute(self, routing: Routing | None, cancelled: Callable[[], bool] | None) -> None:
        started, stalled = time.perf_counter(), self.pager.stats.stall_s.sum()
        try:
            self._compute_layers(routing, cancelled)
        except BaseException:
            self.pager.abandon()
            raise
        if self.step.tokens == 1:
            self.pager.note_step(time.perf_counter() - started, self.pager.stats.stall_s.sum() - stalled)

    def _compute_layers(self, routing: Routing | None, cancelled: Callable[[], bool] | None) -> None:
        done = 0  # stages that have been run
        for n in self.expert_layers:
            check_cancelled(cancelled)
            self.run_stages(done, 2 + 3 * n)
            self.pager.finish_layer()
            self._choose(n, routing)
            done = 2 + 3 * n
            for wave in self.pager.start_layer(n, self.step.chosen):
                self._read_ahead(n)
                done = self._compute_wave(n, wave)
        self.run_stages(done, self.stages)
        self.pager.finish_layer()

    def _choose(self, n: int, routing: Routing | None) -> None:
        """Change the choice of experts in layer n, if somebody wants to."""
        if routing is not None:
            self.show_routing(n, routing)
        elif self._cached_ratio is not None and self.step.tokens == 1:
            chosen, weights = self._cached_choice(n, self._cached_ratio)
            self.step.take(chosen[None], weights[None])

    def _compute_wave(self, n: int, wave: Wave) -> int:
        """Compute what must be computed before the next wave may come; the first stage that is left to be run."""
        gate_up, down, end = 2 + 3 * n, 3 + 3 * n, 4 + 3 * n
        if wave.only and not wave.missing:
            return gate_up
        if wave.ready:
            self.step.show(wave.ready)
            self.run_stages(gate_up, down)
        self.pager.wait(n, wave)
        self.step.show(wave.missing)
        self.run_stages(gate_up, down)
        if wave.only:
            self.step.show_all()
            return down
        self.step.show(wave.ready + wave.missing)
        self.run_stages(down, end)
        self.step.show_all()
        self.pager.settle()
        return end

    def _read_ahead(self, n: int) -> None:
        if self.lookahead is not None and self.step.tokens == 1 and self.pager.may_read_ahead:
            guess = self.lookahead.guess(n, self.step.hidden)
            if guess is not None:
                self.pager.read_ahead(guess[0], guess[1].tolist())

    def _cached_choice(self, n: int, ratio: float) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """What `cached_routing` chooses for the one row of this step."""
        router, bias = self.shape.routers[n], f"model.layers.{n}.feed_forward.expert_bias"
        present = np.array([self.pager.residency.slot(n, e) is not None for e in range(router.experts)])
        biases = self.model.floats(bias) if router.selection_bias else None
        return choose_cached(self.step.scores, biases, present, ratio, router)

    def change_budget(self, budget: Budget) -> None:
        with self.turn:
            plan = self.pager.plan.changed(budget)
            self.pager.resize(min(plan.keep, self.pager.plan.keep), min(plan.slots, self.pager.plan.slots))

    def close(self) -> None:
        """End the threads and the reads under way."""
        self.team.close()
        self.pager.close()
        if self._ranking is not None and (counters := self.pager.residency.counters()).any():
            write_ranking(self._ranking, counters)
        super().close()
