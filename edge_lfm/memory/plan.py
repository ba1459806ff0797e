"""Every byte that a model takes, counted once: what `fit` tells is what loading does.

From a model's description and the sizes of its packed file: whether it fits into a budget, whole or with its experts
paged, with which context, and how many experts stay. Pure. Knows no files, and allocates nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge_lfm.devices.estimate import Demand
from edge_lfm.kernels.spec.layout import ACTIVATION_BYTES, GROUP
from edge_lfm.memory.budget import Budget
from edge_lfm.memory.caches import CacheSizes
from edge_lfm.memory.reader import READ_ALIGNMENT
from edge_lfm.memory.scratch import CHUNK, DRAFT_CHUNK, blocks_together, plan_scratch
from edge_lfm.shape import Drafter, Shape

PROCESS_BYTES = 128 << 20
"""Interpreter, packages, kernels and server: the demo model's process is 103 MiB after an answer, 113 after one that
followed a schema, of which 43 are llvmlite's library; 20 more for the server's packages are an estimate."""
VOCABULARY_BYTES = 1280
"""Of each id, in the tokenizer and in a grammar's tables: 74 MiB more for 65,536 ids than for 4,096."""
LOGIT_ROWS = 64
"""Rows of logits that one step gives at most, of drafts and of `Model.logits`."""
DEFAULT_CONTEXT = 32768
"""What the cards of LFM2 state; the configs' 128,000 is the positions' range."""
PAGED_CONTEXT = 4096
"""When experts are paged, every token of context takes memory from them: 20 KB a token in the 24B. Also the least that
a model is given by itself when memory is short."""
MIN_PARALLEL, MAX_PARALLEL = 4, 16
"""Answers at a time where none were asked for: four have a context of their own before it is made shorter, and further
ones take what memory is left."""
MAX_CACHE_BYTES = 2 << 30
RING_SLOTS = 16
"""Slots beyond what layers keep: two waves of reads, and more than any decode step misses in one layer."""


@dataclass(frozen=True)
class Wishes:
    """What was asked for; None: the plan decides. threads: that may run a step; chunk: tokens of a step at most.

    drafter: what drafts for the model; drafter_bytes: its file.
    """

    context: int | None = None
    kv_dtype: str = "float16"
    cache_bytes: int | None = None
    parallel: int | None = None
    threads: int = 1
    chunk: int = CHUNK
    drafter: Drafter | None = None
    drafter_bytes: int = 0


