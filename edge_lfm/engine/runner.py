"""Running steps: the context record of the compiled forward pass, its scratch memory and its threads.

One runner serves one model, one step at a time. Knows token ids and states; knows no text and no sampling.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_lfm.engine.backend import Backend, Routing
from edge_lfm.engine.cached_routing import choose_cached
from edge_lfm.engine.lookahead import Lookahead
from edge_lfm.errors import CancelledError, ModelFileError, NumericalError
from edge_lfm.kernels.load.library import Kernels
from edge_lfm.kernels.load.team import Team
from edge_lfm.kernels.spec.layout import CONTEXT, ERROR, SYNC_BYTES
from edge_lfm.memory.budget import Budget
from edge_lfm.memory.faults import MapGuard
from edge_lfm.memory.paging import ExpertPager
from edge_lfm.memory.scratch import CACHE_LINE, plan_scratch
from edge_lfm.model.binding import bind
from edge_lfm.model.packed_model import PackedModel
from edge_lfm.model.state import State

CHUNK = 512
"""Tokens of a prefill step. 512 give a 64-expert layer 32 tokens per expert, enough for its kernels to
be bound by arithmetic; the scratch memory grows with it (82 MB for the 24B, by its fields)."""

_CANCELLABLE = 32
"""Tokens from which a step is run layer by layer when it can be cancelled: 128 tokens of the 8B's shape then take 1 %
more time. A step of one token would lose more to the stops, and is over in 50 ms anyway."""


def _check(cancelled: Callable[[], bool]) -> None:
    if cancelled():
        raise CancelledError("the step was cancelled")


class Runner(Backend):
    """A model bound to kernels and a team."""

    def __init__(self, model: PackedModel, kernels: Kernels, threads: int, chunk: int = CHUNK) -> None:
        self.model, self.kernels, self.chunk = model, kernels, chunk
        self.config, self.name, self.threads = model.config, kernels.isa.name, threads
        self.lookahead: Lookahead | None = None
        """Guesses the next layer's experts, for the pager to read ahead; None: nothing is read on a guess."""
        self.cached_ratio: float | None = None
        """Of `cached_routing`, for steps of one token when experts are paged; None: the router's choice."""
        self.binding = bind(model)
        self._guard = MapGuard(kernels, *model.span)
        self.team = Team(threads)
        self._turn = threading.Lock()
        self._sync = np.zeros(SYNC_BYTES // 8, np.int64)
        self._context = np.zeros(1, CONTEXT)
        self._describe_model()
        self._make_scratch()
        self._logits = np.zeros((0, 0), np.float32)
        self.stages = 2 + 3 * model.config.num_hidden_layers

    def new_state(self, context: int, kv_dtype: str = "float16") -> State:
        return State(self.config, context, kv_dtype)

    def run(
        self,
        token_ids: NDArray[np.int64],
        state: State,
        all_logits: bool = False,
        routing: Routing | None = None,
        noted: Sequence[int] = (),
        cancelled: Callable[[], bool] | None = None,
    ) -> NDArray[np.float32]:
        self._check_ids(token_ids)
        with self._turn:
            state.note(noted, len(token_ids))
            self._prepare(token_ids, state, all_logits)
            self._present[:] = 1
            if routing is not None or self.pager is not None:
                self._run_by_layers(len(token_ids), routing, cancelled)
            elif cancelled is not None and len(token_ids) >= _CANCELLABLE:
                for first in range(0, self.stages, 3):
                    _check(cancelled)
                    self._run_stages(first, min(first + 3, self.stages))
            else:
                self._run_stages(0, self.stages)
            if self._guard.lost_pages:
                raise ModelFileError(
                    f"{self.model.folder}: the file was truncated, or its disk failed, while the model was in use",
                    hint="check the file with edge-lfm verify, then load the model again",
                )
            if self._sync[ERROR // 8]:
                raise NumericalError(
                    "a NaN or an infinity appeared in the activations",
                    hint="check the model with edge-lfm verify",
                )
            state.position += len(token_ids)
            logits = self._logits[:, : self.config.vocab_size]
            return logits[: len(token_ids)].copy() if all_logits else logits[0].copy()

    def _run_stages(self, first: int, last: int) -> None:
        address, forward = self._context.ctypes.data, self.kernels.forward
        self.team.run(lambda n: forward(address, n, first, last))

    def _run_by_layers(self, tokens: int, routing: Routing | None, cancelled: Callable[[], bool] | None) -> None:
        """All stages, with a stop after each choice of experts (stage 1 + 3n of layer n)."""
        config, done = self.model.config, 0
        started, stalled = time.perf_counter(), self.pager.stats.stall_s.sum() if self.pager else 0.0
        shown = self._chosen[: tokens * config.num_experts_per_tok].reshape(tokens, -1)
        paging: Iterator[int] = iter(())
        try:
            for n in range(config.num_hidden_layers):
                if not config.is_moe(n):
                    continue
                if cancelled is not None:
                    _check(cancelled)
                self._run_stages(done, 2 + 3 * n)
                done = 2 + 3 * n
                for _ in paging:  # the layer before is computed: its experts may be given up
                    pass
                instead = routing(n, shown.copy()) if routing is not None else None
                if instead is not None:
                    self._take(instead[0], self._chosen_weight[: instead.shape[1]])
                elif self.pager is not None and self.cached_ratio is not None and tokens == 1:
                    self._take(*self._cached_choice(self.pager, n, self.cached_ratio))
                if self.pager is not None:
                    paging = self._page(self.pager, n, shown)
                    done = next(paging)
            self._run_stages(done, self.stages)
            for _ in paging:
                pass
            if self.pager is not None and tokens == 1:
                self.pager.note_step(time.perf_counter() - started, self.pager.stats.stall_s.sum() - stalled)
        except BaseException:
            if self.pager is not None:
                self.pager.abandon()
            raise

    def _page(self, pager: ExpertPager, n: int, chosen: NDArray[np.int64]) -> Iterator[int]:
        """Compute what must be computed of layer n before all of its experts are there.

        Gives the first stage that is left to be run; goes on when that has been done.
        """
        gate_up, down, end = 2 + 3 * n, 3 + 3 * n, 4 + 3 * n
        for wave in pager.waves(n, chosen):
            if self.lookahead is not None and len(chosen) == 1 and pager.may_read_ahead:
                guess = self.lookahead.guess(n, self._x)
                if guess is not None:
                    pager.read_ahead(guess[0], guess[1].tolist())
            if wave.only and not wave.missing:
                yield gate_up
                continue
            if wave.ready:
                self._show(wave.ready)
                self._run_stages(gate_up, down)
            pager.wait(n, wave)
            self._show(wave.missing)
            self._run_stages(gate_up, down)
            if wave.only:
                self._present[:] = 1
                yield down
            else:
                self._show(wave.ready + wave.missing)
                self._run_stages(down, end)
        self._present[:] = 1
        yield end

    def _take(self, experts: NDArray[np.int64], weights: NDArray[np.float32]) -> None:
        """Route the one token of this step to other experts [k] with these weights [k]."""
        self._chosen[: len(experts)] = experts
        self._segments[:] = np.searchsorted(np.sort(experts), np.arange(len(self._segments)))
        self._pair_weight[: len(experts)] = weights[np.argsort(experts, kind="stable")]

    def _cached_choice(self, pager: ExpertPager, n: int, ratio: float) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """What `cached_routing` chooses for the one token of this step; the router's scores lie in its logits."""
        experts, bias = self.model.config.num_experts, f"model.layers.{n}.feed_forward.expert_bias"
        present = np.array([pager.residency.slot(n, e) is not None for e in range(experts)])
        biases = self.model.floats(bias) if self.model.has(bias) else None
        return choose_cached(self._scores[:experts], biases, present, ratio, self.model.config)

    def _show(self, experts: list[int]) -> None:
        """The experts that the next stages are to compute."""
        self._present[:] = 0
        self._present[experts] = 1

    def change_budget(self, budget: Budget) -> None:
        if self.pager is None:
            super().change_budget(budget)
            return
        config = self.model.config
        with self._turn:
            plan = self.pager.plan.changed(budget, config.num_experts, config.num_experts_per_tok)
            self.pager.resize(min(plan.keep, self.pager.plan.keep), min(plan.slots, self.pager.plan.slots))

    def close(self) -> None:
        """End the threads."""
        self.team.close()
        if self.pager is not None:
            self.pager.close()
        self._guard.close()

    def _describe_model(self) -> None:
        c, config, binding = self._context, self.model.config, self.binding
        c["layer_count"], c["layers"] = config.num_hidden_layers, binding.layers.ctypes.data
        c["hidden"] = config.hidden_size
        c["experts"], c["top_k"] = config.max_experts, max(1, config.num_experts_per_tok)
        c["embedding"], c["head"], c["final_norm"] = binding.embedding, binding.head, binding.final_norm.ctypes.data
        c["norm_eps"], c["route_scale"] = config.norm_eps, config.routed_scaling_factor
        c["normalize_routes"] = int(config.norm_topk_prob)

    def _make_scratch(self) -> None:
        """Zeroed buffers behind the scratch fields; the system gives their pages when they are first touched."""
        c, scratch, arrays = self._context, plan_scratch(self.config, self.chunk, self.threads), {}
        for buffer in scratch.buffers:
            whole = np.zeros(buffer.nbytes + CACHE_LINE, np.uint8)
            first = -whole.ctypes.data % CACHE_LINE
            array = whole[first : first + buffer.nbytes].view(buffer.dtype)
            arrays[buffer.field], c[buffer.field] = array, array.ctypes.data
        self._scratch: dict[str, NDArray[Any]] = arrays
        self._x = arrays["x"][: self.config.hidden_size]
        self._scores = arrays["router_logits"]
        self._chosen, self._chosen_weight = arrays["chosen"], arrays["chosen_weight"]
        self._segments, self._present = arrays["segments"], arrays["present"]
        self._pair_weight = arrays["pair_weight"]
        c["scratch_bytes"], c["threads"], c["sync"] = scratch.thread_bytes, self.threads, self._sync.ctypes.data

    def _prepare(self, token_ids: NDArray[np.int64], state: State, all_logits: bool) -> None:
        """Fill in the fields of one step."""
        assert 0 < len(token_ids) <= self.chunk
        c, tokens = self._context, len(token_ids)
        state.reserve(state.position + tokens)
        ids = np.ascontiguousarray(token_ids, np.int64)
        self._ids = ids  # kept until the next step
        rows = tokens if all_logits else 1
        width = -(-self.model.config.vocab_size // 16) * 16
        if len(self._logits) < rows:
            self._logits = np.zeros((rows, width), np.float32)
        self.binding.rotary.reserve(state.capacity)
        self._sync[:] = 0
        c["tokens"], c["token_ids"], c["position"] = tokens, ids.ctypes.data, state.position
        c["first_logit"] = 0 if all_logits else tokens - 1
        c["logits"], c["states"] = self._logits.ctypes.data, state.records.ctypes.data
        c["kv_int8"], c["noted"] = int(state.kv_int8), state.noted.ctypes.data if state.noted.size else 0
        c["capacity"] = state.capacity
