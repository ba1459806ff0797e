"""How the threads of a team meet and share work, inside compiled code.

Every thread runs the same step. Between phases they meet at `barrier`; within a phase they draw work
items from one counter with `claim`. The four words lie on cache lines of their own (`layout.SYNC_BYTES`).
"""

from numba import int64

from edge_lfm.kernels.lang.simd import (
    atomic_add,
    atomic_load,
    atomic_store,
    i64,
    kernel,
    pause,
    set_i64,
    smaller,
    yield_core,
)
from edge_lfm.kernels.spec.layout import ARRIVED, CONTEXT, COUNTER, ERROR, GENERATION, offsets

CTX = offsets(CONTEXT)
SPINS = 4000
"""Turns of the spin loop (about 20-50 us) before the thread gives its core away: a barrier takes 0.2 us
when all threads run, but 160 us when another process has taken a core."""


LONGEST_RUN = 64
"""Row tiles, 1.2 MB of int4 weights: about 50 us of one core, the most that a stolen core can hold up."""


@kernel
def barrier(ctx):
    """Wait for every thread; the last one to come resets the work counter."""
    threads = i64(ctx + CTX.threads)
    if threads == 1:
        set_i64(i64(ctx + CTX.sync) + COUNTER, int64(0))
        return
    sync = i64(ctx + CTX.sync)
    generation = atomic_load(sync + GENERATION)
    if atomic_add(sync + ARRIVED, int64(1)) == threads - 1:
        atomic_store(sync + COUNTER, int64(0))
        atomic_store(sync + ARRIVED, int64(0))
        atomic_store(sync + GENERATION, generation + 1)
        return
    turns = 0
    while atomic_load(sync + GENERATION) == generation:
        turns += 1
        if turns < SPINS:
            pause()
        else:
            yield_core()


@kernel
def claim(ctx, count):
    """The first of the next `count` work items of this phase."""
    if i64(ctx + CTX.threads) == 1:
        at = i64(ctx + CTX.sync) + COUNTER
        first = i64(at)
        set_i64(at, first + count)
        return first
    return atomic_add(i64(ctx + CTX.sync) + COUNTER, count)


@kernel
def claim_run(ctx, total):
    """(first, count): the next run of a phase's `total` items, a share of what is left.

    Long runs first, for memory is read fastest in long stretches; short ones last, so that the threads end
    together. Past the end, first >= total.
    """
    left = total - atomic_load(i64(ctx + CTX.sync) + COUNTER)
    count = int64(1)
    if left > 0:
        count += smaller(int64(LONGEST_RUN - 1), left // (i64(ctx + CTX.threads) * 2))
    return claim(ctx, count), count


@kernel
def raise_error(ctx, code):
    """Note that this step went wrong; Python reads the code after the step."""
    atomic_store(i64(ctx + CTX.sync) + ERROR, code)