@dataclass(frozen=True)
class PagingPlan:
    """How a budget is spent when experts are paged."""

    keep: int  # experts that are kept, of all layers together
    slots: int
    fixed_bytes: int  # all but the slots
    slot_bytes: int
    floor_bytes: int  # the least budget: a step's experts of every layer, beside what is fixed
    experts: int  # of all layers together

    def changed(self, budget: Budget) -> PagingPlan:
        """The same with another budget, which cannot be larger than the first.

        Raises:
            DoesNotFitError: it is too small.
        """
        if budget.nbytes < self.floor_bytes:
            raise budget.refuse(
                self.floor_bytes, "more memory, a smaller --context, --kv-dtype int8, or a recipe with fewer bits"
            )
        ring = self.slots - self.keep
        keep = min(self.experts, (budget.nbytes - self.fixed_bytes) // self.slot_bytes - ring)
        return PagingPlan(keep, keep + ring, self.fixed_bytes, self.slot_bytes, self.floor_bytes, self.experts)


@dataclass(frozen=True)
class MemoryPlan:
    """How a model is loaded. needed_bytes: the least budget for it; paging: None, all of it stays in memory."""

    budget: Budget
    context: int
    parallel: int
    cache_bytes: int
    needed_bytes: int
    paging: PagingPlan | None

    @property
    def missing_bytes(self) -> int:
        """What the budget lacks; 0: the model fits."""
        return max(0, self.needed_bytes - self.budget.nbytes)

    @property
    def kept(self) -> float:
        """Share of the experts that stay in memory."""
        return self.paging.keep / self.paging.experts if self.paging else 1.0

    def check(self) -> None:
        """Go on only if the model fits.

        Raises:
            DoesNotFitError: it does not.
        """
        if self.paging is not None:
            self.paging.changed(self.budget)
        elif self.missing_bytes:
            raise self.budget.refuse(self.needed_bytes, "a smaller model or --context, or a recipe with fewer bits")


def plan_memory(shape: Shape, demand: Demand, budget: Budget, wishes: Wishes) -> MemoryPlan:
    """The whole model in memory if it fits, else with its experts paged, if it has any."""
    overhead, whole = overhead_bytes(shape, wishes), plan_whole(shape, demand.file_bytes, budget, wishes)
    if not whole.missing_bytes or not demand.experts:
        return whole
    context = wishes.context or min(PAGED_CONTEXT, shape.context)
    conversation = _conversation_bytes(shape, context, wishes)
    cache_bytes = conversation if wishes.cache_bytes is None else wishes.cache_bytes
    parallel = wishes.parallel or 1
    paging = plan_paging(demand, demand.trunk_bytes + overhead + conversation * parallel + cache_bytes, budget.nbytes)
    return MemoryPlan(budget, context, parallel, cache_bytes, paging.floor_bytes, paging)


def plan_whole(shape: Shape, file_bytes: int, budget: Budget, wishes: Wishes) -> MemoryPlan:
    """All weights in memory.

    Context and answers at a time are chosen, where they were not asked for, so that all fit into a stated budget. One
    that was not stated is no promise: at least four answers are made, and long conversations take what the machine has.
    """
    needed = file_bytes + overhead_bytes(shape, wishes)
    room = max(0, budget.nbytes - needed)
    cache_bytes = min(MAX_CACHE_BYTES, room // 4) if wishes.cache_bytes is None else wishes.cache_bytes
    context = wishes.context or min(DEFAULT_CONTEXT, shape.context)
    left = room - (room // 4 if wishes.cache_bytes is None else cache_bytes)
    if budget.stated and wishes.context is None:
        context = _longest_context(shape, context, left // (wishes.parallel or MIN_PARALLEL), wishes)
    conversation = _conversation_bytes(shape, context, wishes)
    least = 1 if budget.stated else MIN_PARALLEL
    parallel = wishes.parallel or max(least, min(MAX_PARALLEL, left // max(1, conversation)))
    if not budget.stated:
        return MemoryPlan(budget, context, parallel, cache_bytes, needed + (wishes.cache_bytes or 0), None)
    needed += conversation * parallel
    if wishes.cache_bytes is None:
        cache_bytes = max(0, min(cache_bytes, room - conversation * parallel))
    return MemoryPlan(budget, context, parallel, cache_bytes, needed + (wishes.cache_bytes or 0), None)


def plan_paging(demand: Demand, fixed_bytes: int, budget_bytes: int) -> PagingPlan:
    """Slots for experts from what the fixed parts leave; fewer than a step needs where the budget is too small."""
    slot_bytes = -(-demand.expert_bytes // READ_ALIGNMENT) * READ_ALIGNMENT
    ring, experts = min(RING_SLOTS, demand.experts), demand.experts * demand.moe_layers
    keep = max(0, min(experts, (budget_bytes - fixed_bytes) // slot_bytes - ring))
    floor = fixed_bytes + (ring + demand.moe_layers * demand.top_k) * slot_bytes
    return PagingPlan(keep, keep + ring, fixed_bytes, slot_bytes, floor, experts)


def overhead_bytes(shape: Shape, wishes: Wishes) -> int:
    """What a model takes beside its weights and its conversations."""
    scratch = plan_scratch(shape, wishes.chunk, wishes.threads)
    drafter_bytes = _drafter_bytes(wishes.drafter, wishes) if wishes.drafter is not None else 0
    return PROCESS_BYTES + (VOCABULARY_BYTES + 4 * LOGIT_ROWS) * shape.vocab + scratch.nbytes + drafter_bytes


def _drafter_bytes(drafter: Drafter, wishes: Wishes) -> int:
    """A drafter's file, the streams that it reads, what it computes in, and the logits of all who draft together."""
    body, cols = drafter.body, len(drafter.taps) * drafter.body.hidden
    scratch = plan_scratch(body, max(DRAFT_CHUNK, drafter.slots), wishes.threads, cols)
    rounded = DRAFT_CHUNK * (cols + cols // GROUP * ACTIVATION_BYTES)
    logit_rows = drafter.slots * min(blocks_together(drafter.slots), wishes.parallel or MAX_PARALLEL)
    return wishes.drafter_bytes + 4 * wishes.chunk * cols + rounded + scratch.nbytes + 4 * logit_rows * body.vocab


def _longest_context(shape: Shape, context: int, nbytes: int, wishes: Wishes) -> int:
    """The longest one up to `context` whose conversation takes so many bytes, in whole 1,024 tokens; at least the one
    that a model is given when memory is short."""
    lengths = [context, *range(context // 1024 * 1024, PAGED_CONTEXT, -1024)]
    fitting = (length for length in lengths if _conversation_bytes(shape, length, wishes) <= nbytes)
    return next(fitting, min(context, PAGED_CONTEXT))


def _conversation_bytes(shape: Shape, context: int, wishes: Wishes) -> int:
    """Keys and values of one conversation of so many tokens, a drafter's included, and the streams it has not read."""
    bodies, unread_bytes = [shape], 0
    if wishes.drafter is not None:
        bodies.append(wishes.drafter.body)
        unread_bytes = 4 * DRAFT_CHUNK * len(wishes.drafter.taps) * shape.hidden
    return unread_bytes + sum(CacheSizes(body, context, wishes.kv_dtype, wishes.chunk).nbytes for body in bodies)
